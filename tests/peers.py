"""The libraries whose models and weights are converted; a test that needs one which is not there is skipped."""

from __future__ import annotations

import functools

import pytest

from advkern.testing.peers import import_peer


def torchvision():
    """torchvision's models."""
    return _imported("torchvision.models")


def timm():
    """timm."""
    return _imported("timm")


def pyg():
    """PyTorch Geometric's modules."""
    return _imported("torch_geometric.nn")


@functools.cache
def _imported(name):
    try:
        return import_peer(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
