"""What the modules' constructors check of sizes and probabilities."""

from __future__ import annotations

from typing import Any


def check_size(name: str, size: Any) -> None:
    """Raise unless ``size`` is an integer of at least 1."""
    if not hasattr(size, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {size!r}")
    if size < 1:
        lazy = " (lazy sizes are not supported)" if size == -1 else ""
        raise ValueError(f"{name}: expected a size of at least 1{lazy}, got {size}")


def check_probability(name: str, p: Any) -> None:
    """Raise unless ``p`` is a number in ``[0, 1]``."""
    if not isinstance(p, (int, float)):
        raise TypeError(f"{name}: expected a number, got {p!r}")
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability in [0, 1], got {p}")
