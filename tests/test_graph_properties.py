"""What holds for any graph: random edge lists with multiple edges, self loops and isolated nodes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advkern import Graph, backend, use_backend
from advkern.ops import gcn_aggregate
from advkern.reference.gcn_aggregate import ACTIVATION_NAMES

BACKENDS = ["torch", "cpu"] if backend.COMPILED.status == "loaded" else ["torch"]


@st.composite
def edge_lists(draw, lowest_weight=-8):
    """``(edge_index, weights or None, num_nodes)``; the weights are eighths, so that sums of them are exact."""
    num_nodes = draw(st.integers(0, 7))
    node = st.integers(0, max(num_nodes - 1, 0))
    pairs = draw(st.lists(st.tuples(node, node), max_size=20 if num_nodes else 0))
    ids = draw(st.sampled_from([torch.int32, torch.int64]))
    edge_index = torch.tensor(pairs, dtype=ids).reshape(-1, 2).t()
    eighths = st.lists(st.integers(lowest_weight, 16), min_size=len(pairs), max_size=len(pairs))
    weights = draw(st.none() | eighths)
    return edge_index, None if weights is None else torch.tensor(weights, dtype=torch.float64) / 8, num_nodes


def dense(edge_index, weights, num_nodes):
    """The float64 matrix in which row i gathers from column j, differentiable in the weights."""
    values = torch.ones(edge_index.shape[1], dtype=torch.float64) if weights is None else weights
    source, target = edge_index.long()
    matrix = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    return matrix.index_put((target, source), values, accumulate=True)


@given(edge_lists())
def test_edge_list_and_dense_matrix_are_the_same_graph(edges):
    edge_index, weights, num_nodes = edges
    graph, matrix = Graph.from_edge_index(edge_index, weights, num_nodes), dense(*edges)
    assert torch.equal(graph.to_dense(torch.float64), matrix)
    assert torch.equal(graph.edge_index, edge_index.long())
    assert torch.equal(Graph.from_dense(matrix).to_dense(), matrix)
    again = Graph.from_edge_index(graph.edge_index, weights, num_nodes)
    assert torch.equal(again.col, graph.col)
    assert torch.equal(again.rowptr, graph.rowptr)


@given(edge_lists())
def test_sparse_layouts_hold_the_dense_matrix(edges):
    edge_index, weights, num_nodes = edges
    values = torch.ones(edge_index.shape[1], dtype=torch.float64) if weights is None else weights
    unsorted = torch.sparse_coo_tensor(edge_index.flip(0).long(), values, (num_nodes, num_nodes), check_invariants=True)
    assert torch.equal(Graph.from_coo(unsorted).to_dense(), dense(*edges))
    assert torch.equal(Graph.from_csr(dense(*edges).to_sparse_csr()).to_dense(), dense(*edges))
    assert torch.equal(Graph.from_csc(dense(*edges).to_sparse_csc()).to_dense(), dense(*edges))


@given(edge_lists())
def test_transposing_turns_the_edges_and_twice_gives_them_back(edges):
    edge_index, weights, num_nodes = edges
    graph = Graph.from_edge_index(edge_index, weights, num_nodes)
    assert torch.equal(graph.t().edge_index, edge_index.long().flip(0))
    assert torch.equal(graph.t().to_dense(torch.float64), dense(*edges).t())
    assert torch.equal(graph.t().t().edge_index, edge_index.long())
    assert torch.equal(graph.t().t().to_dense(torch.float64), dense(*edges))


@given(edge_lists())
def test_every_node_has_one_more_loop_or_its_own(edges):
    edge_index, weights, num_nodes = edges
    looped = Graph.from_edge_index(edge_index, weights, num_nodes).with_self_loops(2.0)
    source, target = edge_index.long()
    alone = torch.ones(num_nodes, dtype=torch.float64).index_fill(0, target[source == target], 0)
    assert torch.equal(looped.to_dense(torch.float64), dense(*edges) + 2 * torch.diag(alone))
    again = looped.with_self_loops(5.0)
    assert torch.equal(again.edge_index, looped.edge_index)
    assert torch.equal(again.to_dense(torch.float64), looped.to_dense(torch.float64))


@given(st.lists(edge_lists(), min_size=1, max_size=4), st.booleans())
def test_batch_is_block_diagonal_and_keeps_the_edges(lists, weighted):
    lists = [(e, torch.arange(1.0, e.shape[1] + 1).double() if weighted else None, n) for e, _, n in lists]
    joined = Graph.batch([Graph.from_edge_index(*edges) for edges in lists])
    assert torch.equal(joined.to_dense(torch.float64), torch.block_diag(*(dense(*edges) for edges in lists)))
    starts = torch.tensor([0, *(n for _, _, n in lists)]).cumsum(0)
    shifted = [e.long() + start for (e, _, _), start in zip(lists, starts, strict=False)]
    assert torch.equal(joined.edge_index, torch.cat(shifted, 1))


def normalized(matrix, mode):
    degree = matrix.sum(1)
    safe = torch.where(degree > 0, degree, 1)
    if mode == "sym":
        factor = torch.where(degree > 0, safe**-0.5, 0)
        return factor[:, None] * matrix * factor
    return torch.where(degree > 0, 1 / safe, 0)[:, None] * matrix if mode == "row" else matrix


_FUNCTIONS = (lambda x: x, torch.relu, torch.nn.functional.elu, lambda x: torch.log_softmax(x, 1))
ACTIVATIONS = dict(zip(ACTIVATION_NAMES, _FUNCTIONS, strict=True))


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
@pytest.mark.parametrize("mode", [None, "sym", "row"])
@given(edges=edge_lists(lowest_weight=0), channels=st.integers(0, 5), seed=st.integers(0, 2**31), biased=st.booleans())
def test_aggregation_is_the_dense_product(where, activation, mode, edges, channels, seed, biased):
    edge_index, weights, num_nodes = edges
    generator = torch.Generator().manual_seed(seed)  # reals: no sum falls on the kink of an activation by accident

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x, grad = draw(num_nodes, channels).requires_grad_(), draw(num_nodes, channels)
    bias = draw(channels).requires_grad_() if biased else None
    if weights is not None:
        weights = weights.requires_grad_()
    product = normalized(dense(edge_index, weights, num_nodes), mode) @ x
    expected = ACTIVATIONS[activation](product if bias is None else product + bias)

    graph = Graph.from_edge_index(edge_index, weights, num_nodes)
    with use_backend(where):
        actual = gcn_aggregate(graph, x, normalize=mode, bias=bias, activation=activation)
        close = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums of at most 20 terms
        torch.testing.assert_close(actual, expected, **close)
        leaves = [t for t in (x, weights, bias) if t is not None]
        grads = [torch.autograd.grad(out, leaves, grad) for out in (actual, expected)]
    torch.testing.assert_close(*grads, **close)
