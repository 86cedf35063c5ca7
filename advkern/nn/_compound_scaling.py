"""Compound scaling: how EfficientNet's width, depth and resolution grow together, and what that costs."""

from __future__ import annotations

import functools
from typing import Any

import torch

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
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        model = EfficientNet(variant).eval()
        image = torch.empty(1, model.in_channels, model.resolution, model.resolution)
        with FlopCounterMode(display=False) as counter:
            model(image)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
