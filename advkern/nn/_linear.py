"""The product with a layer's weight, by whichever kernel suits its size."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.ops.linear import linear as fused_linear

# From where on our kernel is used: multiplications that outweigh its dearer call, rows that outweigh the packing of the
# weight, and outputs that fill a vector. Measured by benchmarks/bench_linear.py.
_WORTH, _LEAST_ROWS, _LEAST_OUTPUTS = 1 << 24, 1024, 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` with ``weight: [out, in]``."""
    eager = x.layout == torch.strided and not torch.compiler.is_compiling()  # a look at sizes would guard on them
    if eager and x.device.type == "cpu" and _pays(x, weight):
        return fused_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


def _pays(x: Tensor, weight: Tensor) -> bool:
    outputs, inputs = weight.shape
    return x.numel() * outputs >= _WORTH and x.numel() >= _LEAST_ROWS * inputs and outputs >= _LEAST_OUTPUTS
