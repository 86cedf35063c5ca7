"""The one comparison rule: a kernel may err at most twice as much as plain PyTorch in the same type."""

from __future__ import annotations

import torch
from torch import Tensor

_ALLOWED = 2.0  # times the error of plain PyTorch
_FLOOR = 8.0  # eps of the type, times the sum of the terms' magnitudes


def assert_matches(
    actual: Tensor,  # the kernel's, in its own type
    exact: Tensor,  # float64
    yardstick: Tensor,  # plain PyTorch's, in the kernel's own type
    magnitude: Tensor | float,  # the sum of the magnitudes of the terms, elementwise or its maximum
    name: str = "result",
) -> None:
    """Assert ``|actual - exact| <= 2 max|yardstick - exact| + 8 eps magnitude``, and that the yardstick is finite.

    After Dao et al. 2022 (arXiv:2205.14135), whose tests hold a kernel to twice the error of its plain form.
    """
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert actual.dtype == yardstick.dtype, f"{name}: type {actual.dtype}, expected {yardstick.dtype}"
    assert exact.dtype == torch.float64, f"{name}: the exact value must be float64, got {exact.dtype}"
    assert torch.isfinite(yardstick).all() and torch.isfinite(exact).all(), f"{name}: the yardstick is not finite"
    if actual.numel() == 0:
        return
    error = (actual.double() - exact).abs()
    allowed = _ALLOWED * (yardstick.double() - exact).abs().max() + _FLOOR * torch.finfo(actual.dtype).eps * magnitude
    worst = (error - allowed).max()
    assert worst <= 0, (  # NaN fails too
        f"{name}: error {float(error.max()):.3g}, allowed {float(torch.as_tensor(allowed).max()):.3g} "
        f"(plain PyTorch errs by {float((yardstick.double() - exact).abs().max()):.3g})"
    )
