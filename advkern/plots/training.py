"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from advkern.plots._common import COLORS, current_axes, ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("-", "--", ":", "-.")


def training_curves(
    histories: Mapping[str, Sequence[float] | Sequence[Sequence[float]]],
    ax: Axes | None = None,
    *,
    quantity: str = "loss",
) -> Axes:
    """Draw one line for each history over the epochs; of several runs the mean and a band.

    Args:
        histories: the legend's text -> values ``[epochs]`` or ``[runs, epochs]``, the band from the least run
            to the greatest. Later lines are thinner and dashed: lines that cover each other are both seen.
        ax: where to draw; None takes matplotlib's current axes.
        quantity: what the values are, for the axis.

    Raises:
        ImportError: matplotlib is missing.
    """
    ax = current_axes(ax)
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    for k, (name, values) in enumerate(histories.items()):
        runs = np.atleast_2d(np.asarray(values, dtype=float))  # [runs, epochs]
        epochs = np.arange(1, runs.shape[1] + 1)
        color, width = (ink(), 1.2) if k else (COLORS[1], 3.0)
        style = _LINES[k % len(_LINES)]
        ax.plot(epochs, runs.mean(axis=0), color=color, linestyle=style, linewidth=width, label=name)
        if len(runs) > 1:
            ax.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="epoch", ylabel=quantity)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
