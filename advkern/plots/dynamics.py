"""Fields and the paths along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advkern.plots._common import COLORS, current_axes, ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def vector_field(
    points: Any,  # [N, 2]
    slopes: Any,  # [N, 2]
    ax: Axes | None = None,
) -> Axes:
    """Draw the field of a differential equation as a grey arrow at each point.

    Args:
        points: where the arrows start; a tensor on the CPU or an array.
        slopes: where they go, longer where the field is faster.
        ax: where to draw; None takes matplotlib's current axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: not two coordinates a point, or not one slope a point.
    """
    ax = current_axes(ax)
    import numpy as np

    points, slopes = np.asarray(points), np.asarray(slopes)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points: expected [N, 2], got shape {points.shape}")
    if slopes.shape != points.shape:
        raise ValueError(f"slopes: expected {points.shape}, as points, got shape {slopes.shape}")
    ax.quiver(*points.T, *slopes.T, color="0.6", angles="xy", width=0.002)
    return ax


def trajectories(
    paths: Any,  # [T, N, 2]
    ax: Axes | None = None,
    *,
    label: str | None = None,
) -> Axes:
    """Draw N paths in the plane, each from a dot where it starts to a square where it ends.

    Args:
        paths: the places at T times; a tensor on the CPU or an array.
        ax: where to draw; None takes matplotlib's current axes.
        label: what the legend calls the paths.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no paths in the plane.
    """
    ax = current_axes(ax)
    import numpy as np

    paths = np.asarray(paths)
    if paths.ndim != 3 or paths.shape[0] < 1 or paths.shape[2] != 2:
        raise ValueError(f"paths: expected [T, N, 2], got shape {paths.shape}")
    lines = ax.plot(paths[:, :, 0], paths[:, :, 1], color=COLORS[0], linewidth=1)
    if lines:
        lines[0].set_label(label)
    for place, marker, color, name in ((0, "o", COLORS[0], "start"), (-1, "s", ink(), "end")):
        ax.scatter(paths[place, :, 0], paths[place, :, 1], s=12, marker=marker, color=color, zorder=3, label=name)
    return ax


def fit(
    measured: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    fitted: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    ax: Axes | None = None,
) -> Axes:
    """Draw series over time as dots, and what a model makes of them as lines of the same colour.

    Args:
        measured: name of the series -> times and values.
        fitted: name of the series -> several pieces of times and values.
        ax: where to draw; None takes matplotlib's current axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a fitted series that was not measured.
    """
    for name in fitted:
        if name not in measured:
            raise ValueError(f"fitted: expected names out of {tuple(measured)}, got {name!r}")
    ax = current_axes(ax)
    for k, (name, series) in enumerate(measured.items()):
        color, marker = COLORS[k % len(COLORS)], "os^Dv"[k % 5]
        ax.plot(*series, marker, color=color, label=f"{name}, measured")
        for j, piece in enumerate(fitted.get(name, ())):
            ax.plot(*piece, color=color, label=None if j else f"{name}, model")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
