"""A picture of each file of results: every peer's time over ours, on a logarithmic axis, one line a workload.

A picture carries a digest of what it shows, so that a stale one is told without drawing it anew.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from advkern.plots import COLORS

MARKERS = "osD^vPX*"
OURS = ("advkern", "schema_op")  # what a candidate of our own is called
DIGEST = "Comment"  # a key that PNG knows


def is_fresh(picture: Path, results: Path) -> bool:
    """Whether the picture was drawn of these results."""
    from PIL import Image

    return picture.is_file() and Image.open(picture).info.get(DIGEST) == _digest(_rows(results))


def draw(results: Path) -> bytes:
    """The picture of a file of results, as PNG."""
    from matplotlib.figure import Figure

    rows = _rows(results)
    figure = Figure(figsize=(8, 0.9 + 0.26 * len(rows)), layout="constrained")
    ax = figure.subplots()
    peers = sorted({peer for ratios in rows.values() for peer in ratios})
    for k, peer in enumerate(peers):
        shown = [(ratios[peer], line) for line, ratios in enumerate(rows.values()) if peer in ratios]
        ax.plot(
            *zip(*shown, strict=True),
            MARKERS[k % len(MARKERS)],
            color=COLORS[k % len(COLORS)],
            label=peer,
            markersize=5,
        )
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xscale="log", xlabel="the peer's time over ours (right of the line we are faster)")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="both", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=min(len(peers), 5), frameon=False)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Software": None, DIGEST: _digest(rows)})
    return file.getvalue()


def _rows(path: Path) -> dict[str, dict[str, float]]:
    """Workload -> peer -> ratio, of the rows in float32 at the most threads, without huge pages."""
    rows = [row for row in json.loads(path.read_text())["rows"].values() if "ratios" in row]
    rows = [row for row in rows if not row.get("peers_huge_pages") and row.get("dtype", "float32") == "float32"]
    most: dict[str, int] = {}
    for row in rows:
        most[_label(row)] = max(most.get(_label(row), 0), row["threads"])
    rows = [row for row in rows if row["threads"] == most[_label(row)]]
    rows.sort(
        key=lambda row: (row["work"], row["graph"].partition("=")[0], row.get("length", 0), row.get("channels", 0))
    )
    return {_label(row): {k: v for k, v in row["ratios"].items() if not k.startswith(OURS)} for row in rows}


def _label(row: dict[str, Any]) -> str:
    size = f", {row['heads']} x {row['channels']}" if "heads" in row else ""
    if "channels" in row and not size and row["graph"].startswith(("arxiv", "cora", "pubmed")):
        size = f", F = {row['channels']}"
    return f"{row['work']}, {row['graph']}{size}"


def _digest(rows: dict[str, dict[str, float]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
