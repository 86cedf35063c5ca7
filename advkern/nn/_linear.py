"""The product with a layer's weight, by whichever kernel suits its size."""

from __future__ import annotations

import functools
from typing import TypeGuard

import torch
from torch import Tensor, nn

from advkern.nn._hooks import is_untouched
from advkern.ops.linear import linear as fused_linear

# From where on our kernel is used: multiplications that outweigh its dearer call, rows that outweigh the packing of the
# weight, and outputs that fill a vector. Measured on two cores, by benchmarks/bench_linear.py.
_WORTH, _LEAST_ROWS, _LEAST_OUTPUTS = 5 << 22, 256, 16
_KINDS = (Tensor, nn.Parameter)  # quantised and distributed weights are tensors of their own kind


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` with ``weight: [out, in]``."""
    eager = x.layout == torch.strided and not torch.compiler.is_compiling()  # a look at sizes would guard on them
    if eager and x.device.type == "cpu" and type(weight) in _KINDS and _pays(x, weight):
        return fused_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


def _pays(x: Tensor, weight: Tensor) -> bool:
    if x.dtype == torch.bfloat16 and _multiplies_bfloat16():
        return False
    outputs, inputs = weight.shape
    return x.numel() * outputs >= _WORTH and x.numel() >= _LEAST_ROWS * inputs and outputs >= _LEAST_OUTPUTS


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the processor multiplies it as it is: then torch lets it, and we would widen it."""
    return bool(torch.cpu._is_avx512_bf16_supported())


class LinearSequential(nn.Sequential):
    """``nn.Sequential`` whose linear layers are run by :func:`run_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers in their order."""
        for layer in self:
            x = run_linear(layer, x)
        return x


def run_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, by :func:`linear` where the layer is torch's own, as it was made, and nobody listens to it."""
    return linear(x, layer.weight, layer.bias) if is_plain_linear(layer) else layer(x)


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether :func:`linear` of its parameters is all that the layer does."""
    if torch.compiler.is_compiling():  # first: what follows would be guarded on
        return False
    return is_untouched(layer, nn.Linear) and type(layer.weight) in _KINDS
