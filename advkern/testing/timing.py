"""Timing that can be compared: all candidates in one run, interleaved."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_FEWEST = 3  # samples that are taken whatever they cost, if as many are asked for


def interleave(
    candidates: Mapping[str, Callable[[], Any]], *, rounds: int = 7, min_seconds: float = 0.0, budget: float = 12.0
) -> dict[str, list[float]]:
    """Time each candidate ``rounds`` times, one after the other in every round; return seconds a call.

    Rounds that would take more than ``budget`` seconds together are fewer, down to three, and for all candidates alike:
    the least of more samples is smaller. One shorter than ``min_seconds`` is called as often as fills that time, so
    that the clock's grain and the loop do not count. An untimed call goes before every sample: it finds the caches, and
    the free memory, as the candidate itself left them, as in a training loop, and not as its predecessor did.
    """
    repeats, seconds_a_round = {}, 1e-9
    for name, call in candidates.items():
        call()
        seconds = min(_seconds(call, 1) for _ in range(2))
        repeats[name] = max(1, round(min_seconds / max(seconds, 1e-9)))
        seconds_a_round += (1 + repeats[name]) * seconds
    rounds = min(rounds, max(_FEWEST, int(budget / seconds_a_round)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            call()
            samples[name].append(_seconds(call, repeats[name]))
    return samples


def _seconds(call: Callable[[], Any], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def peak_memory(code: str) -> int:
    """Run Python ``code`` in a fresh process; return the bytes by which its ``measured()`` raised the peak.

    ``code`` prepares its inputs and defines ``measured()``. The peak is VmHWM, reset after the inputs are there
    (Linux only). What is freed goes back to the system at once: left to itself, glibc keeps some freed blocks, more
    beside other work, and the figure was seen anywhere from 311 to 511 MB where 310 MB were alive.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    program = f"""
{code}
import os
import re
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark falls to what is resident now
before = status("VmRSS")
measured()
print(status("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"the measured program failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])
