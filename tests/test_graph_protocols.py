"""A Graph goes wherever tensors go: pytrees, torch.compile, torch.export, pickle, threads, forked processes."""

import copy
import io
import multiprocessing
import pickle
import threading

import pytest
import torch
from torch.utils import _pytree as pytree

from advkern import Graph, backend, use_backend
from advkern.adjacency import as_graph
from advkern.ops import gcn_aggregate
from advkern.testing import uniform_graph

EDGES = torch.tensor([[1, 0, 3, 3, 2, 0, 1], [0, 2, 1, 1, 2, 1, 0]])  # unsorted: the graph has an edge_order
NAMES = ("rowptr", "col", "weight", "edge_order")


@pytest.fixture(params=["weighted", "plain", "sorted"])
def graph(request):
    plain = Graph.from_edge_index(EDGES, None, 5)
    if request.param == "sorted":
        return Graph(plain.rowptr, plain.col)
    return plain if request.param == "plain" else plain.with_weight(torch.arange(1.0, 8))


def assert_same(actual, expected):
    assert type(actual) is Graph
    for name in NAMES:
        a, b = getattr(actual, name), getattr(expected, name)
        assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b)), name


def fresh_copy(graph):
    """The same tensors, nothing derived yet."""
    return pytree.tree_unflatten(*pytree.tree_flatten(graph))


def scaled(graph, factor):
    return pytree.tree_map_only(torch.Tensor, lambda t: factor * t if t.is_floating_point() else t, graph)


class Convolution(torch.nn.Module):
    """Everything that a graph derives is derived inside of this."""

    def forward(self, graph, x):
        looped = graph.with_self_loops()
        return gcn_aggregate(looped.t(), gcn_aggregate(looped, x, normalize="sym"), normalize="row")


# -- pytree ------------------------------------------------------------------------------------------------------


def test_pytree_leaves_are_the_tensors(graph):
    leaves, spec = pytree.tree_flatten(graph)
    assert [leaf is getattr(graph, name) for leaf, name in zip(leaves, NAMES, strict=True)] == [True] * 4
    assert_same(pytree.tree_unflatten(leaves, spec), graph)


def test_pytree_keys_name_the_tensors(graph):
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path({"g": graph})[0]]
    assert paths == [f"['g'].{name}" for name in NAMES]


def test_tree_map_gives_a_graph_that_derives_anew():
    graph = Graph.from_edge_index(EDGES, torch.arange(1.0, 8), 5)
    degree = graph.degree()
    assert torch.equal(scaled(graph, 2).degree(), 2 * degree)


# -- compile and export ------------------------------------------------------------------------------------------


@pytest.mark.compile
def test_compiles_without_a_graph_break_and_with_gradients(graph):
    compiled = torch.compile(Convolution(), fullgraph=True)
    x = torch.randn(5, 3, requires_grad=True)
    factor = torch.randn(5, 3)
    fresh = fresh_copy(graph)
    actual, expected = compiled(fresh, x), Convolution()(graph, x)
    torch.testing.assert_close(actual, expected)
    grads = [torch.autograd.grad(out, x, factor)[0] for out in (actual, expected)]
    torch.testing.assert_close(*grads)
    assert_same(fresh.t(), graph.t())  # what compiled code derived and kept


@pytest.mark.compile
def test_one_compiled_function_takes_graphs_of_changing_sizes():
    compiled = torch.compile(Convolution(), fullgraph=True, dynamic=True, backend="aot_eager")
    for num_nodes in (4, 7, 11):
        graph, x = uniform_graph(num_nodes, 3 * num_nodes, seed=num_nodes, weighted=True), torch.randn(num_nodes, 2)
        torch.testing.assert_close(compiled(graph, x), Convolution()(graph, x))


@pytest.mark.compile
def test_exports_and_survives_saving(graph):
    x = torch.randn(5, 3)
    file = io.BytesIO()
    torch.export.save(torch.export.export(Convolution(), (graph, x)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(graph, x), Convolution()(graph, x))
    other = scaled(graph, 3)  # weights are inputs, not constants
    torch.testing.assert_close(loaded(other, x), Convolution()(other, x))


# -- copies ------------------------------------------------------------------------------------------------------


def through_torch_save(graph):
    file = io.BytesIO()
    torch.save({"graph": graph}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["graph"]


COPIES = {
    "pickle": lambda graph: pickle.loads(pickle.dumps(graph)),
    "deepcopy": copy.deepcopy,
    "torch.save": through_torch_save,
}
of_every_copy = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)


@of_every_copy
def test_copy_is_the_same_graph_of_its_own(make, graph):
    x = torch.randn(5, 3)
    expected = Convolution()(graph, x)  # the original has derived everything
    copied = make(graph)
    assert_same(copied, graph)
    assert copied.col.data_ptr() != graph.col.data_ptr()
    assert torch.equal(Convolution()(copied, x), expected)


@of_every_copy
def test_copy_keeps_weights_that_require_grad(make):
    graph = Graph(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.ones(2, requires_grad=True))
    assert make(graph).weight.requires_grad


# -- threads and processes ---------------------------------------------------------------------------------------


def run_in_threads(work, count=8):
    """Run ``work`` in threads that start at the same moment; return what they returned."""
    barrier, results = threading.Barrier(count), []

    def run():
        barrier.wait()
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count  # none raised
    return results


def test_threads_race_for_what_a_fresh_graph_derives():
    graph, x = uniform_graph(3000, 30_000, weighted=True), torch.randn(3000, 8)
    expected = Convolution()(graph, x)
    for _ in range(5):
        fresh = fresh_copy(graph)
        for result in run_in_threads(lambda fresh=fresh: Convolution()(fresh, x)):
            assert torch.equal(result, expected)


def test_threads_train_on_one_graph():
    graph = uniform_graph(3000, 30_000, weighted=True)

    def gradient():
        x = torch.ones(3000, 8, requires_grad=True)
        Convolution()(graph, x).square().sum().backward()
        return x.grad

    first, *others = run_in_threads(gradient)
    assert first.count_nonzero() > 0
    assert all(torch.equal(first, other) for other in others)


def test_threads_convert_one_matrix():
    adj = torch.rand(200, 200)
    for graph in run_in_threads(lambda: as_graph(adj)):
        assert torch.equal(graph.to_dense(), adj)


needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system has no fork")


@needs_fork
@pytest.mark.skipif(backend.COMPILED.status != "loaded", reason="torch's own sparse product hangs in a forked child")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, where threads live
def test_forked_child_runs_the_kernel_on_a_graph_that_its_parent_used():
    """Large enough for every thread that there is, none of which the child has."""
    graph, x = uniform_graph(20_000, 200_000, weighted=True), torch.randn(20_000, 32)

    def aggregate():
        with use_backend("cpu"):
            return gcn_aggregate(graph, x, normalize="sym")

    expected = aggregate().numpy().tobytes()

    def child():  # compares without torch, whose own operators hang here
        raise SystemExit(0 if aggregate().numpy().tobytes() == expected else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    process.kill()  # only if it hangs
    process.join()
    assert process.exitcode == 0


class Aggregations(torch.utils.data.Dataset):
    """Large enough for every thread that there is: a worker has one, for OpenMP's others do not survive a fork."""

    def __init__(self):
        self.graph, self.x = uniform_graph(20_000, 200_000, weighted=True), torch.randn(20_000, 32)

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return Convolution()(fresh_copy(self.graph), self.x)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_data_loader_worker_aggregates_after_its_parent_used_all_threads():
    dataset = Aggregations()
    expected = dataset[0]
    workers = {"num_workers": 1, "multiprocessing_context": "fork", "timeout": 60}
    (actual,) = torch.utils.data.DataLoader(dataset, batch_size=None, **workers)
    assert torch.equal(actual, expected)
