"""What the demo found, as a table to read or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from advkern._text import engineering
from advkern._version import __version__
from advkern.demo.runner import Row
from advkern.plots import demo_extra

with demo_extra():
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

_PLAIN_WIDTH = 140  # where stdout is no terminal, rich would cut at 80
_NUMBERS = (
    *("accuracy %\nadvkern", "\ntwin", "seconds\nadvkern", "\ntwin", "\nratio"),
    *("peak MB\nadvkern", "\ntwin", "largest\ndiff."),
)


def as_json(rows: Sequence[Row], device: torch.device, report: Path, pictures: Sequence[Path]) -> str:
    """Rows with what they were measured on: numbers in full, accuracies as fractions, times in seconds."""
    facts = {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
        "report": str(report),
        "pictures": [str(path) for path in pictures],
    }
    return json.dumps(facts, indent=2)


def show(rows: Sequence[Row], device: torch.device) -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)
    console.print(_table(rows))
    seeds = f"{rows[0].seeds} seeds" if rows[0].seeds > 1 else "seed"
    console.print(
        f"Twin: the same formula in plain PyTorch, trained from the same {seeds}. Accuracy: on the samples whose "
        "label was not known (of hare and lynx R²), mean ± standard deviation over seeds. Seconds: one training, "
        f"median over seeds, on {machine(device)}. Ratio: twin / advkern. "
        "Peak: the memory of a training step. Diff.: between both outputs in eval with the same weights.",
        style="dim",
    )
    for line in naive_steps(rows):
        console.print(line, style="dim")


def naive_steps(rows: Sequence[Row]) -> list[str]:
    """What a single training step costs as the tutorial computes it, where that was measured."""
    return [
        f"One training step of {row.model} on {row.data} as the tutorial computes it takes "
        f"{row.naive_step_seconds:.2g} s and {engineering(row.naive_step_bytes)}B; advkern's takes "
        f"{row.step_seconds:.2g} s and {engineering(row.peak_bytes)}B."
        for row in rows
        if row.naive_step_seconds is not None and row.naive_step_bytes is not None and row.step_seconds is not None
    ]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("\nmodel", "\ndata"):
        table.add_column(name)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("\nbackend")
    table.add_column("para-\nmeters", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.model,
            row.data,
            percent(row.accuracy, row.accuracy_spread),
            percent(row.twin_accuracy, row.twin_accuracy_spread),
            f"{row.seconds:.2f}",
            f"{row.twin_seconds:.2f}",
            f"{row.ratio:.2f}×",
            f"{row.peak_bytes / 1e6:.3g}",
            f"{row.twin_peak_bytes / 1e6:.3g}",
            f"{row.max_difference:.1e}",
            row.backend,
            engineering(row.parameters),
        )
    return table


def percent(mean: float, spread: float | None) -> str:
    """A fraction, with its spread where there is one."""
    return f"{100 * mean:.1f}" if spread is None else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def machine(device: torch.device) -> str:
    """What the models ran on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"
