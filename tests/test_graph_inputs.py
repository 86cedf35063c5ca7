"""Everything that may stand for an adjacency becomes the same Graph: that of a dense float64 matrix, and directed."""

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
import torch
from adjacencies import (
    assert_holds,
    coo,
    csc,
    csr,
    of_every_tensor,
    quiet,
    stored,
    uncoalesced,
    uncoalesced_with_duplicates,
)

from advkern import Graph
from advkern.adjacency import as_graph
from advkern.ops import gcn_aggregate

pytestmark = quiet

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SCIPY = {
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc_matrix": scipy.sparse.csc_matrix,
    "coo_matrix": scipy.sparse.coo_matrix,
    "lil_matrix": scipy.sparse.lil_matrix,
    "csr_array": scipy.sparse.csr_array,
    "coo_array": scipy.sparse.coo_array,
}


# -- matrices ----------------------------------------------------------------------------------------------------


@of_every_tensor
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tensor(make, dtype, directed):
    graph = as_graph(make(directed.to(dtype)))
    assert graph.weight.dtype == dtype
    assert_holds(graph, directed)


@pytest.mark.parametrize(
    ("build", "make"),
    [
        (Graph.from_dense, torch.clone),
        (Graph.from_coo, coo),
        (Graph.from_coo, uncoalesced),
        (Graph.from_csr, csr),
        (Graph.from_csc, csc),
    ],
)
def test_named_constructor(build, make, directed):
    assert_holds(build(make(directed)), directed)


@pytest.mark.parametrize("make", [torch.clone, coo, uncoalesced, csr, csc])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_integers_are_cast(make, dtype, directed):
    whole = (directed * 2).to(dtype)
    graph = as_graph(make(whole))
    assert graph.weight.dtype == torch.float32
    assert_holds(graph, whole.double())


def test_bools_are_cast(directed):
    assert_holds(as_graph(directed != 0), (directed != 0).double())


def test_csr_with_unsorted_and_repeated_columns():
    rowptr, col, values = torch.tensor([0, 3, 3, 4]), torch.tensor([2, 0, 2, 1]), torch.tensor([1.0, 2, 4, 8])
    adj = torch.sparse_csr_tensor(rowptr, col, values, (3, 3), check_invariants=False)
    graph = as_graph(adj)
    assert graph.num_edges == 4
    assert_holds(graph, torch.tensor([[2.0, 0, 5], [0, 0, 0], [0, 8, 0]]).double())


def test_csr_is_not_copied(directed):
    adj = directed.to_sparse_csr()
    assert Graph.from_csr(adj).col.data_ptr() == adj.col_indices().data_ptr()


def test_coo_keeps_an_explicit_zero_and_dense_does_not():
    index, values = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.0, 3])
    assert as_graph(torch.sparse_coo_tensor(index, values, (2, 2))).num_edges == 2
    assert as_graph(torch.tensor([[0.0, 0], [3, 0]])).num_edges == 1


@of_every_tensor
def test_empty_matrix(make):
    for num_nodes in (0, 1, 3):
        assert_holds(as_graph(make(torch.zeros(num_nodes, num_nodes))), torch.zeros(num_nodes, num_nodes).double())


@pytest.mark.parametrize("make", SCIPY.values(), ids=SCIPY)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64], ids=lambda dtype: dtype.__name__)
def test_scipy(make, dtype, directed):
    whole = directed * 2
    graph = as_graph(make(whole.numpy().astype(dtype)))
    assert graph.weight.dtype == (torch.float64 if dtype == np.float64 else torch.float32)
    assert_holds(graph, whole)


def test_scipy_adds_duplicates():
    matrix = scipy.sparse.coo_array(([1.0, 2, 4], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert_holds(Graph.from_scipy(matrix), torch.tensor([[0.0, 3], [4, 0]]).double())


# -- networkx ----------------------------------------------------------------------------------------------------


def networkx_graph(kind):
    """Nodes that are no numbers, a self loop, an isolated node; parallel edges where ``kind`` can have them."""
    graph = kind()
    graph.add_nodes_from("dabce")
    graph.add_weighted_edges_from([("a", "b", 2.0), ("b", "d", 0.5), ("c", "c", 4.0), ("d", "a", 8.0)])
    if graph.is_multigraph():
        graph.add_edge("a", "b", weight=16.0)
    return graph


networkx_kinds = pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])


@networkx_kinds
def test_networkx_in_both_directions(kind):
    graph = networkx_graph(kind)
    matrix = torch.from_numpy(nx.to_numpy_array(graph))  # row u holds u -> v: u gathers from v
    assert_holds(Graph.from_networkx(graph, direction="target_to_source"), matrix)
    assert_holds(Graph.from_networkx(graph), matrix.t())
    assert_holds(as_graph(graph), matrix.t())


@networkx_kinds
def test_networkx_without_reading_weights(kind):
    graph = networkx_graph(kind)
    built = Graph.from_networkx(graph, weight=None)
    assert built.weight is None
    assert_holds(built, torch.from_numpy(nx.to_numpy_array(graph, weight=None)).t())


def test_networkx_keeps_parallel_edges():
    assert Graph.from_networkx(networkx_graph(nx.MultiDiGraph)).num_edges == 5
    assert Graph.from_networkx(networkx_graph(nx.MultiGraph)).num_edges == 9


def test_networkx_reads_the_named_attribute_and_takes_one_where_it_is_missing():
    graph = nx.DiGraph([(0, 1, {"cost": 3}), (1, 2, {"weight": 7})])
    assert_holds(Graph.from_networkx(graph, weight="cost"), torch.tensor([[0, 0, 0], [3, 0, 0], [0, 1, 0]]).double())


def test_networkx_where_no_edge_has_the_attribute_has_no_weight():
    assert Graph.from_networkx(nx.path_graph(3)).weight is None


def test_networkx_without_nodes():
    graph = Graph.from_networkx(nx.Graph())
    assert (graph.num_nodes, graph.num_edges) == (0, 0)


# -- edge_index --------------------------------------------------------------------------------------------------

EDGES = torch.tensor([[1, 0, 3, 3, 2, 0, 1], [0, 2, 1, 1, 2, 1, 0]])  # source, target; unsorted, multiple, a loop
VALUES = torch.tensor([1.0, 2, 4, 8, 16, 32, 64])
MATRIX = torch.tensor([[0, 65, 0, 0, 0], [32, 0, 0, 12, 0], [2, 0, 16, 0, 0], [0] * 5, [0] * 5]).double()


@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_edge_index(ids, dtype):
    graph = Graph.from_edge_index(EDGES.to(ids), VALUES.to(dtype), 5)
    assert (graph.weight.dtype, graph.col.dtype, graph.rowptr.dtype) == (dtype, torch.int32, torch.int64)
    assert_holds(graph, MATRIX)


def test_edge_index_without_weights_counts_edges():
    graph = Graph.from_edge_index(EDGES, None, 5)
    assert graph.weight is None
    assert_holds(graph, torch.tensor([[0, 2, 0, 0, 0], [1, 0, 0, 2, 0], [1, 0, 1, 0, 0], [0] * 5, [0] * 5]).double())


def test_edge_index_counts_nodes_up_to_the_largest_id():
    assert Graph.from_edge_index(EDGES).num_nodes == 4
    assert Graph.from_edge_index(EDGES[:, :0]).num_nodes == 0


@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_index_dtype(ids, index_dtype):
    graph = Graph.from_edge_index(EDGES.to(ids), VALUES, 5, index_dtype=index_dtype)
    assert graph.col.dtype == index_dtype
    assert_holds(graph, MATRIX)


def test_edge_index_that_is_not_contiguous():
    pairs = EDGES.t().contiguous()
    assert_holds(Graph.from_edge_index(pairs.t(), VALUES, 5), MATRIX)


def test_rows_and_columns_as_they_stand():
    graph = Graph(torch.tensor([0, 2, 2, 3], dtype=torch.int32), torch.tensor([2, 1, 0]), torch.tensor([1.0, 2, 4]))
    assert graph.rowptr.dtype == torch.int64
    assert_holds(graph, torch.tensor([[0, 2, 1], [0, 0, 0], [4, 0, 0]]).double())


# -- gradients ---------------------------------------------------------------------------------------------------


def sparse_from_values(make, dense, values):
    """The sparse matrix that ``make`` gives for ``dense``, holding ``values`` instead of its own."""
    sparse = make(dense)
    if sparse.layout == torch.sparse_coo:
        adj = torch.sparse_coo_tensor(sparse._indices(), values, sparse.shape)
        return adj.coalesce() if sparse.is_coalesced() else adj
    if sparse.layout == torch.sparse_csr:
        return torch.sparse_csr_tensor(sparse.crow_indices(), sparse.col_indices(), values, sparse.shape)
    return torch.sparse_csc_tensor(sparse.ccol_indices(), sparse.row_indices(), values, sparse.shape)


@pytest.mark.parametrize("make", [coo, uncoalesced, uncoalesced_with_duplicates, csr, csc])
def test_gradient_reaches_the_values_of_a_sparse_matrix(make, directed):
    x, grad = torch.randn(2, 6, 3, dtype=torch.float64).unbind()
    torch.manual_seed(1)  # the shuffled entries come twice in the same order
    values = stored(make(directed)).clone().requires_grad_()
    torch.manual_seed(1)
    adj = sparse_from_values(make, directed, values)

    (expected,) = torch.autograd.grad(adj.to_dense() @ x, values, grad, retain_graph=True)
    build = {torch.sparse_coo: Graph.from_coo, torch.sparse_csr: Graph.from_csr, torch.sparse_csc: Graph.from_csc}
    for convert in (as_graph, as_graph, build[adj.layout]):  # the second time the structure is known
        (actual,) = torch.autograd.grad(gcn_aggregate(convert(adj), x), values, grad, retain_graph=True)
        torch.testing.assert_close(actual, expected)


def test_gradient_reaches_the_entries_of_a_dense_matrix(directed):
    adj = directed.clone().requires_grad_()
    x, grad = torch.randn(2, 6, 3, dtype=torch.float64).unbind()
    for convert in (as_graph, as_graph, Graph.from_dense):
        (actual,) = torch.autograd.grad(gcn_aggregate(convert(adj), x), adj, grad)
        torch.testing.assert_close(actual, (grad @ x.t()) * (directed != 0))


def test_forward_and_function_transforms_reach_the_entries_of_a_dense_matrix(directed):
    x = torch.randn(6, 3, dtype=torch.float64)

    def total(adj):
        return gcn_aggregate(as_graph(adj), x).square().sum()

    as_graph(directed)  # in the cache, where a transform must not look
    expected = 2 * (directed @ x) @ x.t() * (directed != 0)
    torch.testing.assert_close(torch.func.grad(total)(directed), expected)
    tangent = torch.func.jvp(total, (directed,), (directed,))[1]
    torch.testing.assert_close(tangent, (expected * directed).sum())
