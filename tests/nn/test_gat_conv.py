"""``GATConv``: PyTorch Geometric's constructor, call, results and state_dict, on directed graphs."""

import pytest
import torch

from advkern import Graph
from advkern.nn import GATConv

EDGES = torch.tensor([[1, 0, 3, 3, 2, 0, 1], [0, 2, 1, 1, 4, 1, 0]])  # source, target: unsorted, multiple, directed
LOOPS = torch.tensor([[2, 0], [2, 0]])
NUM_NODES = 6  # node 5 has no edge

OPTIONS = {
    "default": {},
    "three heads": {"heads": 3},
    "mean of heads": {"heads": 3, "concat": False},
    "without self loops": {"heads": 2, "add_self_loops": False},
    "without bias": {"bias": False},
    "residual": {"heads": 2, "residual": True},
    "slope": {"negative_slope": 0.5},
    "dropout in eval": {"dropout": 0.6},
}
EDGE_LISTS = {"no loops": EDGES, "two loops": torch.cat([LOOPS[:, :1], EDGES, LOOPS[:, 1:]], 1)}
of_every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture
def theirs():
    return pytest.importorskip("torch_geometric.nn").GATConv


@pytest.fixture
def x():
    return torch.randn(NUM_NODES, 4, dtype=torch.float64)


def pair(theirs, **options):
    """PyTorch Geometric's layer with a bias that is not zero, and ours with its parameters, in float64 and eval."""
    layer = theirs(4, 3, **options).double().eval()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    ours = GATConv(4, 3, **options).double().eval()
    ours.load_state_dict(layer.state_dict())
    return layer, ours


@of_every_option
@pytest.mark.parametrize("edges", EDGE_LISTS.values(), ids=EDGE_LISTS)
def test_outputs_and_gradients_are_theirs(theirs, options, edges, x):
    layer, ours = pair(theirs, **options)
    results = []
    for module in (ours, layer):
        leaf = x.clone().requires_grad_()
        out = module(leaf, edges)
        factor = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad(out, [leaf, *module.parameters()], factor)])
    torch.testing.assert_close(*results)


@of_every_option
def test_attention_weights_are_theirs(theirs, options, x):
    layer, ours = pair(theirs, **options)
    out, (edges, alpha) = ours(x, EDGES, return_attention_weights=True)
    expected, (expected_edges, expected_alpha) = layer(x, EDGES, return_attention_weights=True)
    assert torch.equal(edges, expected_edges)
    torch.testing.assert_close((out, alpha), (expected, expected_alpha))
    assert isinstance(ours(x, EDGES, return_attention_weights=False), tuple)  # whatever the value, as theirs


@pytest.mark.parametrize("make", [Graph.from_edge_index, None], ids=["graph", "matrix"])
def test_graph_and_adjacency_matrix_stand_for_edge_index(make, x):
    layer = GATConv(4, 3, heads=2).double()
    edges = EDGES.unique(dim=1)
    other = (
        make(edges, num_nodes=NUM_NODES) if make else torch.zeros(6, 6).index_put((edges[1], edges[0]), torch.ones(()))
    )
    torch.testing.assert_close(layer(x, other), layer(x, edges))


def test_state_dict_has_their_keys_and_shapes(theirs):
    for options in ({}, {"heads": 3}, {"heads": 3, "concat": False, "residual": True}, {"bias": False}):
        layer, ours = pair(theirs, **options)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"residual": True}], ids=str)
def test_type_under_autocast_is_the_same_with_and_without_gradients(options, x):
    layer = GATConv(4, 3, **options)
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(x.float(), EDGES)
        with torch.no_grad():
            out = layer(x.float(), EDGES)
    assert out.dtype == trained.dtype
    torch.testing.assert_close(out, trained)


def test_dropout_drops_in_training(x):
    layer = GATConv(4, 3, heads=2, dropout=0.5).double().train()
    first, second = layer(x, EDGES), layer(x, EDGES)
    assert not torch.equal(first, second) and torch.equal(layer.eval()(x, EDGES), layer(x, EDGES))


@pytest.mark.parametrize(
    ("message", "call"),
    {
        r"in_channels: .*bipartite.*\(3, 4\)": lambda x: GATConv((3, 4), 2),
        r"in_channels: .*lazy sizes.*-1": lambda x: GATConv(-1, 2),
        r"heads: expected a size of at least 1.*0": lambda x: GATConv(3, 2, heads=0),
        r"edge_dim: .*edge features.*7": lambda x: GATConv(3, 2, edge_dim=7),
        r"aggr: .*'max'": lambda x: GATConv(3, 2, aggr="max"),
        r"dropout: .*-0.1": lambda x: GATConv(3, 2, dropout=-0.1),
        r"edge_attr: .*not supported.*Tensor": lambda x: GATConv(4, 2)(x, EDGES, torch.ones(7, 2)),
        r"size: .*not supported.*tuple": lambda x: GATConv(4, 2)(x, EDGES, size=(6, 6)),
        r"x: expected shape \[num_nodes, 3\]": lambda x: GATConv(3, 2)(x, EDGES),
    }.items(),
)
def test_wrong_value_is_refused_by_name(message, call, x):
    with pytest.raises(ValueError, match=message):
        call(x)


def test_bipartite_features_are_refused_by_name(x):
    with pytest.raises(TypeError, match=r"x: expected a tensor \(bipartite pairs are not supported\), got tuple"):
        GATConv(4, 2)((x, x), EDGES)
