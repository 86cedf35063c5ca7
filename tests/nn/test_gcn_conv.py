"""``GCNConv``: PyTorch Geometric's constructor, call, results and state_dict, on directed graphs."""

import copy
import pickle

import pytest
import torch

from advkern import Graph
from advkern.nn import GCNConv

EDGES = torch.tensor([[1, 0, 3, 3, 2, 0, 1], [0, 2, 1, 1, 4, 1, 0]])  # source, target: unsorted, multiple, directed
LOOPS = torch.tensor([[2, 0], [2, 0]])
NUM_NODES = 6  # node 5 has no edge

OPTIONS = {
    "default": {},
    "improved": {"improved": True},
    "cached": {"cached": True},
    "without self loops": {"add_self_loops": False},
    "without normalisation": {"normalize": False},
    "without bias": {"bias": False},
}
EDGE_LISTS = {"no loops": EDGES, "two loops": torch.cat([LOOPS[:, :1], EDGES, LOOPS[:, 1:]], 1)}
of_every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture
def theirs():
    return pytest.importorskip("torch_geometric.nn").GCNConv


@pytest.fixture
def x():
    return torch.randn(NUM_NODES, 4, dtype=torch.float64)


def pair(theirs, out_channels=3, **options):
    """PyTorch Geometric's layer with a bias that is not zero, and ours with its parameters, in float64."""
    layer = theirs(4, out_channels, **options).double()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    ours = GCNConv(4, out_channels, **options).double()
    ours.load_state_dict(layer.state_dict())
    return layer, ours


def assert_same(ours, layer, x, ours_takes, layer_takes, weight=None):
    """Assert equal outputs, and equal gradients in ``x``, the edge weights and all parameters."""
    factor, results = None, []
    for module, edges in ((ours, ours_takes), (layer, layer_takes)):
        leaves = [t.clone().requires_grad_() for t in (x, weight) if t is not None]
        out = module(leaves[0], edges, *leaves[1:])
        factor = torch.randn_like(out) if factor is None else factor
        results.append([out, *torch.autograd.grad(out, [*leaves, *module.parameters()], factor)])
    torch.testing.assert_close(*results)


# -- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge_index", EDGE_LISTS.values(), ids=EDGE_LISTS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("out_channels", [3, 7])  # the product comes before or after the aggregation
@of_every_option
def test_edge_index(theirs, edge_index, weighted, out_channels, options, x):
    layer, ours = pair(theirs, out_channels, **options)
    weight = torch.rand(edge_index.shape[1], dtype=torch.float64) + 0.1 if weighted else None
    if options.get("improved") and not weighted:
        # PyTorch Geometric 2.8 then leaves the loops at 1, against its own formula A + 2 I: give it the ones
        ones = torch.ones(edge_index.shape[1], dtype=torch.float64)
        torch.testing.assert_close(ours(x, edge_index), layer(x, edge_index, ones))
    else:
        assert_same(ours, layer, x, edge_index, edge_index, weight)


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:Converting sparse tensor")  # torch's and PyG's notices
@pytest.mark.parametrize("kind", ["coo", "csr"])
@of_every_option
def test_adj_t(theirs, kind, options, x):
    # Without loops of its own: to a sparse matrix PyTorch Geometric adds a second loop, to an edge_index it does not.
    weight = torch.rand(EDGES.shape[1], dtype=torch.float64) + 0.1
    adj_t = torch.sparse_coo_tensor(EDGES.flip(0), weight, (NUM_NODES, NUM_NODES)).coalesce()
    adj_t = adj_t if kind == "coo" else adj_t.to_sparse_csr()
    layer, ours = pair(theirs, **options)
    assert_same(ours, layer, x, adj_t, adj_t)
    torch.testing.assert_close(ours(x, adj_t), ours(x, EDGES, weight))


@of_every_option
def test_graph_stands_for_edge_index(theirs, options, x):
    layer, ours = pair(theirs, **options)
    weight = torch.rand(EDGES.shape[1], dtype=torch.float64) + 0.1
    graph = Graph.from_edge_index(EDGES, None, NUM_NODES)
    assert_same(ours, layer, x, graph, EDGES, weight)
    torch.testing.assert_close(ours(x, graph.with_weight(weight)), layer(x, EDGES, weight))


def test_int32_edge_index_is_taken(theirs, x):
    layer, ours = pair(theirs)
    torch.testing.assert_close(ours(x, EDGES.int()), layer(x, EDGES))


def test_two_layers_train_as_theirs(theirs, x):
    pairs = [pair(theirs, 4), pair(theirs, 4)]
    losses = []
    for layers in zip(*pairs, strict=True):
        optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (layers[1](layers[0](x, EDGES).relu(), EDGES) - x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    torch.testing.assert_close(losses[:20], losses[20:])
    assert losses[19] < losses[0]


@of_every_option
def test_state_dict_loads_both_ways(theirs, options):
    layer, ours = theirs(4, 3, **options), GCNConv(4, 3, **options)
    assert set(ours.state_dict()) == set(layer.state_dict())
    for source, target in ((layer, GCNConv(4, 3, **options)), (ours, theirs(4, 3, **options))):
        target.load_state_dict(source.state_dict())
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value)


def test_same_seed_gives_the_same_parameters_and_reset_draws_them_anew(theirs):
    layers = []
    for kind in (theirs, GCNConv):
        torch.manual_seed(3)
        layers.append(kind(4, 3))
    for _ in range(2):
        assert torch.equal(layers[0].lin.weight, layers[1].lin.weight)
        assert not layers[1].bias.any()
        for layer in layers:
            torch.nn.init.ones_(layer.bias)
            torch.manual_seed(4)
            layer.reset_parameters()


def test_repr_is_theirs(theirs):
    assert repr(GCNConv(4, 3)) == repr(theirs(4, 3))


# -- what users of such layers complain about --------------------------------------------------------------------


def test_edge_runs_from_source_to_target():
    layer = GCNConv(1, 1, normalize=False, bias=False)
    torch.nn.init.ones_(layer.lin.weight)
    out = layer(torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2], [0]]))
    assert out.flatten().tolist() == [100, 0, 0]


@pytest.mark.parametrize("cached", [False, True])
def test_changed_graph_is_noticed(cached, x):
    layer, ids = GCNConv(4, 3, cached=cached).double(), EDGES.clone()
    before = layer(x, ids)
    ids[0, 0] = 5
    assert not torch.equal(layer(x, ids), before)
    assert torch.equal(layer(x, ids), layer(x, ids.clone()))
    assert torch.equal(layer(x, EDGES), before)


def test_more_nodes_than_edges_mention_are_taken(x):
    layer = GCNConv(4, 3).double()
    assert torch.equal(layer(x, EDGES)[:5], layer(x[:5], EDGES))


def test_node_without_edges_gives_the_bias(x):
    layer = GCNConv(4, 3, add_self_loops=False).double()
    torch.nn.init.normal_(layer.bias)
    assert torch.equal(layer(x, EDGES)[5], layer.bias)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_layer_is_copied_after_a_forward(copied, x):
    layer = GCNConv(4, 3, cached=True).double()
    out = layer(x, EDGES)
    out.sum().backward()
    assert torch.equal(copied(layer)(x, EDGES), out)


@pytest.mark.compile
@pytest.mark.parametrize("weighted", [True, False])
def test_compiles_without_a_graph_break(weighted, x):
    layer = GCNConv(4, 3).double()
    graph = Graph.from_edge_index(EDGES, torch.rand(7, dtype=torch.float64) if weighted else None, NUM_NODES)
    compiled = torch.compile(layer, fullgraph=True)
    assert_same(compiled, layer, x, graph, graph)


# -- what is refused ---------------------------------------------------------------------------------------------

X = torch.ones(NUM_NODES, 4)
WRONG = {
    "in_channels: .*lazy sizes are not supported.* got -1": lambda: GCNConv(-1, 3),
    "out_channels: .*at least 1, got 0": lambda: GCNConv(4, 0),
    "aggr: expected .*default.*, got 'mean'": lambda: GCNConv(4, 3, aggr="mean"),
    "flow: expected .*default.*, got 'target_to_source'": lambda: GCNConv(4, 3, flow="target_to_source"),
    "node_dim: expected .*default.*, got 0": lambda: GCNConv(4, 3, node_dim=0),
    "decomposed_layers: expected .*default.*, got 2": lambda: GCNConv(4, 3, decomposed_layers=2),
    "add_self_loops: expected False or None.*, got True": lambda: GCNConv(4, 3, add_self_loops=True, normalize=False),
    r"x: expected .*\[num_nodes, 4\], got \(6, 2\)": lambda: GCNConv(4, 3)(X[:, :2], EDGES),
    r"edge_index: .*expected ids in \[0, 4\), got 4": lambda: GCNConv(4, 3)(X[:4], EDGES),
    r"edge_index: .*\[2, num_edges\], got .*\(7, 2\)": lambda: GCNConv(4, 3)(X, EDGES.t()),
    r"edge_weight: expected floats of shape \(7,\).*, got .*\(5,\)": lambda: GCNConv(4, 3)(X, EDGES, torch.ones(5)),
    "weight: expected every node's degree .*at least 0 .*got -1.0 at node 0": (
        lambda: GCNConv(4, 3)(X, EDGES, -torch.ones(7))
    ),
}


@pytest.mark.parametrize(("message", "call"), WRONG.items(), ids=WRONG)
def test_wrong_value_is_refused_by_name(message, call):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_pair_of_features_is_refused_by_name():
    with pytest.raises(TypeError, match=r"^x: expected a tensor \(bipartite pairs are not supported\), got tuple"):
        GCNConv(4, 3)((X, X), EDGES)


def test_size_is_refused_by_name():
    with pytest.raises(TypeError, match="'size'"):
        GCNConv(4, 3)(X, EDGES, size=(6, 6))
