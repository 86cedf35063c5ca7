"""``gcn_aggregate``: the op's suite, and what only this op promises."""

from __future__ import annotations

import pytest
import torch
from op_suite import EMULATED, PLACES, Case, OpSuite, running_on

from advkern import Graph, nn, use_backend
from advkern.ops import gcn_aggregate
from advkern.reference.gcn_aggregate import ACTIVATIONS
from advkern.testing import hub_graph, isolated_graph, peak_memory, power_law_graph, standard_graph, uniform_graph

# name: (graph, channels, options); the widths cross every tile: part of a vector, whole ones, several tiles
CASES = {
    "plain": ("uniform", 16, {}),
    "one_channel": ("uniform", 1, {}),
    "weighted_part_of_a_vector": ("uniform", 7, {"weighted": True}),
    "sym_weighted_bias_relu": (
        "uniform",
        40,
        {"weighted": True, "normalize": "sym", "bias": True, "activation": "relu"},
    ),
    "sym_own_weights": ("weighted", 16, {"normalize": "sym"}),
    "row_bias_elu": ("power_law", 33, {"normalize": "row", "bias": True, "activation": "elu"}),
    "row_bias_log_softmax": ("power_law", 40, {"normalize": "row", "bias": True, "activation": "log_softmax"}),
    "log_softmax_of_several_tiles": ("uniform", 300, {"activation": "log_softmax"}),
    "row_weighted": ("uniform", 24, {"weighted": True, "normalize": "row"}),
    "several_tiles": ("uniform", 300, {"weighted": True, "normalize": "sym"}),
    "full_tile": ("uniform", 128, {"bias": True}),
    "one_huge_row": ("hub", 20, {"normalize": "sym"}),
    "one_huge_row_among_batches": ("hub", 4, {"normalize": "sym", "weighted": True}),
    "batches": ("large", 4, {"normalize": "row", "bias": True, "activation": "relu"}),
    "half_the_nodes_isolated": ("isolated", 12, {"normalize": "sym", "bias": True, "activation": "relu"}),
    "multiple_edges_and_loops": ("multi", 9, {"weighted": True, "normalize": "sym"}),
    "no_edges": ("no_edges", 5, {"normalize": "sym", "bias": True}),
    "no_nodes": ("no_nodes", 5, {"normalize": "row", "bias": True}),
    "no_channels": ("uniform", 0, {"normalize": "sym"}),
    "no_channels_log_softmax": ("uniform", 0, {"activation": "log_softmax"}),
    "one_node": ("one_node", 3, {"weighted": True}),
    "tiny": ("tiny", 3, {"weighted": True}),
    "tiny_sym": ("tiny", 2, {"weighted": True, "normalize": "sym", "bias": True, "activation": "elu"}),
    "tiny_log_softmax": ("tiny", 3, {"weighted": True, "bias": True, "activation": "log_softmax"}),
    "tiny_row": ("tiny", 2, {"weighted": True, "normalize": "row"}),
    "tiny_isolated": ("tiny_isolated", 2, {"normalize": "sym", "bias": True}),
}

GRAPHS = {
    "uniform": lambda k, ids: uniform_graph(60 + 10 * k, 300 + 50 * k, seed=k, index_dtype=ids),
    "weighted": lambda k, ids: uniform_graph(50 + 10 * k, 200, seed=k, weighted=True, index_dtype=ids),
    "power_law": lambda k, ids: power_law_graph(80, 500, index_dtype=ids),
    "hub": lambda k, ids: _with_ids(hub_graph(3000, 500), ids),
    "large": lambda k, ids: _with_ids(uniform_graph(1000, 3000), ids),
    "isolated": lambda k, ids: _with_ids(isolated_graph(60, 150), ids),
    "multi": lambda k, ids: uniform_graph(8, 200, index_dtype=ids),
    "no_edges": lambda k, ids: uniform_graph(6, 0, index_dtype=ids),
    "no_nodes": lambda k, ids: uniform_graph(0, 0, index_dtype=ids),
    "one_node": lambda k, ids: Graph.from_edge_index(torch.tensor([[0, 0], [0, 0]]), index_dtype=ids),
    "tiny": lambda k, ids: uniform_graph(5, 9, index_dtype=ids),
    "tiny_isolated": lambda k, ids: _with_ids(isolated_graph(6, 5), ids),
}


def _with_ids(graph: Graph, ids: torch.dtype) -> Graph:
    return Graph.from_edge_index(graph.edge_index, None, graph.num_nodes, index_dtype=ids)


def make_case(graph: Graph, channels: int, weighted=False, bias=False, **options) -> Case:
    generator = torch.Generator().manual_seed(0)
    tensors = {"x": torch.randn(graph.num_nodes, channels, generator=generator, dtype=torch.float64)}
    if weighted:
        tensors["weight"] = torch.rand(graph.num_edges, generator=generator, dtype=torch.float64) + 0.1
    if bias:
        tensors["bias"] = torch.randn(channels, generator=generator, dtype=torch.float64)

    def call(x, weight=None, bias=None):
        return gcn_aggregate(graph, x, weight=weight, bias=bias, **options)

    def formula(x, weight=None, bias=None):
        return dense_formula(graph, x, weight, bias, **options)

    return Case(tensors, call, formula)


def dense_formula(graph, x, weight=None, bias=None, normalize=None, activation=None):
    """The op's docstring as a dense product: nothing of the package but the list of edges."""
    source, target = graph.edge_index
    values = weight if weight is not None else torch.ones(graph.num_edges, dtype=x.dtype)
    if weight is None and graph.weight is not None:
        values = graph.weight.to(x.dtype)
        source, target = graph.col.long(), graph.row.long()
    n = graph.num_nodes
    adj = torch.zeros(n, n, dtype=x.dtype).index_put((target, source), values, accumulate=True)
    degree = adj.sum(1)
    if normalize == "sym":
        factor = torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
        adj = factor[:, None] * adj * factor
    elif normalize == "row":
        adj = torch.where(degree > 0, degree, 1).reciprocal()[:, None] * adj
    out = adj @ x
    return ACTIVATIONS[activation](out if bias is None else out + bias)


class TestGcnAggregate(OpSuite):
    op = "gcn_aggregate"
    places = (*PLACES, EMULATED)
    case_names = tuple(CASES)
    compiled_case_names = ("plain", "sym_weighted_bias_relu", "sym_own_weights")
    small_case_names = ("tiny", "tiny_sym", "tiny_log_softmax", "tiny_row", "tiny_isolated")

    def case(self, name, index_dtype=torch.int32, size=0):
        kind, channels, options = CASES[name]
        return make_case(GRAPHS[kind](size, index_dtype), channels, **options)

    def large_case(self, fraction=1):
        graph = power_law_graph(4000 // fraction, 40_000 // fraction)
        return make_case(graph, 48, weighted=True, bias=True, normalize="sym", activation="relu")

    def raw_calls(self, case):
        graph = GRAPHS["tiny"](0, torch.int32)
        x = torch.randn(5, 4, requires_grad=True)
        scale, bias, weight = torch.rand(5), torch.rand(4), torch.rand(graph.num_edges)
        structure = (graph.rowptr, graph.col, graph.schedule)
        fwd, edge_dot = torch.ops.advkern.gcn_aggregate_fwd, torch.ops.advkern.gcn_aggregate_edge_dot
        full = (*structure, x, weight, scale, scale.clone(), bias, 1)
        bare = (*structure, x.detach(), None, None, None, None, 0)
        calls = [(op, args) for op in (fwd.default, fwd.torch) for args in (full, bare)]
        dots = (*structure, x.detach(), torch.randn(5, 4))
        backward = torch.ops.advkern.gcn_aggregate_activation_bwd
        pair = (torch.randn(5, 4), torch.log_softmax(torch.randn(5, 4), 1))
        calls += [(op, (*pair, code)) for op in (backward.default, backward.torch) for code in (1, 2, 3)]
        return [*calls, (edge_dot.default, dots), (edge_dot.torch, dots)]

    def module(self):
        graph = uniform_graph(40, 200)
        torch.manual_seed(0)
        return nn.GraphConvolutionLayer(6, 4, normalize="sym", activation="relu"), (torch.randn(40, 6), graph)

    def wrong_inputs(self):
        graph, x = uniform_graph(5, 9), torch.randn(5, 3)
        negative = torch.tensor([-9.0] + [0.5] * 8)
        nan = torch.tensor([float("nan")] + [0.5] * 8)
        call = gcn_aggregate
        return {
            "graph_is_not_a_graph": (lambda: call(x, x), TypeError, r"graph: expected an advkern.Graph, got Tensor"),
            "graph_is_not_a_graph_but_weighted": (lambda: call(x, x, weight=x), TypeError, r"graph: .*got Tensor"),
            "x_is_not_a_tensor": (lambda: call(graph, x.tolist()), TypeError, r"x: expected a tensor, got list"),
            "bias_is_not_a_tensor": (
                lambda: call(graph, x, bias=0.5),
                TypeError,
                r"bias: expected a tensor, got float",
            ),
            "x_of_three_dimensions": (
                lambda: call(graph, x[None]),
                ValueError,
                r"x: expected \[num_nodes = 5.*1, 5, 3",
            ),
            "x_of_other_length": (lambda: call(graph, x[:4]), ValueError, r"x: expected \[num_nodes = 5.*\(4, 3\)"),
            "x_of_integers": (lambda: call(graph, x.long()), ValueError, r"x: expected float16.*int64"),
            "x_on_another_device": (lambda: call(graph, x.to("meta")), ValueError, r"x: .* on cpu.*meta"),
            "bias_of_other_length": (
                lambda: call(graph, x, bias=torch.zeros(4)),
                ValueError,
                r"bias: expected \[channels = 3\].*\(4,\)",
            ),
            "weight_of_other_length": (
                lambda: call(graph, x, weight=torch.ones(8)),
                ValueError,
                r"weight: .*\(9,\).*\(8,\)",
            ),
            "weight_of_integers": (
                lambda: call(graph, x, weight=torch.ones(9).long()),
                ValueError,
                r"weight: expected floats.*int64",
            ),
            "unknown_normalization": (lambda: call(graph, x, normalize="both"), ValueError, r"normalize: .*'both'"),
            "unknown_activation": (lambda: call(graph, x, activation="gelu"), ValueError, r"activation: .*'gelu'"),
            "negative_degree": (
                lambda: call(graph, x, weight=negative, normalize="sym"),
                ValueError,
                r"weight: expected every node's degree.*at least 0.*got -",
            ),
            "nan_degree": (
                lambda: call(graph, x, weight=nan, normalize="row"),
                ValueError,
                r"weight: expected every node's degree.*got nan",
            ),
        }

    # -- what only this op promises ------------------------------------------------------------------------------

    def test_row_without_edges_gives_the_activated_bias(self, place):
        bias = torch.tensor([-1.0, 2.0])
        graph = isolated_graph(6, 4)
        with running_on(place):
            out = gcn_aggregate(graph, torch.randn(6, 2), normalize="sym", bias=bias, activation="relu")
        assert torch.equal(out[1::2], torch.tensor([0.0, 2.0]).expand(3, 2))

    def test_gradient_reaches_the_weights_through_the_degrees(self, place):
        """One edge a row: normalised by rows its weight cancels, so its gradient is zero."""
        graph = Graph.from_edge_index(torch.tensor([[1, 0], [0, 1]]))
        weight = torch.tensor([2.0, 3.0], requires_grad=True)
        with running_on(place):
            gcn_aggregate(graph, torch.randn(2, 4), weight=weight, normalize="row").sum().backward()
        torch.testing.assert_close(weight.grad, torch.zeros(2), atol=1e-6, rtol=0)

    def test_row_outputs_are_the_same_bits_alone_and_in_a_batch(self, place, dtype):
        graphs = [uniform_graph(30, 90, seed=s, weighted=True) for s in range(3)]
        x = [torch.randn(30, 19).to(dtype).requires_grad_() for _ in graphs]
        with running_on(place):
            alone = [gcn_aggregate(g, f, normalize="sym") for g, f in zip(graphs, x, strict=True)]
            together = gcn_aggregate(Graph.batch(graphs), torch.cat(x), normalize="sym")
            assert torch.equal(together, torch.cat(alone))
            left = torch.autograd.grad(together.float().pow(2).sum(), x)
            right = torch.autograd.grad(sum(a.float().pow(2).sum() for a in alone), x)
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))

    def test_row_outputs_are_the_same_bits_in_a_matrix_that_no_cache_holds(self, place, dtype):
        if place == EMULATED:
            pytest.skip("the CUDA kernels have no form of their own for what caches hold, and the emulator is slow")
        graph, lanes = uniform_graph(300, 1500), 8 if dtype == torch.float64 else 16
        x = torch.randn(300, lanes, generator=torch.Generator().manual_seed(0)).to(dtype)
        beside = Graph(torch.zeros(2**17 + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int32))
        with running_on(place):
            alone = gcn_aggregate(graph, x)
            together = gcn_aggregate(Graph.batch([graph, beside]), torch.cat([x, x.new_ones(2**17, lanes)]))
        assert torch.equal(together[:300], alone)

    def test_infinities_and_nans_stay_in_their_rows(self, place):
        graph = Graph.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
        x = torch.tensor([[float("inf")], [float("nan")], [1.0]])
        with running_on(place):
            out = gcn_aggregate(graph, x, activation="relu")
        assert out[1] == float("inf") and out[2].isnan() and out[0] == 1

    @pytest.mark.parametrize("bad_id", [-1, 5, 2**31 - 1])
    @pytest.mark.parametrize("channels", [3, 16, 40])  # in batches, by fours and by itself
    def test_damaged_column_ends_in_an_error(self, place, channels, bad_id):
        graph = uniform_graph(5, 9)
        graph.col[3] = bad_id
        if place == EMULATED:
            return assert_nan_in_rows(graph, {int(graph.row[3])})
        with running_on(place), pytest.raises((RuntimeError, IndexError), match=r"graph is damaged: col must lie in"):
            gcn_aggregate(graph, torch.randn(5, channels))

    @pytest.mark.parametrize("bad_offset", [-7, 10**9])
    @pytest.mark.parametrize("channels", [3, 16, 40])
    def test_damaged_rowptr_ends_in_an_error(self, place, channels, bad_offset):
        graph = uniform_graph(5, 9)
        _ = graph.schedule
        graph.rowptr[2] = bad_offset
        if place == EMULATED:
            return assert_nan_in_rows(graph, {1, 2})
        with running_on(place), pytest.raises((RuntimeError, IndexError), match=r"graph is damaged"):
            gcn_aggregate(graph, torch.randn(5, channels))

    @pytest.mark.parametrize("bad_id", [-1, 5])
    def test_damaged_id_ends_in_an_error_in_the_edge_dot_product_too(self, place, bad_id):
        graph, a = uniform_graph(5, 9), torch.randn(5, 3)
        structure = (graph.rowptr, graph.col.clone(), graph.schedule)
        structure[1][4] = bad_id
        if place == EMULATED:
            with running_on(place):
                dot = torch.ops.advkern_emulated.gcn_aggregate_edge_dot(*structure, a, a)
            assert dot.isnan().tolist() == [e == 4 for e in range(9)]
            return
        op = torch.ops.advkern.gcn_aggregate_edge_dot
        with running_on(place), pytest.raises((RuntimeError, IndexError), match=r"graph is damaged"):
            (op.torch if place == "torch" else op.default)(*structure, a, a)

    def test_vmap_over_no_entries_is_refused(self, place):
        graph = uniform_graph(5, 9)
        with running_on(place), pytest.raises(ValueError, match=r"vmap: expected a batch of at least 1 entry, got 0"):
            torch.func.vmap(lambda x: gcn_aggregate(graph, x))(torch.zeros(0, 5, 3))

    def test_wrong_schedule_ends_in_an_error(self):
        graph, x = uniform_graph(5, 9), torch.randn(5, 3)
        op = torch.ops.advkern.gcn_aggregate_fwd.default
        for schedule in ([0, 4], [1, 5], [0, 7, 5], []):
            with pytest.raises(RuntimeError, match="schedule must ascend from row 0 to row 5"):
                op(graph.rowptr, graph.col, torch.tensor(schedule, dtype=torch.int64), x, None, None, None, None, 0)

    def test_raw_op_checks_types_and_lengths(self):
        graph, x = uniform_graph(5, 9), torch.randn(5, 3)
        op = torch.ops.advkern.gcn_aggregate_fwd.default
        structure = (graph.rowptr, graph.col, graph.schedule)
        for name, args in {
            "weight": (x, torch.ones(8), None, None, None),
            "row_scale": (x, None, torch.ones(5).double(), None, None),
            "bias": (x, None, None, None, torch.ones(4)),
            "x": (x[:4], None, None, None, None),
        }.items():
            with pytest.raises(RuntimeError, match=f"advkern: {name} must be"):
                op(*structure, *args, 0)

    @pytest.mark.parametrize("overload", ["default", "torch"])
    def test_raw_ops_check_the_activation(self, overload):
        graph, x = uniform_graph(5, 9), torch.randn(5, 3)
        fwd, bwd = (
            getattr(getattr(torch.ops.advkern, f"gcn_aggregate_{name}"), overload) for name in ("fwd", "activation_bwd")
        )
        for code in (-1, 4):
            with pytest.raises(RuntimeError, match=rf"activation must lie in \[0, 3\], got {code}"):
                fwd(graph.rowptr, graph.col, graph.schedule, x, None, None, None, None, code)
        for code in (0, 4):
            with pytest.raises(RuntimeError, match=rf"activation must lie in \[1, 3\], got {code}"):
                bwd(x, x, code)

    def test_raw_activation_bwd_checks_shapes_and_types(self):
        bwd, x = torch.ops.advkern.gcn_aggregate_activation_bwd.default, torch.randn(5, 3)
        for out in (x[:, :2].contiguous(), x.double()):
            with pytest.raises(RuntimeError, match=r"out must have grad's channels and type"):
                bwd(x, out, 1)
        with pytest.raises(RuntimeError, match=r"grad must be a contiguous matrix"):
            bwd(x.t(), x.t(), 1)


def activation_backward(place, *args):
    """The op that GcnAggregateFunction calls there."""
    ops = torch.ops.advkern_emulated if place == EMULATED else torch.ops.advkern
    op = ops.gcn_aggregate_activation_bwd
    return (op.torch if place == "torch" else op.default)(*args)


def assert_nan_in_rows(graph, rows):
    """What the CUDA kernels make of damage, where an error would need a synchronisation."""
    with running_on(EMULATED):
        out = gcn_aggregate(graph, torch.randn(graph.num_nodes, 3), activation="relu")
    assert [bool(row.isnan().all()) for row in out] == [i in rows for i in range(graph.num_nodes)]
    assert not out[[i not in rows for i in range(graph.num_nodes)]].isnan().any()


@pytest.mark.parametrize("place", PLACES)
def test_bias_gradient_of_one_channel_is_the_same_on_any_number_of_threads(place):
    threads = torch.get_num_threads()
    graph = Graph(torch.zeros(400_001, dtype=torch.int64), torch.zeros(0, dtype=torch.int32))
    cotangent = torch.randn(400_000, 1)
    grads = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            bias = torch.zeros(1, requires_grad=True)
            with running_on(place):
                gcn_aggregate(graph, torch.zeros(400_000, 1), bias=bias).backward(cotangent)
            grads.append(bias.grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])
    torch.testing.assert_close(grads[0].double(), cotangent.double().sum(0), rtol=0, atol=1e-2)


@pytest.mark.parametrize("place", [p for p in TestGcnAggregate.places if p != "torch"])
def test_half_types_are_summed_in_float32(place):
    """2,048 ones in float16: a float16 sum would stop at 2,048; 4,096 of them are exact in float32."""
    graph = Graph(torch.tensor([0, 4096, *[4096] * 4095]), torch.arange(4096, dtype=torch.int32))
    with running_on(place):
        assert gcn_aggregate(graph, torch.ones(4096, 1, dtype=torch.float16))[0] == 4096


MEASURED = """
import torch
from advkern import use_backend
from advkern.ops import gcn_aggregate
from advkern.testing import standard_graph
wanted = "{wanted}"
graph = standard_graph("arxiv")
x = torch.randn(graph.num_nodes, 64, requires_grad="x" in wanted)
weight = torch.rand(graph.num_edges, requires_grad=True) if "weight" in wanted else None
small = graph.__class__.from_edge_index(torch.tensor([[0], [0]]))
use_backend("{name}").__enter__()
gcn_aggregate(small, torch.ones(1, 1))  # loads what loads lazily
def measured():
    out = gcn_aggregate(graph, x, weight=weight, normalize="sym", activation="relu")
    if wanted:
        out.backward(out.detach())
    return out
"""


@pytest.mark.parametrize("name", ["torch", *(["cpu"] if len(PLACES) > 1 else [])])
@pytest.mark.parametrize(
    ("wanted", "matrices", "vectors"),
    [("", 1, 0), ("x", 4, 4), ("x weight", 4, 14)],
    ids=["forward", "gradient_of_x", "gradient_of_x_and_weight"],
)
def test_memory_is_of_order_nodes_and_edges_not_messages(name, wanted, matrices, vectors):
    """At arxiv size: so many N x F matrices (output; with a gradient also grad, its masked form, grad_x) and vectors of
    E elements (transpose: ids, order, rows; for the weights also their dot products, sums and orders). Messages of
    E x F would be 299 MB on top.
    """
    num_nodes, num_edges, channels = 169_343, 1_166_243, 64
    matrices += 3 * (name == "torch")  # a copy a step: scaled before, summed, scaled after
    allowed = 4 * matrices * num_nodes * channels + 8 * (12 * num_nodes + vectors * num_edges)
    used = peak_memory(MEASURED.format(wanted=wanted, name=name))
    assert used < allowed, f"{used / 1e6:.0f} MB of {allowed / 1e6:.0f}"


def test_large_graph_matches_torch_csr():
    """At arxiv size, where offsets, threads and prefetches all matter."""
    graph = standard_graph("arxiv", "power-law", weighted=True)
    x = torch.randn(graph.num_nodes, 17)
    with use_backend("torch"):
        expected = gcn_aggregate(graph, x.double())
    torch.testing.assert_close(gcn_aggregate(graph, x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_large_output_has_the_bits_of_small_ones(place, dtype):
    """From 32 MB on it goes past the caches, in whole vectors, but for half types; the narrow halves do not."""
    graph, channels = uniform_graph(140_000, 300_000), 256 // dtype.itemsize
    x, bias = torch.randn(graph.num_nodes, channels, dtype=dtype), torch.randn(channels, dtype=dtype)
    call = lambda x, bias: gcn_aggregate(graph, x, normalize="sym", bias=bias, activation="relu")
    with running_on(place):
        parts = [call(*part) for part in zip(x.chunk(2, 1), bias.chunk(2), strict=True)]
        assert torch.equal(call(x, bias), torch.cat(parts, 1))
        for code in (1, 2, 3):  # relu, elu, log_softmax
            halves = [activation_backward(place, half, -half, code) for half in x.chunk(2)]
            assert torch.equal(activation_backward(place, x, -x, code), torch.cat(halves))


def test_weights_that_begin_to_require_grad_get_the_path_through_the_degrees():
    """What was kept while they were constants must not stand in for it."""
    weight = torch.tensor([1.0, 2.0, 3.0])
    graph = Graph(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 0], dtype=torch.int32), weight)
    x = torch.ones(3, 1)
    gcn_aggregate(graph, x, normalize="row")
    gcn_aggregate(graph, x, normalize="row").sum()
    weight.requires_grad_()
    gcn_aggregate(graph, x, normalize="row").sum().backward()
    torch.testing.assert_close(weight.grad, torch.zeros(3), atol=1e-6, rtol=0)


def test_weights_changed_in_place_change_the_degrees():
    weight = torch.ones(3)
    graph = Graph(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 0], dtype=torch.int32), weight)
    before = gcn_aggregate(graph, torch.ones(3, 1), normalize="row")
    weight.mul_(10)
    assert torch.equal(gcn_aggregate(graph, torch.ones(3, 1), normalize="row"), before)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("end", "offset"), [(0, 2), (-1, 7)])
def test_damaged_ends_of_rowptr_end_in_an_error(place, end, offset):
    """Edges that no row owns would be left unwritten in the gradient of the weights."""
    graph, x = uniform_graph(5, 9), torch.randn(5, 3)
    structure = (graph.rowptr, graph.col, graph.schedule)
    graph.rowptr[end] = offset
    op = torch.ops.advkern.gcn_aggregate_edge_dot
    overload = op.torch if place == "torch" else op.default
    with running_on(place), pytest.raises((RuntimeError, IndexError), match=r"graph is damaged"):
        overload(*structure, x, x)


@pytest.mark.parametrize("channels", [1, 5, 16, 40, 300])
@pytest.mark.parametrize("place", [*PLACES, EMULATED])
def test_log_softmax_of_extreme_rows(place, channels):
    """A row of great, of infinite and of missing numbers gives what torch makes of it, and so do the gradients."""
    loops = torch.arange(7).expand(2, 7)  # each node is its own neighbour
    x = torch.randn(7, channels, generator=torch.Generator().manual_seed(0))
    x[1] += 1e4
    x[2, -1] = 1e30
    x[3, 0], x[4, -1], x[5, 0] = float("inf"), float("-inf"), float("nan")
    x[6] = -1e38
    expected = torch.log_softmax(x.requires_grad_(), 1)
    cotangent = torch.randn(7, channels, generator=torch.Generator().manual_seed(1))
    with running_on(place):
        out = gcn_aggregate(Graph.from_edge_index(loops), x, activation="log_softmax")
        grads = [torch.autograd.grad(y, x, cotangent)[0] for y in (out, expected)]
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(*grads, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", [*PLACES, EMULATED])
@pytest.mark.parametrize("code", [1, 2])
def test_gradient_of_an_activation_lets_nan_through(place, code):
    nan, inf = float("nan"), float("inf")
    out = torch.tensor([[nan, 1.0, inf, -0.5, 0.0, nan]])
    grad = torch.tensor([[1.0, nan, 2.0, nan, inf, nan]])
    with running_on(place):
        actual = activation_backward(place, grad, out, code)
    plain = torch.where(out <= 0, 0, grad) if code == 1 else grad * torch.where(out > 0, 1, out + 1)
    torch.testing.assert_close(actual, plain, equal_nan=True)
