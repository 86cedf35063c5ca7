"""Who attends to whom."""

from __future__ import annotations

import itertools
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


def cross_modal_blocks(
    attention: Any,  # [N, N]
    num_patches: int,
    ax: Axes | None = None,
    *,
    tokens: Sequence[str] | None = None,
) -> Axes:
    """Draw the attention of a multimodal transformer, cut into image and text: four blocks, each with its share.

    A row is what a position pays, so a block's share is what the positions of its rows pay those of its columns, on
    average; the two shares of a row of blocks add up to all.

    Args:
        attention: one head's, or a mean, patches before text. An array or a tensor on the CPU.
        num_patches: how many positions are patches of the image.
        ax: where to draw; None takes matplotlib's current axes.
        tokens: the words of the text, to stand beside their rows and columns; None names the text as a whole.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another shape, no patch or no text, or not one word a position of text.
    """
    import numpy as np

    attention = np.asarray(attention)
    if attention.ndim != 2 or attention.shape[0] != attention.shape[1]:
        raise ValueError(f"attention: expected [N, N], got shape {attention.shape}")
    length = len(attention)
    if not 0 < num_patches < length:
        raise ValueError(f"num_patches: expected between 1 and {length - 1}, to leave some text, got {num_patches}")
    if tokens is not None and len(tokens) != length - num_patches:
        raise ValueError(f"tokens: expected one for each of {length - num_patches} positions, got {len(tokens)}")
    ax = current_axes(ax)
    ax.imshow(attention, cmap="viridis", vmin=0, interpolation="nearest")
    ax.axhline(num_patches - 0.5, color="white", linewidth=2)
    ax.axvline(num_patches - 0.5, color="white", linewidth=2)
    parts = {"image": (0, num_patches), "text": (num_patches, length)}
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
    for (payer, rows), (paid, columns) in itertools.product(parts.items(), repeat=2):
        share = attention[slice(*rows), slice(*columns)].sum(axis=1).mean()
        place = (sum(columns) - 1) / 2, (sum(rows) - 1) / 2
        name = f"{payer} to\n{paid}\n{share:.0%}"
        ax.text(*place, name, ha="center", va="center", size="x-small", color="black", bbox=box)
    middle = [(first + last - 1) / 2 for first, last in parts.values()]
    ticks = [middle[0], *range(num_patches, length)] if tokens else middle
    names = [f"{num_patches} patches", *(tokens or ["text"])]
    ax.set_xticks(ticks, names)
    for label in ax.get_xticklabels()[1:]:
        label.set_rotation(90 if tokens else 0)  # words are wider than their columns
    ax.set_yticks(ticks, names)
    ax.set(xlabel="attended to", ylabel="attending")
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
