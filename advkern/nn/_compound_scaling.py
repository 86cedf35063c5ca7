"""Compound scaling: how EfficientNet's width, depth and resolution grow together, and what that costs."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import nn

from advkern.nn._mbconv import SqueezeExcite
from advkern.nn.efficientnet import VARIANTS, EfficientNet, find_variant

# name -> (width, depth, resolution) in multiples of B0's; the tutorial's, whose resolutions are rounded
efficientnet_configs = {
    "B0": (1.0, 1.0, 1.0),
    "B1": (1.0, 1.1, 1.15),
    "B2": (1.1, 1.2, 1.3),
    "B3": (1.2, 1.4, 1.5),
    "B4": (1.4, 1.8, 1.8),
    "B5": (1.6, 2.2, 2.1),
    "B6": (1.8, 2.6, 2.4),
    "B7": (2.0, 3.1, 2.7),
}


def calculate_scaled_params(width_mult: float, depth_mult: float, resolution_mult: float) -> dict[str, Any]:
    """The tutorial's estimate: ``{"width", "depth", "resolution", "relative_params"}``.

    ``relative_params`` is width x depth x resolution^2, whereas parameters grow about as width^2 x depth and do not
    know the resolution (B7: 45 here, 12.5 in truth): :func:`compound_scaling` counts them.
    """
    base = VARIANTS["b0"].resolution
    resolution = int(base * resolution_mult)
    return {
        "width": 1.0 * width_mult,
        "depth": 1.0 * depth_mult,
        "resolution": resolution,
        "relative_params": 1.0 * width_mult * depth_mult * (resolution / base) ** 2,
    }


def compound_scaling(variant: str) -> dict[str, Any]:
    """Count what a variant of EfficientNet has and costs, on the built network.

    Args:
        variant: "b0" ... "b7".

    Returns:
        ``width`` and ``depth`` in multiples of B0's, ``resolution`` in pixels, ``params``, ``flops`` of one image in
        multiply-adds as the paper counts them (0.39 G for B0), ``relative_params`` and ``relative_flops`` in
        multiples of B0's.

    Raises:
        ValueError: an unknown variant.

    Tan and Le 2019, arXiv:1905.11946, table 2.
    """
    name, config = find_variant(variant)
    (params, flops), (base_params, base_flops) = _counts(name), _counts("b0")
    return {
        "width": config.width,
        "depth": config.depth,
        "resolution": config.resolution,
        "params": params,
        "flops": flops,
        "relative_params": params / base_params,
        "relative_flops": flops / base_flops,
    }


@functools.cache
def _counts(variant: str) -> tuple[int, int]:
    """Parameters and multiply-adds of one image, of the network on the meta device."""
    with torch.device("meta"):
        model = EfficientNet(variant)
    return sum(p.numel() for p in model.parameters()), _multiply_adds(model)


def _multiply_adds(model: EfficientNet) -> int:
    """A weight works once a pixel of what its layer gives, and once an image behind a mean over the image."""
    squeezes = [module for module in model.modules() if isinstance(module, SqueezeExcite)]
    squeezed = {layer for squeeze in squeezes for layer in squeeze.children()}
    total, side = 0, model.resolution
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer not in squeezed:
            side = math.ceil(side / layer.stride[0])
            total += side**2 * layer.weight.numel()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            total += layer.weight.numel()
    return total
