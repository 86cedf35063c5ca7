"""The memory of one call, by torch's own record of what it allocates."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch


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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes of its start and stop to stderr
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate((bytes for _, bytes in changes), initial=0))
