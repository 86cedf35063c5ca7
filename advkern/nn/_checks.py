"""What the modules' constructors check of their numbers."""

from __future__ import annotations

import math
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


def check_positive(name: str, value: Any) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")


def check_norm_eps(value: Any) -> None:
    """Raise unless ``value`` is a finite number of at least 0."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"norm_eps: expected a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"norm_eps: expected a finite number of at least 0, got {value}")
