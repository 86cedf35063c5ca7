"""Graphs, their nodes coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from advkern.plots._common import COLORS, current_axes, demo_extra, ink, paper

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes

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
    ax = current_axes(ax)
    pos = nx.spring_layout(G, seed=seed) if pos is None else pos
    look = _LARGE if len(G) >= _MANY else _SMALL
    nx.draw_networkx_edges(G, pos, ax=ax, width=look.edge, edge_color="0.6", alpha=0.5)
    classes = _by_label(G, labels)
    for (label, nodes), color in zip(classes.items(), _colors(len(classes)), strict=True):
        name = names[label] if names else str(label)
        drawn = nx.draw_networkx_nodes(G, pos, nodes, look.node, [color], ax=ax, label=name)
        drawn.set(linewidth=look.rim, edgecolor=paper())
    if len(marked):
        rings = nx.draw_networkx_nodes(G, pos, list(marked), look.ring, "none", ax=ax)
        rings.set(linewidth=look.ring_width, edgecolor=ink())
    if look.named:
        nx.draw_networkx_labels(G, pos, font_size=7, ax=ax)
    elif labels is not None:
        _name_classes(ax, pos, {names[label] if names else str(label): nodes for label, nodes in classes.items()})
    if labels is not None:
        ax.legend(markerscale=look.legend, handletextpad=0.1, frameon=False)
    ax.set_axis_off()
    ax.margins(0.04)
    return ax


def _name_classes(ax: Axes, pos: Mapping[Any, Sequence[float]], classes: Mapping[str, Sequence[Any]]) -> None:
    """Write each class's name amid its nodes: more colours than a few are hard to tell apart."""
    import numpy as np
    from matplotlib.patheffects import withStroke

    for name, nodes in classes.items():
        x, y = np.median([pos[node] for node in nodes], axis=0)
        text = ax.text(x, y, name, size="large", weight="bold", ha="center", va="center", zorder=4)
        text.set_path_effects([withStroke(linewidth=3, foreground=paper())])


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
