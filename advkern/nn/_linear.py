"""The product with a layer's weight, by whichever kernel suits its size."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.ops.linear import linear as fused_linear

# Elements of the output from which on our kernel wins (a fresh output then costs page after page): below, torch's
# product is as fast, and its call is cheaper. Measured by benchmarks/bench_linear.py.
_WORTH = 1 << 20


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` with ``weight: [out, in]``."""
    eager = x.layout == torch.strided and not torch.compiler.is_compiling()  # a look at sizes would guard on them
    if eager and x.device.type == "cpu" and x.numel() // x.shape[-1] * weight.shape[0] >= _WORTH:
        return fused_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)
