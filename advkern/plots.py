"""The pictures, in matplotlib's habit: ``ax=None`` draws on the current axes, and the axes come back."""

from __future__ import annotations

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


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    with demo_extra():
        import matplotlib.pyplot as plt
    return plt.gca()


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
