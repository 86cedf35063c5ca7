"""The pictures, by what they draw."""

import sys

import networkx as nx
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from advkern import plots

RING = nx.cycle_graph(6)


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_graph_draws_edges_then_one_collection_a_class(ax):
    assert plots.graph(RING, [0, 1, 2, 0, 1, 2], ax) is ax
    edges, *nodes = ax.collections
    assert len(edges.get_segments()) == 6
    assert [len(each.get_offsets()) for each in nodes] == [2, 2, 2]
    assert [to_hex(each.get_facecolor()[0]) for each in nodes] == list(plots.COLORS[:3])
    assert texts(ax) == ["0", "1", "2"]


def test_graph_without_labels_has_one_colour_and_no_legend(ax):
    plots.graph(RING, ax=ax)
    assert len(ax.collections) == 2
    assert ax.get_legend() is None


def test_graph_colours_the_nodes_of_each_label(ax):
    graph = nx.Graph([("b", "a"), ("a", "c")])  # nodes come in the order b, a, c
    pos = {"a": (0, 0), "b": (1, 0), "c": (0, 1)}
    plots.graph(graph, ["x", "y", "x"], ax, pos=pos)
    assert ax.collections[1].get_offsets().tolist() == [[1, 0], [0, 1]]
    assert ax.collections[2].get_offsets().tolist() == [[0, 0]]


def test_graph_names_nodes_while_there_is_room(ax):
    plots.graph(RING, ax=ax)
    assert [text.get_text() for text in ax.texts] == list("012345")
    crowd = Figure().subplots()
    plots.graph(nx.empty_graph(500), ax=crowd, pos={k: (k, k) for k in range(500)})
    assert not crowd.texts


def test_graph_rings_the_marked_nodes(ax):
    plots.graph(RING, [0] * 6, ax, marked=[1, 4])
    assert len(ax.collections[-1].get_offsets()) == 2
    assert to_hex(ax.collections[-1].get_edgecolor()[0]) == "#000000"


def test_graph_takes_names_for_the_legend(ax):
    plots.graph(RING, [0, 1] * 3, ax, names={0: "even", 1: "odd"})
    assert texts(ax) == ["even", "odd"]


def test_graph_is_the_same_every_time(ax):
    other = Figure().subplots()
    plots.graph(RING, ax=ax)
    plots.graph(RING, ax=other)
    assert np.array_equal(ax.collections[1].get_offsets(), other.collections[1].get_offsets())


def test_graph_has_colours_for_more_classes_than_the_palette(ax):
    plots.graph(nx.path_graph(15), range(15), ax)
    assert len({to_hex(each.get_facecolor()[0]) for each in ax.collections[1:]}) == 15


def test_graph_refuses_labels_that_do_not_fit(ax):
    with pytest.raises(ValueError, match="labels: expected one for each of 6 nodes, got 5"):
        plots.graph(RING, [0] * 5, ax)


def test_curves_draw_one_line_a_history(ax):
    assert plots.training_curves({"ours": [3.0, 2.0, 1.0], "twin": [3.0, 2.5, 1.0]}, ax) is ax
    ours, twin = ax.lines
    assert ours.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert ours.get_linestyle() != twin.get_linestyle()
    assert texts(ax) == ["ours", "twin"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert not ax.collections


def test_curves_of_several_runs_are_a_mean_in_a_band(ax):
    plots.training_curves({"ours": [[1.0, 5.0], [3.0, 9.0]]}, ax, quantity="accuracy")
    assert ax.lines[0].get_ydata().tolist() == [2, 7]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 1 and band[:, 1].max() == 9
    assert ax.get_ylabel() == "accuracy"


def test_current_axes_are_the_default(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    _, (_, current) = plt.subplots(1, 2)
    assert plots.training_curves({"ours": [1.0]}) is current
    assert plots.graph(RING) is current
    plt.close("all")


@pytest.mark.parametrize(
    ("missing", "draw"),
    [
        ("networkx", lambda: plots.graph(RING)),
        ("matplotlib.pyplot", lambda: plots.training_curves({"ours": [1.0]})),
    ],
)
def test_missing_library_is_told_with_the_command(monkeypatch, missing, draw):
    monkeypatch.setitem(sys.modules, missing, None)
    library = missing.partition(".")[0]
    with pytest.raises(ImportError, match=rf"needs {library}: pip install '\.\[demo\]'"):
        draw()
