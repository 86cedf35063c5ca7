"""``linear`` in plain PyTorch."""

import torch
from torch import Tensor


def linear(
    x: Tensor,  # [rows, in]
    weight: Tensor,  # [out, in]
    bias: Tensor | None = None,  # [out]
) -> Tensor:  # [rows, out]
    """``x W^T + b``."""
    return torch.nn.functional.linear(x, weight, bias)


def weight_gradient(
    grad: Tensor,  # [rows, out]
    x: Tensor,  # [rows, in]
) -> Tensor:  # [out, in]
    """``grad^T x``: the derivative of the product by its weight."""
    return grad.t() @ x
