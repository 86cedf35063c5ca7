"""A picture with its words, drawn on light and on dark paper."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from advkern.plots import demo_extra

with demo_extra():
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for

__all__ = ["DARK", "LIGHT", "Figure", "Picture"]

_SHARED = {"font.size": 10.0, "axes.titlesize": 11.0, "legend.fontsize": 9.0}


def _style(paper: str, ink: str, line: str) -> dict[str, Any]:
    inked = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    lined = ("axes.edgecolor", "xtick.color", "ytick.color", "grid.color", "legend.edgecolor")
    papered = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    colors = dict.fromkeys(inked, ink) | dict.fromkeys(lined, line) | dict.fromkeys(papered, paper)
    return _SHARED | colors


LIGHT = _style(paper="#ffffff", ink="#1c1f24", line="#5c636e")
DARK = _style(paper="#181b20", ink="#e4e6ea", line="#8b929d")


@dataclass(frozen=True)
class Picture:
    """One picture of the demo."""

    name: str  # of its file, without .png
    title: str
    caption: str  # two sentences that say what one sees
    draw: Callable[[], Figure]

    def png(self, style: dict[str, Any] = LIGHT) -> bytes:
        """Draw it in a style."""
        written = io.BytesIO()
        with matplotlib.rc_context(cast(Any, style)):
            self.draw().savefig(written, format="png", dpi=160)
        return written.getvalue()
