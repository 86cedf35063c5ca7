"""The libraries that ours is tested and measured beside."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


def import_peer(name: str) -> ModuleType:
    """Import a module of a library; torchvision, which timm imports, also beside a torch that it was not built for."""
    if name.partition(".")[0] in ("timm", "torchvision"):
        _import_torchvision()
    return importlib.import_module(name)


def optional_peer(name: str) -> ModuleType | None:
    """The same, or None where it is not installed."""
    try:
        return import_peer(name)
    except ImportError:
        return None


def _import_torchvision() -> None:
    """Its compiled ops cannot be loaded there. Models do without; the import alone asks for the schemas of two."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
