"""A picture with its words, drawn on light and on dark paper."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from advkern.plots import demo_extra

with demo_extra():
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for

__all__ = ["DARK", "LIGHT", "Figure", "Picture"]

_SHARED = {"font.size": 10.0, "axes.titlesize": 11.0, "legend.fontsize": 9.0, "figure.dpi": 160.0}


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

    def pngs(self) -> tuple[bytes, bytes]:
        """Draw it on light and on dark paper; laid out once, since colours move nothing."""
        with matplotlib.rc_context(cast(Any, LIGHT)):
            light = self.draw()
            on_light = _png(light)
        with matplotlib.rc_context(cast(Any, DARK)):
            dark = self.draw()
            _place_alike(dark, light)
            return on_light, _png(dark)


def _png(figure: Figure) -> bytes:
    """The figure, laid out and drawn; ``savefig`` would draw it twice."""
    written = io.BytesIO()
    FigureCanvasAgg(figure).print_png(written)
    return written.getvalue()


def _place_alike(figure: Figure, other: Figure) -> None:
    """Put the axes where the other figure has them, instead of laying them out."""
    figure.set_layout_engine("none")
    for ax, placed in zip(figure.axes, other.axes, strict=True):
        ax.set_position(placed.get_position(original=True))
