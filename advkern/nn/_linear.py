"""The product with a layer's weight, by whichever kernel suits its size."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.ops.linear import linear as fused_linear

# Multiplications from which on our kernel wins, the gradients included: below, its dearer call outweighs what it gains.
# Measured by benchmarks/bench_linear.py, on both sides.
_WORTH = 1 << 24


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` with ``weight: [out, in]``."""
    eager = x.layout == torch.strided and not torch.compiler.is_compiling()  # a look at sizes would guard on them
    if eager and x.device.type == "cpu" and x.numel() * weight.shape[0] >= _WORTH:
        return fused_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)
