"""What ``import advkern`` may not do: build, print, pull in what is not needed, or take long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("triton", "networkx", "matplotlib", "scipy", "sklearn", "tqdm", "rich", "einops", "torch_geometric")

# sys.addaudithook sees every process started and every file opened for writing
WATCHED = """
import json, sys, time
start = time.perf_counter()
import torch
torch_seconds, before = time.perf_counter() - start, set(sys.modules)
events = []
def watch(event, args):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
        events.append(event)
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wxa+"):
        events.append(f"open {args[0]}")
sys.addaudithook(watch)
start = time.perf_counter()
import advkern
seconds = time.perf_counter() - start
new = sorted(set(sys.modules) - before)
print(json.dumps({"torch": torch_seconds, "advkern": seconds, "events": events, "new": new}))
"""


def import_once() -> dict:
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error::UserWarning", "-c", WATCHED], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1, "import advkern printed something"
    return json.loads(done.stdout)


def test_import_starts_nothing_writes_nothing_prints_nothing():
    assert import_once()["events"] == []


@pytest.mark.parametrize("module", HEAVY)
def test_import_leaves_heavy_libraries_alone(module):
    assert module not in {name.partition(".")[0] for name in import_once()["new"]}


def test_import_is_quick_beside_torch():
    """At most 15 % on top of ``import torch``; the best of three, since a busy machine slows either."""
    runs = [import_once() for _ in range(3)]
    assert min(run["advkern"] / run["torch"] for run in runs) < 0.15
