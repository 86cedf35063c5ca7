"""``report.html``: table, pictures and machine on one page that needs nothing beside itself."""

from __future__ import annotations

import base64
import platform
from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path
from string import Template

import torch
from tqdm import tqdm

from advkern import backend
from advkern._text import engineering
from advkern._version import __version__
from advkern.demo.picture import Picture
from advkern.demo.runner import Row
from advkern.demo.table import machine, naive_steps, percent

TEMPLATE = Path(__file__).with_name("report.html.in")


def write(
    rows: Sequence[Row], pictures: Sequence[Picture], device: torch.device, folder: Path
) -> tuple[Path, list[Path]]:
    """Write the page and, on light paper, each of its pictures into ``folder``; return their paths."""
    figures, saved = [], []
    for picture in tqdm(pictures, desc="pictures", unit="picture", disable=None):
        light, dark = picture.pngs()
        saved.append(folder / f"{picture.name}.png")
        saved[-1].write_bytes(light)
        figures.append(_figure(picture, light, dark))
    page = folder / "report.html"
    page.write_text(_page(rows, figures, device), encoding="utf-8")
    return page, saved


def _page(rows: Sequence[Row], figures: Sequence[str], device: torch.device) -> str:
    seeds = "one seed" if rows[0].seeds == 1 else f"{rows[0].seeds} seeds"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        version=escape(__version__),
        day=date.today().isoformat(),
        count=len({row.model for row in rows}),
        machine=escape(machine(device)),
        seeds=seeds,
        rows="\n".join(map(_row, rows)),
        naive=escape(" ".join(naive_steps(rows))),
        figures="\n".join(figures),
        facts="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts(device).items()),
        ops="\n".join(_op(op) for op in backend.registered_ops()),
    )


def _row(row: Row) -> str:
    texts = f"<th scope=row>{escape(row.model)}</th><td>{escape(row.data)}</td>"
    numbers = (
        percent(row.accuracy, row.accuracy_spread),
        percent(row.twin_accuracy, row.twin_accuracy_spread),
        f"{row.seconds:.2f}",
        f"{row.twin_seconds:.2f}",
        f"{row.ratio:.1f}×",
        f"{engineering(row.peak_bytes)}B",
        f"{engineering(row.twin_peak_bytes)}B",
        f"{row.max_difference:.0e}",
        engineering(row.parameters),
    )
    cells = "".join(f"<td class=number>{escape(number)}</td>" for number in numbers)
    return f"<tr>{texts}{cells}<td>{escape(row.backend)}</td></tr>"


def _figure(picture: Picture, light: bytes, dark: bytes) -> str:
    return (
        f"<figure id={escape(picture.name, quote=True)!r}><h3>{escape(picture.title)}</h3><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_embedded(dark)}">'
        f'<img alt="{escape(picture.title, quote=True)}" src="{_embedded(light)}"></picture>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def facts(device: torch.device) -> dict[str, str]:
    """What a reader should know of the machine and of what ran on it."""
    built = backend.COMPILED.facts
    return {
        "Processor": _processor(),
        "Device": machine(device),
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Instruction set": ", ".join(built.get("isas", [])[:1]) or "that of torch",
        "Compiled part": backend.COMPILED.status if backend.COMPILED.reason is None else str(backend.COMPILED.reason),
        "Compiler": str(built.get("compiler", "none")),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "advkern": __version__,
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _op(op: str) -> str:
    """A line for each backend that the op has: whether it can run here, or why not."""
    found = {name: backend.why_not(op, name, "cpu" if name == "cpu" else "cuda") for name in backend.BACKENDS}
    lines = "".join(
        f"<li><b>{name}</b> {'can run' if reason is None else escape(reason)}</li>"
        for name, reason in found.items()
        if reason != f"{op} has no {name} kernel"
    )
    return f"<dt><code>{escape(op)}</code></dt><dd><ul>{lines}</ul></dd>"
