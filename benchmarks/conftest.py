"""The benchmarks' harness: every candidate of a workload interleaved in one run, its error beside its time.

Results go to ``benchmarks/results/<machine>/<file>.json``, one file a benchmark file, rewritten row by row.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import advkern
from advkern.testing import interleave

RESULTS = Path(__file__).parent / "results"
HUGE_PAGES = os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"  # torch's own switch; peers are measured with and without


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="few rounds and nothing written: does it run at all?")


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    """Run at one and at two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def compare(request, benchmark, keep_row):
    """``compare(candidates, exact, **facts)``: check each candidate, time all interleaved, keep the row."""

    def run(
        candidates: dict[str, Callable[[], Any]],
        exact: Callable[[], torch.Tensor] | None = None,
        error: Callable[[Any, Any], float] | None = None,
        tolerance: float = 1e-5,
        rounds: int = 7,
        **facts: Any,
    ) -> None:
        errors = {}
        if exact is not None:
            truth = exact()
            errors = {name: (error or relative_error)(call(), truth) for name, call in candidates.items()}
            assert all(e <= tolerance for e in errors.values()), f"a wrong answer is not timed: {errors}"
        quick = request.config.getoption("quick")
        samples = interleave(candidates, rounds=2 if quick else rounds, min_seconds=0.0 if quick else 0.01)
        first = next(iter(candidates))
        benchmark.pedantic(candidates[first], rounds=1, iterations=1)  # its own table wants a number of its own
        row = facts | {"errors": errors, "samples_ms": {k: [round(1e3 * s, 5) for s in v] for k, v in samples.items()}}
        least = {name: min(s) for name, s in samples.items()}  # the least disturbed sample of each
        row["ratios"] = {name: round(seconds / least[first], 3) for name, seconds in least.items()}
        benchmark.extra_info.update(row)
        keep_row(row)

    return run


@pytest.fixture
def keep_row(request):
    """``keep_row(row)``: write a row of results under the test's name, unless this is a quick run."""

    def run(row: dict[str, Any]) -> None:
        if not request.config.getoption("quick"):
            keep(Path(request.node.path).stem.removeprefix("bench_"), request.node.name, row)

    return run


def relative_error(
    actual: torch.Tensor | tuple[torch.Tensor, ...], exact: torch.Tensor | tuple[torch.Tensor, ...]
) -> float:
    """The largest error over all results, each relative to its own largest value."""
    pairs = zip(actual, exact, strict=True) if isinstance(actual, tuple) else [(actual, exact)]
    return max(float((a.double() - e.double()).abs().max() / e.double().abs().max()) for a, e in pairs)


def keep(name: str, test: str, row: dict[str, Any]) -> None:
    """Write the row into the results of this machine, in place of an earlier one of the same test."""
    path = RESULTS / machine() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.is_file() else {"rows": {}}
    results["machine"] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "isa": advkern.backend.COMPILED.facts.get("isa"),
        "torch": torch.__version__,
        "advkern": advkern.__version__,
    }
    results["rows"][test + ("[huge_pages]" if HUGE_PAGES else "")] = row | {
        "peers_huge_pages": HUGE_PAGES,
        "processor": processor(),
    }
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def machine() -> str:
    """A folder name for this machine: processor and cores."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_name()} {os.cpu_count()} cores".lower()).strip("-")


def processor() -> str:
    """Family and model: under one name, a virtual machine may wake up on processors of different speed."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    found = {key: re.search(rf"^{key}\s*:\s*(\d+)", text, re.MULTILINE) for key in ("cpu family", "model")}
    return ", ".join(f"{key} {match[1]}" for key, match in found.items() if match)


def cpu_name() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", path.read_text()) if path.is_file() else []
    return names[0] if names else "unknown processor"
