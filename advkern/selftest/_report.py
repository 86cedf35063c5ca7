"""What the self-test found, as a table to read or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch

from advkern import backend
from advkern._text import aligned
from advkern._version import __version__


@dataclass(frozen=True)
class Row:
    """One case of an op on one backend; None where there is nothing to tell."""

    op: str
    case: str
    backend: str
    device: str
    dtypes: tuple[str, ...]  # all of which were compared with float64
    error: float | None  # of the output in float32, the largest
    eager_error: float | None  # the same of plain PyTorch
    gradient_error: float | None  # of all gradients in float32, the largest
    same_bits: bool | None  # run after run and on 1, 2 and 3 threads
    seconds: float | None  # forward and backward in float32, or the whole call where there is no gradient
    eager_seconds: float | None  # the same on the backend "torch"; None on that itself
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All rows, the backends that cannot run here with their reasons, and how long it took."""

    rows: tuple[Row, ...]
    absent: dict[str, dict[str, str]]  # op -> backend -> reason
    seconds: float

    @property
    def failures(self) -> tuple[str, ...]:
        """Every failure by op, backend, type and result."""
        return tuple(f"{row.case} on {row.backend}, {what}" for row in self.rows for what in row.failures)

    @property
    def passed(self) -> bool:
        """Whether something was tested and nothing failed."""
        return bool(self.rows) and not self.failures


_HEADER = ("case", "backend", "types", "error", "eager's", "gradients'", "same bits", "ms", "eager / it", "result")
_SHORT = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16", "int64": "i64"}


def as_json(report: Report) -> str:
    """Everything, with what it was measured on."""
    facts = {
        "version": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "isa": backend.COMPILED.facts.get("isas", [])[:1],
        "passed": report.passed,
        "seconds": report.seconds,
        "rows": [asdict(row) for row in report.rows],
        "absent": report.absent,
        "failures": report.failures,
    }
    return json.dumps(facts, indent=2)


def as_text(report: Report) -> str:
    """The table, what its columns are, what could not run and what failed."""
    lines = [aligned(_HEADER, [_cells(row) for row in report.rows], left=3), "", _LEGEND, ""]
    for (name, reason), ops in _by_reason(report.absent).items():
        lines.append(f"Not tested on {name}: {', '.join(ops)}: {reason}")
    lines += [f"FAILED: {failure}" for failure in report.failures]
    verdict = "passed" if report.passed else f"{len(report.failures)} failures in"
    return "\n".join([*lines, f"{verdict} {len(report.rows)} rows in {report.seconds:.0f} s"])


_LEGEND = """\
Error: the largest of the output in float32 against float64; eager's: plain PyTorch's own. All types and gradients are
held to twice the error of plain PyTorch. Same bits: run after run, on 1, 2 and 3 threads; plain PyTorch promises none.
ms: forward and backward in float32."""


def _by_reason(absent: dict[str, dict[str, str]]) -> dict[tuple[str, str], list[str]]:
    ops: dict[tuple[str, str], list[str]] = {}
    for op, reasons in absent.items():
        for pair in reasons.items():
            ops.setdefault(pair, []).append(op)
    return ops


def _cells(row: Row) -> list[str]:
    faster = row.eager_seconds / row.seconds if row.seconds and row.eager_seconds else None
    return [
        row.case,
        row.backend if row.device == "cpu" or row.backend != "torch" else f"{row.backend} ({row.device})",
        " ".join(_SHORT.get(name, name) for name in row.dtypes),
        _or_dash(row.error, "{:.0e}"),
        _or_dash(row.eager_error, "{:.0e}"),
        _or_dash(row.gradient_error, "{:.0e}"),
        "-" if row.same_bits is None else "yes" if row.same_bits else "no",
        _or_dash(None if row.seconds is None else 1000 * row.seconds, "{:.2f}"),
        _or_dash(faster, "{:.1f}x"),
        "FAILED" if row.failures else "ok",
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
