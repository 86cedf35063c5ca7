"""The memory of one call, by torch's own record of what it allocates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from operator import itemgetter
from typing import Any

import torch

_LOG_LEVEL = "KINETO_LOG_LEVEL"


def peak_allocated(call: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Return the bytes by which ``call`` raised what torch has allocated on ``device``, at its highest.

    On the CPU this is the running sum of the profiler's record of every allocation, so it is exact and repeatable, and
    whatever was there before does not count. What a library keeps outside of torch's allocator is not seen: for that,
    :func:`peak_memory` asks the system, of a process of its own.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # not torch.profiler: told to keep its events it makes a tree of them, which takes longer than most calls
    with _quiet(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        call()
    assert profile.kineto_results is not None  # only before the block
    events = profile.kineto_results.events()
    return _highest([(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler from writing of its start and stop to stderr, unless the user has set how much it writes."""
    if _LOG_LEVEL in os.environ:
        yield
        return
    os.environ[_LOG_LEVEL] = "99"
    try:
        yield
    finally:
        os.environ.pop(_LOG_LEVEL, None)


def _highest(changes: list[tuple[int, int]]) -> int:
    """The greatest running sum of ``(time, bytes)`` by time; what has one time stays in the order of the record."""
    return max(accumulate((bytes for _, bytes in sorted(changes, key=itemgetter(0))), initial=0))
