"""``GraphAttentionLayer`` and ``GAT``: the tutorial's classes where these are right, and what they promise beyond."""

import contextlib
import copy
import io
import pickle

import pytest
import scipy.sparse
import torch
import tutorial
from drop_in import assert_same_start
from torch import nn

import advkern.nn
from advkern import Graph
from advkern.nn import GAT, GraphAttentionLayer
from advkern.testing import peak_memory

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # torch's notices of beta state and unchecked invariants

ADJACENCIES = {
    "dense": torch.clone,
    "coo": torch.Tensor.to_sparse,
    "graph": Graph.from_dense,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
    "scipy": lambda adj: scipy.sparse.csr_array(adj.numpy()),
}
of_every_adjacency = pytest.mark.parametrize("make", ADJACENCIES.values(), ids=ADJACENCIES)


@pytest.fixture
def x():
    return torch.randn(6, 5, dtype=torch.float64)


@pytest.fixture
def connected(directed):
    """A digraph in which every node has a neighbour: the tutorial lets one without attend to all nodes."""
    connected = directed.clone()
    connected[3, 0] = connected[5, 2] = 1
    return connected


def pair(theirs, heads=3):
    """The tutorial's model and ours with its weights, in float64 and in eval: its dropout has another mask."""
    model = theirs["GAT"](5, 4, 3, heads).double().eval()
    ours = GAT(5, 4, 3, heads).double().eval()
    ours.load_state_dict(model.state_dict())
    return model, ours


def gradients(module, x, adj):
    """The gradients of a fixed function of output and maps, in x and in every parameter."""
    x = x.clone().requires_grad_()
    out, maps = module(x, adj)
    factor = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    total = (out * factor).sum()
    for k, attention in enumerate(maps if isinstance(maps, list) else [maps]):
        total = total + (attention * torch.arange(36).view(6, 6).sin()).sum() * (k + 1)
    return torch.autograd.grad(total, [x, *module.parameters()])


# -- the tutorial ------------------------------------------------------------------------------------------------


@of_every_adjacency
def test_layer_is_the_tutorials(theirs, make, connected, x):
    layer = theirs["GraphAttentionLayer"](5, 3).double().eval()
    ours = GraphAttentionLayer(5, 3).double().eval()
    ours.load_state_dict(layer.state_dict())
    out, attention = ours(x, make(connected))
    expected, expected_attention = layer(x, connected)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(attention.dense(), expected_attention)
    torch.testing.assert_close(gradients(ours, x, make(connected)), gradients(layer, x, connected))


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_model_is_the_tutorials(theirs, heads, connected, x):
    model, ours = pair(theirs, heads)
    out, maps = ours(x, connected)
    expected, expected_maps = model(x, connected)
    torch.testing.assert_close(out, expected)
    assert len(maps) == heads
    for attention, other in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(attention.dense(), other)
    torch.testing.assert_close(gradients(ours, x, connected), gradients(model, x, connected), atol=1e-12, rtol=1e-9)


def test_state_dict_loads_both_ways(theirs):
    model, ours = pair(theirs)
    model.load_state_dict(ours.state_dict())
    assert list(model.state_dict()) == list(ours.state_dict())


def test_same_seed_gives_the_same_weights(theirs):
    assert_same_start(theirs["GAT"], GAT, 5, 4, 3, 2)


def test_entries_that_are_not_positive_are_no_edges(theirs, connected, x):
    """The tutorial's choice: ``adj > 0``. A ``Graph`` counts every stored edge."""
    signed = connected.clone()
    signed[0, 3], signed[4, 0] = -2, -1
    model, ours = pair(theirs)
    torch.testing.assert_close(ours(x, signed)[0], model(x, signed)[0])
    assert ours(x, signed)[1].edge_weights.shape[0] == int((signed > 0).sum())
    assert ours(x, Graph.from_dense(signed))[1].edge_weights.shape[0] == int((signed != 0).sum())


def test_third_and_fourth_cells_of_the_tutorial_run_with_our_classes():
    """The cells of its GAT, after those of its GCN that make the graph."""
    import matplotlib

    matplotlib.use("Agg")
    space = {}
    classes = ("GraphConvolutionLayer", "GCN", "GraphAttentionLayer", "GAT")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for code in tutorial.cells()[:5]:
            exec(compile(code, "cell", "exec"), space)
            space.update({name: getattr(advkern.nn, name) for name in classes if name in space})
    assert "GAT output shape" in said.getvalue()
    assert type(space["attentions"]).__name__ == "EdgeAttentionMaps"


# -- where the tutorial is wrong -----------------------------------------------------------------------------------


def test_node_without_neighbours_gives_zeros(directed, x):
    """In the tutorial it attends to all nodes."""
    layer = GraphAttentionLayer(5, 3).double()
    x.requires_grad_()
    out, attention = layer(x, directed)
    assert not out[[3, 5]].any() and not attention.dense()[[3, 5]].any()
    (grad,) = torch.autograd.grad(out[[3, 5]].sum(), x)
    assert not grad.any()


def test_half_precision_is_finite_without_neighbours(directed, x):
    out, attention = GraphAttentionLayer(5, 3).half()(x.half(), directed.half())
    assert out.isfinite().all() and attention.dense().isfinite().all()


def test_maps_are_taken_before_dropout(connected, x):
    ours = GAT(5, 4, 3, num_heads=2).double().train()
    out, maps = ours(x, connected)
    torch.testing.assert_close(maps[0].sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert not torch.equal(out, ours(x, connected)[0])
    assert torch.equal(ours.eval()(x, connected)[0], ours(x, connected)[0])


def test_dropout_of_all_or_nothing(connected, x):
    assert not GraphAttentionLayer(5, 3, dropout=1.0).double()(x, connected)[0].any()
    ours = GAT(5, 4, 3, dropout=0.0).double()
    assert torch.equal(ours(x, connected)[0], ours.eval()(x, connected)[0])


def test_memory_is_of_order_edges():
    """20,000 nodes: a matrix of all pairs would be 1.6 GB, the tutorial's tensor of one head 12.8 GB."""
    code = """
import torch
from advkern.nn import GAT
from advkern.testing import uniform_graph
graph, x = uniform_graph(20_000, 80_000), torch.randn(20_000, 16)
model = GAT(16, 8, 4)
model(x[:2], uniform_graph(2, 3))[0].sum().backward()
def measured():
    out, maps = model(x, graph)
    out.sum().backward()
    return repr(maps), maps[0].shape, maps.edge_weights
"""
    assert peak_memory(code) < 150e6


# -- maps ----------------------------------------------------------------------------------------------------------


def test_edge_weights_come_in_the_caller_s_order(x):
    edges = torch.tensor([[4, 0, 2, 1, 3], [1, 2, 1, 0, 1]])  # source, target: rows unsorted
    _, maps = GAT(5, 4, 3, num_heads=2).double()(x, Graph.from_edge_index(edges, num_nodes=6))
    assert maps.edge_weights.shape == (5, 2)
    for k, attention in enumerate(maps):
        assert torch.equal(attention.edge_weights, maps.edge_weights[:, k])
        torch.testing.assert_close(attention.dense()[edges[1], edges[0]], attention.edge_weights)


def test_multiple_edges_add_in_the_map(x):
    edges = torch.tensor([[1, 1, 2], [0, 0, 0]])
    _, attention = GraphAttentionLayer(5, 3).double()(x, Graph.from_edge_index(edges, num_nodes=6))
    torch.testing.assert_close(attention[0, 1], attention.edge_weights[:2].sum())


def test_nothing_is_kept_where_no_weights_are_needed(connected, x):
    model = GAT(5, 4, 3).double().eval()
    out, maps = model(x, connected, need_weights=False)
    assert maps is None and torch.equal(out, model(x, connected)[0])
    assert GraphAttentionLayer(5, 3).double()(x, connected, need_weights=False)[1] is None


# -- torch's machinery ---------------------------------------------------------------------------------------------


def test_gradient_penalty(connected, x):
    model = GAT(5, 4, 3, num_heads=2).double().eval()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(model(x, connected)[0].pow(2).sum(), x, create_graph=True)
    grad.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_model_is_copied_after_a_forward(copied, connected, x):
    model = GAT(5, 4, 3).double().eval()
    out, _ = model(x, connected)
    assert torch.equal(copied(model)(x, connected)[0], out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_scores_in_float32(dtype, connected):
    layer, x = GraphAttentionLayer(5, 3).eval(), torch.randn(6, 5)
    exact, attention = layer(x, connected)
    with torch.autocast("cpu", dtype):
        out, half = layer(x, connected)
    assert half.dtype == dtype
    torch.testing.assert_close(out.float(), exact, atol=0.05, rtol=0.05)
    torch.testing.assert_close(half.dense().float(), attention.dense(), atol=torch.finfo(dtype).eps, rtol=0)
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.compile
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_compiles_without_a_graph_break_and_trains(training, connected, x):
    torch._dynamo.reset()
    model = GAT(5, 4, 3, num_heads=2).double().train(training)
    graph = Graph.from_dense(connected)
    run = lambda f: torch.autograd.grad(f(x, graph, need_weights=False)[0].pow(2).sum(), list(model.parameters()))
    torch.manual_seed(2)
    expected = run(model)
    torch.manual_seed(2)
    torch.testing.assert_close(run(torch.compile(model, fullgraph=True)), expected)


def test_loss_falls(connected, x):
    model = GAT(5, 8, 3).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    target, losses = torch.tensor([0, 1, 2, 0, 1, 2]), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(model(x, connected)[0], target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "call"),
    {
        r"in_features: expected a size of at least 1.*got 0": lambda: GraphAttentionLayer(0, 3),
        r"out_features: .*got -1": lambda: GraphAttentionLayer(3, -1),
        r"dropout: .*\[0, 1\], got 2": lambda: GraphAttentionLayer(3, 3, dropout=2),
        r"num_heads: .*got 0": lambda: GAT(3, 3, 3, num_heads=0),
        r"x: expected shape \[num_nodes, 3\], got \(4, 5\)": lambda: GAT(3, 3, 3)(torch.ones(4, 5), torch.eye(4)),
        r"h: expected \[num_nodes = 4.*\(5, 1, 3\)": lambda: GraphAttentionLayer(3, 3)(torch.ones(5, 3), torch.eye(4)),
    }.items(),
)
def test_wrong_value_is_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()
