"""What the ops' derivatives have in common: whether one is being taken at all, and the gradient of a bias."""

from __future__ import annotations

import torch
from torch import Tensor


def is_plain(*tensors: Tensor | None) -> bool:
    """No derivative of any kind is being taken: the op can be called without its Function."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return False
    return torch.autograd.forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()


def sum_of_rows(grad: Tensor, acc: torch.dtype) -> Tensor:  # [rows, channels] -> [channels]
    """The same on any number of threads: torch splits the sum of a single channel among them, never that of two."""
    channels = grad.shape[1]
    wide = grad.expand(-1, 2) if channels == 1 else grad
    return wide.sum(0, dtype=acc)[:channels]
