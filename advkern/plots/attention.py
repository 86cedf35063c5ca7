"""Who attends to whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advkern.plots._common import current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 200  # rows up to which each one has pixels of its own


def attention_map(
    attention: Any,  # [rows, columns]
    ax: Axes | None = None,
    *,
    groups: Sequence[Any] | None = None,  # [rows], of a square map
    vmax: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw attention as a heat map, dark for none.

    A map of more than 200 rows has fewer pixels than entries. There each pixel shows the greatest of its entries, so
    that the few neighbours of a node are seen.

    Args:
        attention: the share of its attention that each row gives to each column; a tensor on the CPU or an array.
        ax: where to draw; None takes matplotlib's current axes.
        groups: a label for each row, equal ones beside each other; their borders are drawn and their names written.
        vmax: what the brightest colour stands for; None: the greatest entry.
        colorbar: whether to draw the scale beside the map.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no matrix, or groups that do not fit it.
    """
    ax = current_axes(ax)
    import numpy as np

    values = np.asarray(attention, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"attention: expected [rows, columns], got shape {values.shape}")
    rows, columns = values.shape
    if groups is not None and not len(groups) == rows == columns:
        raise ValueError(f"groups: expected one for each row of a square map, got {len(groups)} for {values.shape}")
    shown = values if rows <= _FEW else _greatest(values, _FEW * 2)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    image = ax.imshow(shown, cmap="magma", vmin=0, vmax=vmax, extent=extent, interpolation="nearest")
    if colorbar:
        ax.figure.colorbar(image, ax=ax, shrink=0.8)
    if groups is not None:
        _draw_groups(ax, groups)
    ax.set(xlabel="attended to", ylabel="attends")
    return ax


def _greatest(values: Any, most: int) -> Any:
    """The greatest entry of each tile, at most ``most`` tiles a side."""
    import numpy as np

    for axis, size in enumerate(values.shape):
        starts = np.unique(np.linspace(0, size, min(size, most), endpoint=False).astype(int))
        values = np.maximum.reduceat(values, starts, axis=axis)
    return values


def _draw_groups(ax: Axes, groups: Sequence[Any]) -> None:
    starts = [k for k in range(len(groups)) if k == 0 or groups[k] != groups[k - 1]]
    ends = [*starts[1:], len(groups)]
    for start in starts[1:]:
        for draw in (ax.axhline, ax.axvline):
            draw(start - 0.5, color="white", linewidth=0.4, alpha=0.6)
    centres = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    names = [str(groups[start]) for start in starts]
    ax.set_xticks(centres, names)
    ax.set_yticks(centres, names)
    ax.tick_params(length=0)
