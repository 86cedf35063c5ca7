"""What a row of docs/differences.md is: it is called with the tutorial's classes and with ours, and says what it found.

A row's docstring is its first cell and, after an empty line, its remark. An error is a finding too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Row = Callable[[Any], str]
TABLES: dict[str, list[Row]] = {}
TIMED: set[Row] = set()  # rows of time and memory, which no second run repeats exactly


def rows_of(title: str) -> Callable[[Row], Row]:
    """Put a row into the table of that title."""

    def add(row: Row) -> Row:
        TABLES.setdefault(title, []).append(row)
        return row

    return add


def timed(row: Row) -> Row:
    """Mark a row of time and memory."""
    TIMED.add(row)
    return row


class Watch(TorchDispatchMode):
    """The operators that run inside the ``with``: name and shape of the (first) result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one operator."""
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        if isinstance(first, Tensor):
            self.seen.append((func._schema.name, tuple(first.shape)))
        return out


def sums(maps: Tensor) -> str:
    """The least and the greatest sum of a row."""
    total = maps.detach().sum(-1)
    return f"rows sum to {total.min():.1f} ... {total.max():.1f}"


def works(call: Callable[[], Any]) -> bool:
    """Whether a call goes through."""
    try:
        call()
    except Exception:
        return False
    return True


def refusal(build: Callable[[], Any], call: Callable[[Any], Any]) -> str:
    """Where an error comes, if it does: in the constructor or in the call."""
    where = "constructor"
    try:
        model = build()
        where = "call"
        call(model)
    except Exception as error:
        return f"{type(error).__name__} in the {where}"
    return "accepted"
