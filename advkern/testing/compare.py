"""The one comparison rule: a kernel may err at most twice as much as plain PyTorch in the same type."""

from __future__ import annotations

import torch
from torch import Tensor

_ALLOWED = 2.0  # times the error of plain PyTorch
_FLOOR = 8.0  # eps of the type, times the sum of the terms' magnitudes


def mismatch(
    actual: Tensor,  # the kernel's, in its own type
    exact: Tensor,  # float64
    yardstick: Tensor,  # plain PyTorch's, in the kernel's own type
    magnitude: Tensor | float,  # the sum of the magnitudes of the terms, elementwise or its maximum
    name: str = "result",
) -> str | None:
    """Return what breaks ``|actual - exact| <= 2 max|yardstick - exact| + 8 eps magnitude``, or None if it holds.

    The yardstick itself must be finite. After Dao et al. 2022 (arXiv:2205.14135), whose tests hold a kernel to twice
    the error of its plain form.
    """
    if actual.shape != exact.shape:
        return f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    if actual.dtype != yardstick.dtype:
        return f"{name}: type {actual.dtype}, expected {yardstick.dtype}"
    if exact.dtype != torch.float64:
        return f"{name}: the exact value must be float64, got {exact.dtype}"
    if not (torch.isfinite(yardstick).all() and torch.isfinite(exact).all()):
        return f"{name}: the yardstick is not finite"
    if actual.numel() == 0:
        return None
    error = (actual.double() - exact).abs()
    plain = (yardstick.double() - exact).abs().max()
    allowed = _ALLOWED * plain + _FLOOR * torch.finfo(actual.dtype).eps * magnitude
    if (error - allowed).max() <= 0:  # NaN is none of it
        return None
    return (
        f"{name}: error {float(error.max()):.3g}, allowed {float(torch.as_tensor(allowed).max()):.3g} "
        f"(plain PyTorch errs by {float(plain):.3g})"
    )


def assert_matches(
    actual: Tensor, exact: Tensor, yardstick: Tensor, magnitude: Tensor | float, name: str = "result"
) -> None:
    """Assert that there is no :func:`mismatch`."""
    problem = mismatch(actual, exact, yardstick, magnitude, name)
    assert problem is None, problem
