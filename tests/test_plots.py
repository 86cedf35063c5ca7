"""The pictures, by what they draw."""

import sys

import matplotlib
import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from advkern import plots
from advkern._text import engineering

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


def test_graph_writes_the_names_of_classes_amid_a_crowd(ax):
    pos = {k: (k // 100, k % 100) for k in range(300)}
    plots.graph(nx.empty_graph(300), [k // 100 for k in range(300)], ax, pos=pos, names={0: "a", 1: "b", 2: "c"})
    assert [(text.get_text(), text.get_position()) for text in ax.texts] == [
        ("a", (0, 49.5)),
        ("b", (1, 49.5)),
        ("c", (2, 49.5)),
    ]


def test_ink_and_paper_follow_the_style(ax):
    with matplotlib.rc_context({"text.color": "#eeeeee", "figure.facecolor": "#111111"}):
        plots.graph(RING, [0] * 6, ax, marked=[1])
        plots.training_curves({"ours": [1.0], "twin": [1.0]}, ax)
    assert to_hex(ax.collections[1].get_edgecolor()[0]) == "#111111"
    assert to_hex(ax.collections[2].get_edgecolor()[0]) == "#eeeeee"
    assert to_hex(ax.lines[1].get_color()) == "#eeeeee"


def test_attention_is_a_heat_map_with_its_scale(ax):
    attention = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert plots.attention_map(attention, ax) is ax
    (image,) = ax.images
    assert image.get_array().tolist() == attention.tolist()
    assert image.get_clim() == (0, 1)
    assert tuple(image.get_extent()) == (-0.5, 1.5, 1.5, -0.5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("attended to", "attends")
    assert len(ax.figure.axes) == 2


def test_attention_without_its_scale(ax):
    plots.attention_map(np.eye(2), ax, colorbar=False, vmax=2.0)
    assert ax.figure.axes == [ax]
    assert ax.images[0].get_clim() == (0, 2)


def test_attention_tells_groups_by_name_and_border(ax):
    plots.attention_map(np.eye(5), ax, groups=["a", "a", "b", "b", "b"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    assert ax.get_xticks().tolist() == ax.get_yticks().tolist() == [0.5, 3]
    assert sorted(tuple(line.get_xdata()) for line in ax.lines) == [(0, 1), (1.5, 1.5)]


def test_attention_of_many_rows_loses_no_peak(ax):
    attention = np.zeros((1501, 1501))
    attention[[2, 700, 1500], [1500, 701, 2]] = 0.9
    plots.attention_map(attention, ax)
    shown = ax.images[0].get_array()
    assert shown.shape == (400, 400)
    assert (shown == 0.9).sum() == 3
    assert shown[-1, 0] == shown[0, -1] == 0.9
    assert ax.images[0].get_extent()[1] == 1500.5


def test_attention_refuses_what_does_not_fit(ax):
    with pytest.raises(ValueError, match=r"attention: expected \[rows, columns\], got shape \(2,\)"):
        plots.attention_map(np.zeros(2), ax)
    with pytest.raises(ValueError, match=r"groups: expected one for each row of a square map, got 1 for \(2, 2\)"):
        plots.attention_map(np.eye(2), ax, groups=["a"])


def test_vector_field_is_an_arrow_a_point(ax):
    points, slopes = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), torch.ones(3, 2)
    assert plots.vector_field(points, slopes, ax) is ax
    (arrows,) = ax.collections
    assert arrows.XY.tolist() == points.tolist()
    assert arrows.U.tolist() == arrows.V.tolist() == [1, 1, 1]


def test_vector_field_refuses_what_does_not_fit(ax):
    with pytest.raises(ValueError, match=r"points: expected \[N, 2\], got shape \(3,\)"):
        plots.vector_field(np.zeros(3), np.zeros(3), ax)
    with pytest.raises(ValueError, match=r"slopes: expected \(3, 2\), as points, got shape \(2, 2\)"):
        plots.vector_field(np.zeros((3, 2)), np.zeros((2, 2)), ax)


def test_trajectories_are_a_line_each_from_start_to_end(ax):
    paths = torch.arange(24.0).view(4, 3, 2)  # 3 paths of 4 times
    assert plots.trajectories(paths, ax, label="paths") is ax
    assert [line.get_xydata().tolist() for line in ax.lines] == [paths[:, k].tolist() for k in range(3)]
    starts, ends = ax.collections
    assert starts.get_offsets().tolist() == paths[0].tolist()
    assert ends.get_offsets().tolist() == paths[-1].tolist()
    ax.legend()
    assert texts(ax) == ["paths", "start", "end"]


def test_trajectories_refuse_what_is_no_path(ax):
    with pytest.raises(ValueError, match=r"paths: expected \[T, N, 2\], got shape \(4, 2\)"):
        plots.trajectories(np.zeros((4, 2)), ax)


def test_fit_draws_dots_and_pieces_in_one_colour(ax):
    measured = {"hares": ([0, 1], [2, 3]), "lynxes": ([0, 1], [4, 5])}
    assert plots.fit(measured, {"lynxes": [([0, 1], [4, 4]), ([1, 2], [5, 5])]}, ax) is ax
    hares, lynxes, first, second = ax.lines
    assert hares.get_linestyle() == lynxes.get_linestyle() == "None"
    assert hares.get_marker() != lynxes.get_marker()
    assert first.get_color() == second.get_color() == lynxes.get_color() != hares.get_color()
    assert second.get_xydata().tolist() == [[1, 5], [2, 5]]
    assert texts(ax) == ["hares, measured", "lynxes, measured", "lynxes, model"]


def test_fit_refuses_a_series_that_was_not_measured(ax):
    with pytest.raises(ValueError, match=r"fitted: expected names out of \('a',\), got 'b'"):
        plots.fit({"a": ([0], [1])}, {"b": []}, ax)


def test_sizes_are_bars_with_their_numbers(ax):
    assert plots.model_sizes({"GCN": 594, "ViT": 2_690_000, "ODE": 22}, ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [594, 2_690_000, 22]
    assert [text.get_text() for text in ax.texts] == ["594", "2.69 M", "22"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["GCN", "ViT", "ODE"]
    assert ax.get_xscale() == "log" and ax.yaxis_inverted()
    low, high = ax.get_xlim()
    assert low <= 22 and high > 2_690_000


def test_sizes_refuse_what_has_no_logarithm(ax):
    with pytest.raises(ValueError, match=r"sizes: expected positive numbers, got 0 for 'GCN'"):
        plots.model_sizes({"GCN": 0}, ax)


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (0.0123, "0.0123"), (7, "7"), (999, "999"), (999.9, "1 k"), (12_345, "12.3 k"), (2.5e12, "2.5 T")],
)
def test_numbers_are_written_with_three_digits_and_a_prefix(number, written):
    assert engineering(number) == written


def lines(collection):
    return sorted(segment.tolist() for segment in collection.get_segments())


def test_patch_grid_draws_the_image_and_a_line_at_each_border(ax):
    image = torch.arange(48.0).view(6, 8)
    assert plots.patch_grid(image, 2, ax) is ax
    assert ax.images[0].get_array().tolist() == image.tolist()
    horizontal, vertical = ax.collections
    assert lines(horizontal) == [[[-0.5, y], [7.5, y]] for y in (-0.5, 1.5, 3.5, 5.5)]
    assert lines(vertical) == [[[x, -0.5], [x, 5.5]] for x in (-0.5, 1.5, 3.5, 5.5, 7.5)]


def test_patch_grid_takes_colours(ax):
    plots.patch_grid(np.zeros((4, 4, 3)), 4, ax)
    assert ax.images[0].get_array().shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("image", "patch_size", "message"),
    [
        (np.zeros((8, 8)), 3, "patch_size: expected one that tiles an image of 8 x 8, got 3"),
        (np.zeros((8, 6)), 0, "patch_size: expected one that tiles an image of 8 x 6, got 0"),
        (np.zeros(8), 2, r"image: expected \[H, W\], or \[H, W, 3 or 4\], got shape \(8,\)"),
        (np.zeros((1, 8, 8)), 2, r"image: expected .* got shape \(1, 8, 8\)"),
    ],
)
def test_patch_grid_refuses_what_patches_do_not_tile(ax, image, patch_size, message):
    with pytest.raises(ValueError, match=message):
        plots.patch_grid(image, patch_size, ax)


def test_class_token_tints_each_patch_by_its_attention(ax):
    attention = torch.tensor([0.4, 0.0, 0.1, 0.2, 0.05, 0.15, 0.1])  # its own, then 2 x 3 patches
    assert plots.class_token_attention(np.zeros((4, 6)), attention, ax) is ax
    image, tint = ax.images
    assert list(image.get_extent()) == list(tint.get_extent()) == [-0.5, 5.5, 3.5, -0.5]
    assert tint.get_array().tolist() == attention[1:].view(2, 3).tolist()
    assert tint.get_clim() == (0, pytest.approx(0.2))
    alpha = tint.get_alpha()
    assert alpha[0, 0] == 0 and alpha.argmax() == 2 and 0 < alpha.max() < 1


def test_class_token_that_looks_at_no_patch_tints_none(ax):
    plots.class_token_attention(np.zeros((4, 4)), [1, 0, 0, 0, 0], ax)
    assert not ax.images[-1].get_alpha().any()


@pytest.mark.parametrize("attention", [np.ones(17), np.ones(16), np.ones(1), np.ones((5, 5))])
def test_class_token_refuses_patches_that_do_not_tile(ax, attention):
    with pytest.raises(ValueError, match=r"attention: expected \[num_patches \+ 1\] .* 4 x 6, got shape"):
        plots.class_token_attention(np.zeros((4, 6)), attention, ax)


def test_blocks_are_cut_and_told_with_their_shares(ax):
    attention = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4], [0.4, 0.5, 0.1]])
    assert plots.cross_modal_blocks(attention, 2, ax) is ax
    assert ax.images[0].get_array().tolist() == attention.tolist()
    across, down = ax.lines
    assert list(across.get_ydata()) == list(down.get_xdata()) == [1.5, 1.5]
    told = {text.get_text().replace("\n", " "): text.get_position() for text in ax.texts}
    assert told == {
        "image to image 70%": (0.5, 0.5),
        "image to text 30%": (2, 0.5),
        "text to image 90%": (0.5, 2),
        "text to text 10%": (2, 2),
    }
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2 patches", "text"]
    assert list(ax.get_yticks()) == [0.5, 2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("attended to", "attending")


def test_blocks_name_the_words(ax):
    plots.cross_modal_blocks(np.full((5, 5), 0.2), 3, ax, tokens=["is", "it"])
    for labels, ticks in ((ax.get_xticklabels(), ax.get_xticks()), (ax.get_yticklabels(), ax.get_yticks())):
        assert [label.get_text() for label in labels] == ["3 patches", "is", "it"]
        assert list(ticks) == [1, 3, 4]


@pytest.mark.parametrize(
    ("shape", "num_patches", "tokens", "message"),
    [
        ((4, 5), 2, None, r"attention: expected \[N, N\], got shape \(4, 5\)"),
        ((4, 4), 4, None, "num_patches: expected between 1 and 3, to leave some text, got 4"),
        ((4, 4), 0, None, "num_patches: expected between 1 and 3"),
        ((4, 4), 2, ["is"], "tokens: expected one for each of 2 positions, got 1"),
    ],
)
def test_blocks_refuse_what_cannot_be_cut(ax, shape, num_patches, tokens, message):
    with pytest.raises(ValueError, match=message):
        plots.cross_modal_blocks(np.zeros(shape), num_patches, ax, tokens=tokens)


def test_current_axes_are_the_default(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    _, (_, current) = plt.subplots(1, 2)
    assert plots.training_curves({"ours": [1.0]}) is current
    assert plots.graph(RING) is current
    assert plots.attention_map(np.eye(2)) is current
    assert plots.vector_field(np.eye(2), np.eye(2)) is current
    assert plots.trajectories(np.zeros((1, 1, 2))) is current
    assert plots.fit({}, {}) is current
    assert plots.model_sizes({"GCN": 1}) is current
    assert plots.patch_grid(np.zeros((4, 4)), 2) is current
    assert plots.class_token_attention(np.zeros((4, 4)), np.ones(5)) is current
    assert plots.cross_modal_blocks(np.ones((3, 3)), 2) is current
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
