"""What larger networks cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advkern.plots._common import COLORS, current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SERIES = (("params", "parameters", "o"), ("flops", "multiply-adds of an image", "s"))


def compound_scaling(
    variants: Mapping[str, Mapping[str, Any]],
    accuracies: Mapping[str, float],
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy over the parameters and over the multiply-adds of networks, on a logarithmic axis.

    Args:
        variants: the network's name -> its ``params`` and ``flops``, as ``advkern.nn.compound_scaling`` counts them.
        accuracies: the network's name -> its accuracy in per cent.
        ax: where to draw; None takes matplotlib's current axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a network without an accuracy.
    """
    for name in variants:
        if name not in accuracies:
            raise ValueError(f"accuracies: expected one for each of {', '.join(variants)}, got none for {name}")
    ax = current_axes(ax)
    heights = [accuracies[name] for name in variants]
    for (key, label, marker), color in zip(_SERIES, COLORS, strict=False):
        values = [variant[key] for variant in variants.values()]
        ax.plot(values, heights, marker=marker, color=color, label=label)
        for name, value, height in zip(variants, values, heights, strict=True):
            ax.annotate(name.upper(), (value, height), (0, 6), textcoords="offset points", ha="right", fontsize=8)
    ax.set(xscale="log", xlabel="count", ylabel="ImageNet top-1 accuracy, %")
    ax.margins(y=0.12)
    ax.grid(visible=True, axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return ax
