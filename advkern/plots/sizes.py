"""How large models are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from advkern._text import engineering
from advkern.plots._common import COLORS, current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def model_sizes(
    sizes: Mapping[str, float],
    ax: Axes | None = None,
    *,
    quantity: str = "parameters",
) -> Axes:
    """Draw a bar for each model, on a logarithmic axis with the number written at its end.

    Args:
        sizes: the model's name -> a positive number; the first is drawn on top.
        ax: where to draw; None takes matplotlib's current axes.
        quantity: what the numbers are, for the axis.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a number that is not positive, which has no logarithm.
    """
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"sizes: expected positive numbers, got {size!r} for {name!r}")
    ax = current_axes(ax)
    bars = ax.barh(list(sizes), list(sizes.values()), color=COLORS[0], height=0.6)
    ax.bar_label(bars, [engineering(size) for size in sizes.values()], padding=4)
    ax.set(xscale="log", xlabel=quantity)
    if sizes:
        least, most = min(sizes.values()), max(sizes.values())
        ax.set_xlim(10 ** math.floor(math.log10(least)), 2 * most * (most / least) ** 0.15)  # room for the numbers
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
