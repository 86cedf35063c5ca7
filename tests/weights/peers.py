"""The libraries whose weights are converted; a test that needs one which is not there is skipped."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch

# torchvision looks these up when it is imported, also where its compiled part cannot be loaded: wheels at hand are for
# CUDA builds of torch. Nothing here calls them.
_LOOKED_UP = ("nms", "qnms")


@functools.cache
def torchvision():
    """torchvision's models."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in _LOOKED_UP:
        with contextlib.suppress(RuntimeError):  # defined already
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    models = _imported("torchvision.models")
    models.advkern_tests_library = library  # what it defines lives as long as it does
    return models


@functools.cache
def timm():
    """timm, which imports torchvision."""
    torchvision()
    return _imported("timm")


@functools.cache
def pyg():
    """PyTorch Geometric's modules."""
    return _imported("torch_geometric.nn")


def _imported(name):
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed")
