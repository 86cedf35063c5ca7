"""What a Graph derives from its structure: views, transpose, degrees, schedule, other graphs."""

import pytest
import torch
from adjacencies import assert_holds

import advkern
from advkern import Graph
from advkern.ops import gcn_aggregate
from advkern.testing import hub_graph, isolated_graph, power_law_graph, uniform_graph

# Unsorted, with a multiple edge and a self loop; node 4 has no edge.
EDGES = torch.tensor([[1, 0, 3, 3, 2, 0, 1], [0, 2, 1, 1, 2, 1, 0]])  # source, target
VALUES = torch.tensor([1.0, 2, 4, 8, 16, 32, 64], dtype=torch.float64)


@pytest.fixture
def graph():
    return Graph.from_edge_index(EDGES, VALUES, 5)


# -- views -------------------------------------------------------------------------------------------------------


def test_rows_and_columns_are_those_of_the_csr(graph):
    assert graph.rowptr.tolist() == [0, 2, 5, 7, 7, 7]
    assert graph.row.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert graph.col.tolist() == [1, 1, 3, 3, 0, 0, 2]  # within a row as they came
    assert graph.weight.tolist() == [1, 64, 4, 8, 32, 2, 16]
    assert (graph.num_nodes, graph.num_edges, graph.device) == (5, 7, torch.device("cpu"))


def test_edge_order_leads_from_the_csr_to_the_callers_list(graph):
    assert torch.equal(VALUES[graph.edge_order], graph.weight)
    assert torch.equal(EDGES[0, graph.edge_order], graph.col.long())


def test_edge_order_is_none_where_the_edges_came_by_row(directed):
    assert Graph.from_edge_index(torch.tensor([[2, 0, 1], [0, 0, 1]])).edge_order is None
    assert Graph.from_dense(directed).edge_order is None


def test_edge_index_comes_back_in_the_callers_order(graph):
    assert torch.equal(graph.edge_index, EDGES)
    assert graph.edge_index.dtype == torch.int64


def test_repr_tells_sizes_types_and_device(graph):
    text = "Graph(num_nodes=5, num_edges=7, ids=int32, weight=float64, device=cpu)"
    assert repr(graph) == text
    assert repr(graph.with_weight(None)) == text.replace("float64", "none")


def test_to_dense_takes_a_type(graph):
    assert graph.to_dense().dtype == torch.float64
    assert graph.to_dense(torch.bfloat16).dtype == torch.bfloat16
    assert graph.with_weight(None).to_dense().dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    ["rowptr", "col", "row", "weight", "edge_order", "edge_index", "schedule", "num_nodes", "num_edges", "device"],
)
def test_attribute_cannot_be_set(graph, name):
    with pytest.raises(AttributeError):
        setattr(graph, name, getattr(graph, name))


# -- transpose ---------------------------------------------------------------------------------------------------


def test_transpose(graph):
    assert_holds(graph.t(), graph.to_dense().t())
    assert torch.equal(graph.t().edge_index, EDGES.flip(0))


def test_transposing_twice_gives_the_matrix_and_the_order_back(graph):
    twice = graph.t().t()
    assert_holds(twice, graph.to_dense())
    assert torch.equal(twice.edge_index, EDGES)


def test_weights_of_a_transpose_are_in_the_callers_order(graph):
    new = VALUES + 1
    assert torch.equal(graph.t().with_weight(new).to_dense(), graph.with_weight(new).to_dense().t())


def test_transposing_again_sorts_nothing(graph):
    assert graph.t().col is graph.t().col
    assert graph.with_weight(None).t().col is graph.t().col


def test_gradient_flows_through_the_transpose(graph):
    values = VALUES.clone().requires_grad_()
    factor = torch.randn(5, 5, dtype=torch.float64)
    (graph.with_weight(values).t().to_dense() * factor).sum().backward()
    torch.testing.assert_close(values.grad, factor[EDGES[0], EDGES[1]])


# -- degrees and normalisation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_degree_is_the_sum_of_a_row(graph, dtype):
    assert torch.equal(graph.degree(dtype), graph.to_dense().sum(1).to(dtype))
    assert graph.degree().dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_degree_without_weights_counts_edges(graph, dtype):
    assert torch.equal(graph.with_weight(None).degree(dtype), torch.tensor([2, 3, 2, 0, 0], dtype=dtype))


def test_degree_of_float64_weights_is_summed_in_float64():
    row = Graph.from_edge_index(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([1.0, 2.0**-40]).double())
    assert row.degree(torch.float64) == 1 + 2.0**-40


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_degree_of_half_weights_is_summed_in_float32(dtype, autocast):
    count = 4097  # neither half type can hold it
    hub = Graph.from_edge_index(torch.zeros(2, count, dtype=torch.int64), torch.ones(count, dtype=dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert torch.equal(hub.degree(), torch.tensor([float(count)]))


def test_normalization_factors(graph):
    degree = graph.to_dense().sum(1)
    rows, cols = graph.normalization("sym", torch.float64)
    expected = torch.where(degree > 0, degree, torch.inf) ** -0.5  # a degree of 0 gives the factor 0
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(cols, expected)
    rows, cols = graph.normalization("row", torch.float64)
    torch.testing.assert_close(rows, expected**2)
    assert cols is None
    assert graph.normalization("row")[0].dtype == torch.float32


def test_negative_weight_is_no_error_where_the_degree_is_positive():
    graph = Graph.from_dense(torch.tensor([[3.0, -1], [0, 4]]))
    torch.testing.assert_close(graph.normalization("row")[0], torch.tensor([1 / 2, 1 / 4]))


def test_gradient_flows_through_the_degree_and_stops_where_it_is_zero():
    index = torch.tensor([[1, 0, 2], [0, 0, 1]])
    values = torch.tensor([2.0, 6, 0], dtype=torch.float64, requires_grad=True)  # node 1's degree is 0
    Graph.from_edge_index(index, values, 3).normalization("sym", torch.float64)[0].sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([-0.5 * 8**-1.5, -0.5 * 8**-1.5, 0]).double())


def test_derived_values_are_kept(graph):
    assert graph.degree() is graph.degree()
    assert graph.normalization("sym")[0] is graph.normalization("sym")[0]
    assert graph.with_self_loops() is graph.with_self_loops()
    assert graph.row is graph.row
    assert graph.schedule is graph.schedule


def test_what_no_grad_derived_does_not_cut_a_later_gradient(graph):
    values = VALUES.clone().requires_grad_()
    trained = graph.with_weight(values)

    def total():
        rows, _ = trained.with_self_loops().normalization("sym", torch.float64)
        return rows.sum() + trained.degree().sum()

    with torch.no_grad():
        total()
    assert torch.autograd.grad(total(), values)[0].abs().min() > 0


def test_what_follows_from_weights_that_train_is_not_stale_after_a_step(graph):
    values = graph.weight.clone().requires_grad_()
    trained = Graph(graph.rowptr, graph.col, values)  # in the order of the CSR: the graph holds the leaf itself
    trained.normalization("row"), trained.with_self_loops()
    with torch.no_grad():
        values.mul_(2)
    assert torch.equal(trained.degree(), 2 * graph.degree())
    assert torch.equal(trained.normalization("row", torch.float64)[0], graph.normalization("row", torch.float64)[0] / 2)
    assert trained.with_self_loops().weight.sum() == 2 * VALUES.sum() + 4


@pytest.mark.parametrize("mode", ["sym", "row"])
def test_what_inference_mode_derived_serves_training(graph, mode):
    x = torch.randn(5, 2, dtype=torch.float64)
    with torch.inference_mode():
        inferred = gcn_aggregate(graph.with_self_loops(), x, normalize=mode)
    x.requires_grad_()
    trained = gcn_aggregate(graph.with_self_loops(), x, normalize=mode)
    trained.sum().backward()
    assert torch.equal(inferred, trained)
    assert x.grad.count_nonzero() > 0


# -- schedule ----------------------------------------------------------------------------------------------------

SCHEDULED = {
    "no node": lambda: Graph.from_edge_index(EDGES[:, :0]),
    "one node": lambda: Graph.from_edge_index(EDGES[:, :0], None, 1),
    "uniform": lambda: uniform_graph(20_000, 100_000),
    "power law": lambda: power_law_graph(20_000, 100_000),
    "hub": lambda: hub_graph(20_000, 20_000),
    "isolated": lambda: isolated_graph(20_000, 100_000),
    "more work than blocks": lambda: Graph.from_edge_index(EDGES[:, :0], None, 3_000_000),
}


@pytest.mark.parametrize("make", SCHEDULED.values(), ids=SCHEDULED)
def test_schedule_covers_all_rows_in_balanced_blocks(make):
    graph = make()
    bounds = graph.schedule
    assert (bounds[0], bounds[-1]) == (0, graph.num_nodes)
    assert (bounds.diff() >= 0).all()

    blocks, total = len(bounds) - 1, graph.num_nodes + graph.num_edges
    assert blocks == max(1, min(1024, total // 2048))
    work = graph.rowptr[bounds].diff() + bounds.diff()
    heaviest_row = int(graph.rowptr.diff().max()) + 1 if graph.num_nodes else 0
    assert work.max() <= total / blocks + heaviest_row  # a row is never split


# -- other weights, self loops -----------------------------------------------------------------------------------


def test_new_weights_are_given_in_the_callers_order(graph):
    new = VALUES.flip(0)
    assert_holds(graph.with_weight(new), Graph.from_edge_index(EDGES, new, 5).to_dense())
    assert graph.with_weight(new).col is graph.col


def test_gradient_reaches_new_weights_in_the_callers_order(graph):
    new = VALUES.clone().requires_grad_()
    factor = torch.randn(5, 5, dtype=torch.float64)
    (graph.with_weight(new).to_dense() * factor).sum().backward()
    assert torch.equal(new.grad, factor[EDGES[1], EDGES[0]])


def test_self_loops_by_hand(graph):
    looped = graph.with_self_loops(128)
    missing = torch.tensor([0, 1, 3, 4])  # node 2 keeps its own
    assert torch.equal(looped.edge_index, torch.cat([EDGES, missing.expand(2, 4)], 1))
    assert_holds(looped, graph.to_dense() + torch.diag(torch.tensor([128.0, 128, 0, 128, 128])))
    assert looped.rowptr.tolist() == [0, 3, 7, 9, 10, 11]
    assert looped.col.tolist() == [1, 1, 0, 3, 3, 0, 1, 0, 2, 3, 4]  # added ones last in their row


def test_weights_of_added_self_loops_come_last_in_the_callers_order(graph):
    new = torch.arange(1.0, 12, dtype=torch.float64)
    dense = graph.with_self_loops().with_weight(new).to_dense()
    assert dense.diagonal().tolist() == [8, 9, 5, 10, 11]
    assert dense[1, 3] == 3 + 4


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_self_loops_of_a_graph_without_weights(graph, weight):
    looped = graph.with_weight(None).with_self_loops(weight)
    assert (looped.weight is None) == (weight == 1)
    assert looped.to_dense().diagonal().tolist() == [weight, weight, 1, weight, weight]


def test_self_loops_are_added_once(graph):
    looped = graph.with_self_loops()
    assert_holds(looped.with_self_loops(9), looped.to_dense())


def test_gradient_flows_through_added_self_loops(graph):
    values = VALUES.clone().requires_grad_()
    factor = torch.randn(5, 5, dtype=torch.float64)
    (graph.with_weight(values).with_self_loops().to_dense() * factor).sum().backward()
    assert torch.equal(values.grad, factor[EDGES[1], EDGES[0]])


def test_self_loops_are_those_of_pytorch_geometric(graph):
    utils = pytest.importorskip("torch_geometric.utils")
    index, values = utils.add_remaining_self_loops(EDGES, VALUES, fill_value=3.0, num_nodes=5)
    assert_holds(graph.with_self_loops(3.0), Graph.from_edge_index(index, values, 5).to_dense())


# -- batches -----------------------------------------------------------------------------------------------------


def members():
    """Sorted and unsorted ones, int32 and int64 ids, one without edges, one without nodes."""
    return [
        Graph.from_edge_index(EDGES, VALUES, 5),
        Graph.from_dense(torch.tensor([[0.0, 3], [5, 7]]).double()),
        Graph.from_edge_index(EDGES[:, :0], VALUES[:0], 3),
        Graph.from_edge_index(EDGES[:, :0], VALUES[:0], 0),
        Graph.from_edge_index(EDGES.flip(0), VALUES, index_dtype=torch.int64),
    ]


@pytest.mark.parametrize("weighted", [True, False])
def test_batch_is_block_diagonal(weighted):
    graphs = [g if weighted else g.with_weight(None) for g in members()]
    joined = Graph.batch(graphs)
    assert (joined.weight is not None) == weighted
    assert joined.col.dtype == torch.int64
    assert_holds(joined, torch.block_diag(*(g.to_dense(torch.float64) for g in graphs)))


def test_batch_keeps_the_callers_order_of_edges():
    graphs = members()
    joined = Graph.batch(graphs)
    starts = [0, 5, 7, 10, 10]
    assert torch.equal(joined.edge_index, torch.cat([g.edge_index + s for g, s in zip(graphs, starts, strict=True)], 1))
    new = torch.randn(joined.num_edges, dtype=torch.float64)
    parts = new.split([g.num_edges for g in graphs])
    blocks = [g.with_weight(part).to_dense() for g, part in zip(graphs, parts, strict=True)]
    assert torch.equal(joined.with_weight(new).to_dense(), torch.block_diag(*blocks))


def test_batch_of_one_is_that_graph(graph):
    assert torch.equal(Graph.batch([graph]).edge_index, EDGES)
    assert_holds(Graph.batch(iter([graph])), graph.to_dense())


def test_gradient_flows_through_a_batch():
    values = VALUES.clone().requires_grad_()
    first = Graph.from_edge_index(EDGES, values, 5)
    Graph.batch([first, first]).to_dense().sum().backward()
    assert torch.equal(values.grad, torch.full_like(VALUES, 2))


@pytest.mark.parametrize("mode", [None, "sym", "row"])
@pytest.mark.parametrize("backend", [None, "torch"])
def test_aggregation_gives_the_same_bits_alone_and_in_a_batch(mode, backend):
    graphs = [power_law_graph(400, 3000, seed=k, weighted=True) for k in range(3)]
    xs = [torch.randn(400, 37, requires_grad=True) for _ in graphs]
    grads = [torch.randn(400, 37) for _ in graphs]
    with advkern.use_backend(backend or {}):
        out = gcn_aggregate(Graph.batch(graphs), torch.cat(xs), normalize=mode)
        joined = torch.autograd.grad(out, xs, torch.cat(grads))
        for k, graph in enumerate(graphs):
            alone = gcn_aggregate(graph, xs[k], normalize=mode)
            assert torch.equal(out[400 * k : 400 * (k + 1)], alone)
            assert torch.equal(joined[k], *torch.autograd.grad(alone, xs[k], grads[k]))


# -- devices, degenerate graphs ----------------------------------------------------------------------------------


def test_to_the_same_device_is_the_same_graph(graph):
    assert graph.to("cpu") is graph
    assert graph.to(torch.device("cpu")) is graph


def test_to_another_device_moves_every_tensor(graph):
    moved = graph.to("meta")
    assert {t.device.type for t in (moved.rowptr, moved.col, moved.weight, moved.edge_order)} == {"meta"}
    assert (moved.num_nodes, moved.num_edges) == (5, 7)
    assert Graph.from_edge_index(EDGES).to("meta").weight is None


@pytest.mark.parametrize("num_nodes", [0, 1, 3])
def test_graph_without_edges(num_nodes):
    graph = Graph.from_edge_index(EDGES[:, :0], None, num_nodes)
    assert graph.rowptr.tolist() == [0] * (num_nodes + 1)
    assert graph.edge_index.shape == (2, 0)
    assert torch.equal(graph.degree(), torch.zeros(num_nodes))
    assert_holds(graph.t(), torch.zeros(num_nodes, num_nodes).double())
    assert_holds(graph.with_self_loops(), torch.eye(num_nodes).double())


@pytest.mark.parametrize("mode", [None, "sym", "row"])
@pytest.mark.parametrize("num_nodes", [0, 1, 3])
def test_aggregation_without_edges_is_zero_and_so_is_its_gradient(num_nodes, mode):
    graph = Graph.from_edge_index(EDGES[:, :0], torch.ones(0), num_nodes)
    x = torch.randn(num_nodes, 2, requires_grad=True)
    out = gcn_aggregate(graph, x, normalize=mode)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(num_nodes, 2))
    assert torch.equal(x.grad, torch.zeros(num_nodes, 2))


def test_single_node_with_a_loop():
    graph = Graph.from_dense(torch.tensor([[4.0]]))
    x = torch.tensor([[3.0]])
    results = [gcn_aggregate(graph, x, normalize=mode).item() for mode in (None, "sym", "row")]
    assert results == [12, 3, 3]
