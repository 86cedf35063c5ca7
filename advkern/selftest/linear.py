"""``linear`` beside the dense product."""

from __future__ import annotations

import torch

from advkern.ops import linear
from advkern.selftest._case import Case, Draw


def cases(scale: int, device: torch.device) -> list[Case]:
    """Many rows and a small weight, as in graph layers."""
    draw, rows = Draw(device), 500 * scale
    tensors = {"x": draw.normal(rows, 128), "weight": draw.normal(64, 128), "bias": draw.normal(64)}
    return [Case("linear", tensors, linear, lambda x, weight, bias: x @ weight.mT + bias)]
