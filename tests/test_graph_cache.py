"""The same adjacency is converted once: as long as it lives, and only while it does not change."""

import gc
import sys
import weakref

import torch
from adjacencies import assert_holds, of_every_tensor, quiet, stored

from advkern import Graph
from advkern.adjacency import as_graph, edge_index_as_graph
from advkern.ops import gcn_aggregate

pytestmark = quiet


@of_every_tensor
def test_conversion_is_kept(make, directed):
    adj = make(directed)
    assert as_graph(adj) is as_graph(adj)


def test_graph_is_taken_as_it_is(directed):
    graph = Graph.from_dense(directed)
    assert as_graph(graph) is graph


@of_every_tensor
def test_change_in_place_is_noticed(make, directed):
    adj = make(directed)
    as_graph(adj)
    (adj if adj.layout == torch.strided else stored(adj)).mul_(2)
    assert_holds(as_graph(adj), 2 * directed)


def test_new_entry_of_a_dense_matrix_is_noticed(directed):
    as_graph(directed)
    directed[5, 0] = 7
    assert_holds(as_graph(directed), directed)


@of_every_tensor
def test_conversion_is_released_with_its_tensor(make, directed):
    adj = make(directed)
    graph = weakref.ref(as_graph(adj))
    gc.collect()
    assert graph() is not None
    del adj
    gc.collect()
    assert graph() is None


def test_tensor_at_the_place_of_a_dead_one_is_not_taken_for_it():
    addresses = set()
    for k in range(1, 20):
        adj = torch.full((2, 2), float(k))
        addresses.add(id(adj))
        assert as_graph(adj).weight.tolist() == [k] * 4
        del adj
    assert len(addresses) < 19  # else the scenario did not occur


def test_inference_tensor_is_not_kept(directed):
    with torch.inference_mode():
        adj = directed.clone()
    assert as_graph(adj) is not as_graph(adj)
    assert_holds(as_graph(adj), directed)


@of_every_tensor
def test_what_inference_mode_converted_serves_training(make, directed):
    adj, x = make(directed), torch.ones(6, 1, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        graph = as_graph(adj)
        gcn_aggregate(graph, torch.ones(6, 1).double(), normalize="row")
    assert as_graph(adj) is graph
    gcn_aggregate(graph, x).sum().backward()
    torch.testing.assert_close(x.grad[:, 0], directed.sum(0))


@of_every_tensor
def test_of_a_matrix_that_requires_grad_only_the_structure_is_kept(make, directed):
    adj = make(directed).requires_grad_()
    first, second = as_graph(adj), as_graph(adj)
    assert first.rowptr is second.rowptr
    assert first.weight is not second.weight
    for graph in (first, second):  # each leads back by itself
        (grad,) = torch.autograd.grad((graph.weight * graph.weight.detach()).sum(), adj)
        torch.testing.assert_close(grad.to_dense(), directed)


def test_matrix_that_requires_grad_is_converted_anew_after_a_step(directed):
    adj = directed.clone().requires_grad_()
    as_graph(adj)
    with torch.no_grad():
        adj[5, 0] = 7
    assert torch.equal(as_graph(adj).to_dense(), adj)


def test_edge_index_is_kept_for_each_number_of_nodes():
    ids = torch.tensor([[1, 0, 3, 3], [0, 2, 1, 1]])
    five, six = (edge_index_as_graph(ids, None, num_nodes) for num_nodes in (5, 6))
    assert (five.num_nodes, six.num_nodes) == (5, 6)
    assert edge_index_as_graph(ids, None, 5) is five
    assert edge_index_as_graph(ids, torch.ones(4), 5).col is five.col
    ids[0, 0] = 4
    assert torch.equal(edge_index_as_graph(ids, None, 5).edge_index, ids)


def test_new_weights_of_an_edge_index_sort_nothing_again(monkeypatch):
    """As GCNConv meets them in every step: same edges, weights that require grad, self loops to be added."""
    ids = torch.tensor([[1, 0, 3, 3], [0, 2, 1, 1]])

    def step():
        weight = torch.ones(4, requires_grad=True)
        graph = edge_index_as_graph(ids, weight, 5).with_self_loops()
        gcn_aggregate(graph, torch.ones(5, 2, requires_grad=True), normalize="sym").sum().backward()
        return weight.grad

    first = step()
    monkeypatch.setattr(sys.modules["advkern.ops.coo_to_csr"], "coo_to_csr", None)
    assert torch.equal(first, step())
