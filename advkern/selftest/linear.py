"""``linear`` beside the product and the sum."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.ops import linear
from advkern.selftest._case import Case, Draw


def cases(scale: int, device: torch.device) -> list[Case]:
    """Many rows and a small weight, of no round sizes."""
    draw = Draw(device)
    tensors = {
        "x": draw.normal(300 * scale, 65),
        "weight": draw.normal(33, 65, scale=65**-0.5),
        "bias": draw.normal(33),
    }

    def formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x @ weight.T + bias

    return [Case("linear", tensors, linear, formula)]
