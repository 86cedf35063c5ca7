"""The pictures, in matplotlib's habit: ``ax=None`` draws on the current axes, and the axes come back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes

# Ten colours that stay apart for colour-blind eyes too: Petroff 2021, arXiv:2107.02270
COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
_LINES = ("-", "--", ":", "-.")
_MANY = 200  # nodes from which on names no longer fit inside them


class _Look(NamedTuple):
    """Sizes in a drawing of a graph: areas of nodes and rings, widths of lines, all in points."""

    node: float
    rim: float
    ring: float
    ring_width: float
    edge: float
    legend: float  # a node in the legend, in nodes of the drawing
    named: bool


_SMALL = _Look(node=220, rim=0.5, ring=220, ring_width=2.0, edge=0.8, legend=0.7, named=True)
_LARGE = _Look(node=9, rim=0.0, ring=40, ring_width=0.6, edge=0.2, legend=3.0, named=False)


class MissingExtraError(ImportError):
    """A library that only pictures and the demo need is not installed; the message has the command."""


@contextmanager
def demo_extra() -> Iterator[None]:
    """Turn a failed import inside the block into the command that mends it."""
    try:
        yield
    except ModuleNotFoundError as error:
        mend = f"needs {str(error.name).partition('.')[0]}: pip install '.[demo]'"
        raise MissingExtraError(mend, name=error.name) from error


def graph(
    G: networkx.Graph,
    labels: Sequence[Any] | None = None,  # [num_nodes], in the order of G.nodes
    ax: Axes | None = None,
    *,
    pos: Mapping[Any, Sequence[float]] | None = None,
    names: Mapping[Any, str] | None = None,
    marked: Sequence[Any] = (),
    seed: int = 0,
) -> Axes:
    """Draw a graph, its nodes coloured by label.

    Args:
        G: the graph.
        labels: the class of each node, ints or strings; None draws all nodes alike.
        ax: where to draw; None takes matplotlib's current axes.
        pos: the place of each node; None computes networkx's spring layout from ``seed``.
        names: what the legend calls each label; by default the label itself.
        marked: nodes to draw with a black ring.
        seed: of the layout, so that the same graph gives the same picture.

    Raises:
        ImportError: matplotlib or networkx is missing.
        ValueError: not one label a node.
    """
    with demo_extra():
        import networkx as nx

    if labels is not None and len(labels) != len(G):
        raise ValueError(f"labels: expected one for each of {len(G)} nodes, got {len(labels)}")
    ax = _axes(ax)
    pos = nx.spring_layout(G, seed=seed) if pos is None else pos
    look = _LARGE if len(G) >= _MANY else _SMALL
    nx.draw_networkx_edges(G, pos, ax=ax, width=look.edge, edge_color="0.6", alpha=0.5)
    classes = _by_label(G, labels)
    for (label, nodes), color in zip(classes.items(), _colors(len(classes)), strict=True):
        name = names[label] if names else str(label)
        drawn = nx.draw_networkx_nodes(G, pos, nodes, look.node, [color], ax=ax, label=name)
        drawn.set(linewidth=look.rim, edgecolor="white")
    if len(marked):
        rings = nx.draw_networkx_nodes(G, pos, list(marked), look.ring, "none", ax=ax)
        rings.set(linewidth=look.ring_width, edgecolor="black")
    if look.named:
        nx.draw_networkx_labels(G, pos, font_size=7, ax=ax)
    if labels is not None:
        ax.legend(markerscale=look.legend, handletextpad=0.1, frameon=False)
    ax.set_axis_off()
    ax.margins(0.04)
    return ax


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
    ax = _axes(ax)
    import numpy as np

    for k, (name, values) in enumerate(histories.items()):
        runs = np.atleast_2d(np.asarray(values, dtype=float))  # [runs, epochs]
        epochs = np.arange(1, runs.shape[1] + 1)
        color, width = ("black", 1.2) if k else (COLORS[1], 3.0)
        style = _LINES[k % len(_LINES)]
        ax.plot(epochs, runs.mean(axis=0), color=color, linestyle=style, linewidth=width, label=name)
        if len(runs) > 1:
            ax.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="epoch", ylabel=quantity)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def patch_grid(
    image: Any,  # [H, W] or [H, W, channels]
    patch_size: int,
    ax: Axes | None = None,
    *,
    cmap: str = "gray",
) -> Axes:
    """Draw an image and the grid that cuts it into square patches.

    Args:
        image: an array or a tensor on the CPU, grey or in colours.
        patch_size: pixels along a patch.
        ax: where to draw; None takes matplotlib's current axes.
        cmap: the colour map of a grey image.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another shape, or patches that do not tile the image.
    """
    image = _image(image)
    height, width = image.shape[:2]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"patch_size: expected one that tiles an image of {height} x {width}, got {patch_size}")
    ax = _axes(ax)
    ax.imshow(image, cmap=cmap, interpolation="nearest")
    for draw, size, across in ((ax.hlines, height, width), (ax.vlines, width, height)):
        cuts = [k - 0.5 for k in range(0, size + 1, patch_size)]  # pixel k reaches from k - 0.5 to k + 0.5
        draw(
            cuts, -0.5, across - 0.5, color=COLORS[1], linewidth=1.2, clip_on=False
        )  # the outer lines are half outside
    ax.set_axis_off()
    return ax


def class_token_attention(
    image: Any,  # [H, W] or [H, W, channels]
    attention: Any,  # [num_patches + 1]
    ax: Axes | None = None,
    *,
    cmap: str = "gray",
) -> Axes:
    """Tint the patches of an image by the attention that a vision transformer's class token pays them.

    The strongest tint is the greatest attention to a patch. ``ax.images[-1]`` is the tint, for a colour bar.

    Args:
        image: an array or a tensor on the CPU, grey or in colours.
        attention: one head's, or a mean, the class token's own first: ``maps[layer].cls()[batch, head]``. Patches are
            square and stand row by row.
        ax: where to draw; None takes matplotlib's current axes.
        cmap: the colour map of a grey image.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another shape, or a number of patches that cannot tile the image.
    """
    import numpy as np

    image, attention = _image(image), np.asarray(attention)
    height, width = image.shape[:2]
    count = attention.size - 1
    side = math.isqrt(height * width // max(count, 1))
    if attention.ndim != 1 or side == 0 or height % side or width % side or height * width != count * side**2:
        raise ValueError(
            f"attention: expected [num_patches + 1] with square patches that tile an image of {height} x {width}, "
            f"got shape {attention.shape}"
        )
    ax = _axes(ax)
    ax.imshow(image, cmap=cmap, interpolation="nearest")
    paid = attention[1:].reshape(height // side, width // side)
    most = paid.max()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    tint = 0.75 * paid / most if most > 0 else np.zeros_like(paid)
    ax.imshow(paid, cmap=_one_hue(COLORS[1]), vmin=0, vmax=most, alpha=tint, extent=extent, interpolation="nearest")
    ax.set_axis_off()
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
    ax = _axes(ax)
    ax.imshow(attention, cmap="viridis", vmin=0, interpolation="nearest")
    ax.axhline(num_patches - 0.5, color="white", linewidth=2)
    ax.axvline(num_patches - 0.5, color="white", linewidth=2)
    parts = {"image": (0, num_patches), "text": (num_patches, length)}
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
    for (payer, rows), (paid, columns) in itertools.product(parts.items(), repeat=2):
        share = attention[slice(*rows), slice(*columns)].sum(axis=1).mean()
        place = (sum(columns) - 1) / 2, (sum(rows) - 1) / 2
        ax.text(*place, f"{payer} to\n{paid}\n{share:.0%}", ha="center", va="center", size="x-small", bbox=box)
    middle = [(first + last - 1) / 2 for first, last in parts.values()]
    ticks = [middle[0], *range(num_patches, length)] if tokens else middle
    names = [f"{num_patches} patches", *(tokens or ["text"])]
    ax.set_xticks(ticks, names)
    for label in ax.get_xticklabels()[1:]:
        label.set_rotation(90 if tokens else 0)  # words are wider than their columns
    ax.set_yticks(ticks, names)
    ax.set(xlabel="attended to", ylabel="attending")
    return ax


def _image(image: Any) -> Any:  # numpy [H, W] or [H, W, channels]
    import numpy as np

    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"image: expected [H, W], or [H, W, 3 or 4], got shape {image.shape}")
    return image


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    with demo_extra():
        import matplotlib.pyplot as plt
    return plt.gca()


def _one_hue(color: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("one_hue", ["white", color])


def _by_label(G: networkx.Graph, labels: Sequence[Any] | None) -> dict[Any, list[Any]]:
    """The nodes of each label, labels in ascending order."""
    if labels is None:
        return {"node": list(G)}
    nodes: dict[Any, list[Any]] = {label: [] for label in sorted(set(labels))}
    for node, label in zip(G, labels, strict=True):
        nodes[label].append(node)
    return nodes


def _colors(count: int) -> Sequence[Any]:
    if count <= len(COLORS):
        return COLORS[:count]
    import matplotlib
    import numpy as np

    return list(matplotlib.colormaps["viridis"](np.linspace(0, 1, count)))
