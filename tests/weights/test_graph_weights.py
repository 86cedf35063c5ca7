"""PyTorch Geometric's GCN and GAT and ours, at random weights: the same numbers, either way, on a directed graph."""

from __future__ import annotations

import copy

import peers
import pytest
import torch
from torch import nn

from advkern import Graph
from advkern.nn import GAT, GCN, GATConv, GraphAttentionLayer, GraphConvolutionLayer
from advkern.weights import WeightsError, export_state_dict, import_state_dict, load_pretrained

EDGES = torch.tensor([[1, 0, 3, 3, 2, 0, 4], [0, 2, 1, 4, 4, 1, 0]])  # source, target; node 5 has no edge
NODES, IN, HIDDEN, OUT, HEADS = 6, 4, 3, 2, 3
PLAIN = {"add_self_loops": False, "bias": False}  # of a GATConv that ours equals


class Stack(nn.Module):
    """PyTorch Geometric's layers as people stack them; ``then`` follows every layer but the last."""

    def __init__(self, names, convs, then, last):
        super().__init__()
        for name, conv in zip(names, convs, strict=True):
            self.add_module(name, conv)
        self.then, self.last = then, last

    def forward(self, x, edges):
        *convs, last = self.children()
        for conv in convs:
            x = self.then(conv(x, edges))
        return torch.log_softmax(self.last(last(x, edges)), 1)


class Headed(nn.Module):
    """One of PyTorch Geometric's whole models with what its output needs to be ours."""

    def __init__(self, body, last):
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x, edges):
        return torch.log_softmax(self.last(self.body(x, edges)), 1)

    def state_dict(self, *args, **kwargs):
        return self.body.state_dict()

    def load_state_dict(self, state, *args, **kwargs):
        return self.body.load_state_dict(state)


same = lambda x: x
elu = nn.functional.elu


def gcn(**options):
    return Headed(peers.pyg().models.GCN(IN, HIDDEN, 3, OUT, **options), same)


def gcn_stack(**options):
    conv = peers.pyg().GCNConv
    convs = [conv(IN, HIDDEN, **options), conv(HIDDEN, HIDDEN, **options), conv(HIDDEN, OUT, **options)]
    return Stack(["conv1", "conv2", "conv10"], convs, torch.relu, same)


def gat():
    return Headed(peers.pyg().models.GAT(IN, HIDDEN, 2, OUT, act="elu", **PLAIN), elu)


def gat_stack(**options):
    options = PLAIN | options
    first = peers.pyg().GATConv(IN, HIDDEN, heads=HEADS, **options)
    return Stack(
        ["conv1", "conv2"], [first, peers.pyg().GATConv(HEADS * HIDDEN, OUT, concat=False, **options)], elu, elu
    )


SYM = {"normalize": "sym", "add_self_loops": True}
PAIRS = {
    "GCN": (gcn, lambda: GCN(IN, HIDDEN, OUT, 3, dropout=0, **SYM)),
    "GCN, no normalisation": (lambda: gcn(normalize=False), lambda: GCN(IN, HIDDEN, OUT, 3, dropout=0)),
    "GCN, no loops": (lambda: gcn(add_self_loops=False), lambda: GCN(IN, HIDDEN, OUT, 3, dropout=0, normalize="sym")),
    "GCN, a stack": (gcn_stack, lambda: GCN(IN, HIDDEN, OUT, 3, dropout=0, **SYM)),
    "GAT, one head": (gat, lambda: GAT(IN, HIDDEN, OUT, 1, dropout=0)),
    "GAT, a stack": (gat_stack, lambda: GAT(IN, HIDDEN, OUT, HEADS, dropout=0)),
    "a convolution": (lambda: peers.pyg().GCNConv(IN, OUT), lambda: GraphConvolutionLayer(IN, OUT, **SYM)),
    "a convolution without bias": (
        lambda: peers.pyg().GCNConv(IN, OUT, bias=False),
        lambda: GraphConvolutionLayer(IN, OUT, bias=False, **SYM),
    ),
    "an attention": (
        lambda: Stack(["conv"], [peers.pyg().GATConv(IN, OUT, **PLAIN)], same, elu),
        lambda: GraphAttentionLayer(IN, OUT, 0.0),
    ),
}
of_every_pair = pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)


def randomized(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model.double()


def outputs(ours, theirs, x):
    """Both models' outputs; of an attention alone, theirs is not log_softmax'ed."""
    graph = Graph.from_edge_index(EDGES, num_nodes=NODES)
    out = ours(x, graph)
    out = out[0] if isinstance(out, tuple) else out
    if isinstance(ours, GraphAttentionLayer):
        out = torch.log_softmax(out, 1)
    return out, theirs(x, EDGES)


def assert_same(ours, theirs, train):
    """Equal outputs and equal gradients, of the features and, converted, of every weight."""
    x = torch.randn(NODES, IN, dtype=torch.float64, requires_grad=True)
    mine, other = outputs(ours.train(train), theirs.train(train), x)
    torch.testing.assert_close(mine, other)
    factor = torch.randn_like(mine)
    gradients = []
    for out, module in ((mine, ours), (other, theirs)):
        leaves = [x, *module.parameters()]
        gradients.append(torch.autograd.grad((out * factor).sum(), leaves))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    as_weights = copy.deepcopy(theirs)
    with torch.no_grad():
        for parameter, gradient in zip(as_weights.parameters(), gradients[1][1:], strict=True):
            parameter.copy_(gradient)
    converted = import_state_dict(ours, keys(as_weights, ours), "pyg")
    names = [name for name, _ in ours.named_parameters()]
    torch.testing.assert_close(converted, dict(zip(names, gradients[0][1:], strict=True)))


def keys(theirs, ours):
    """The peer's state dict; a lone attention's without the name of the stack that holds it."""
    state = theirs.state_dict()
    return (
        {key.removeprefix("conv."): v for key, v in state.items()} if isinstance(ours, GraphAttentionLayer) else state
    )


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@of_every_pair
def test_theirs_into_ours(theirs, ours, train):
    model, other = ours().double(), randomized(theirs())
    report = load_pretrained(model, keys(other, model))
    assert report.source == "pyg" and report.complete and report.notes
    assert_same(model, other, train)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@of_every_pair
def test_ours_into_theirs(theirs, ours, train):
    model, other = randomized(ours()), theirs().double()
    exported = export_state_dict(model, "pyg")
    if isinstance(other, Stack):
        convs = list(other.children())
        for i, conv in enumerate(convs):
            prefix = f"convs.{i}." if "convs.0.lin.weight" in exported else ""
            conv.load_state_dict({k.removeprefix(prefix): v for k, v in exported.items() if k.startswith(prefix)})
    else:
        other.load_state_dict(exported)
    assert_same(model, other, train)


@of_every_pair
def test_there_and_back_is_the_identity(theirs, ours):
    model = randomized(ours())
    back = import_state_dict(model, export_state_dict(model, "pyg"), "pyg")
    torch.testing.assert_close(back, dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("names", [["0", "1", "2"], ["convs.0", "convs.1", "convs.2"], ["conv2", "conv3", "conv11"]])
def test_names_of_layers(names):
    model, other = GCN(IN, HIDDEN, OUT, 3, dropout=0, **SYM).double(), randomized(gcn_stack())
    renamed = dict(zip(["conv1", "conv2", "conv10"], names, strict=True))
    state = {}
    for key, value in other.state_dict().items():
        layer, _, rest = key.partition(".")
        state[f"{renamed[layer]}.{rest}"] = value
    assert load_pretrained(model, state).complete
    assert_same(model, other, train=False)


# -- what does not convert -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"normalize": "row"}, {"add_self_loops": True}], ids=["row", "loops alone"])
def test_convolutions_that_have_no_peer_are_refused(options):
    ours = GCN(IN, HIDDEN, OUT, **options)
    message = f"no GCNConv computes what GraphConvolutionLayer does with normalize={options.get('normalize')!r}"
    with pytest.raises(WeightsError, match=message):
        export_state_dict(ours, "pyg")
    with pytest.raises(WeightsError, match=message):
        load_pretrained(ours, peers.pyg().models.GCN(IN, HIDDEN, 2, OUT).state_dict())
    assert load_pretrained(ours, GCN(IN, HIDDEN, OUT).state_dict()).complete  # our own checkpoints load


def test_a_bias_of_zeros_is_left_out_and_noted():
    model, other = GAT(IN, HIDDEN, OUT, HEADS, dropout=0).double(), gat_stack(bias=True).double()
    report = load_pretrained(model, other.state_dict())  # fresh: its biases are zeros
    assert report.complete and sum("zeros, left out" in note for note in report.notes) == 2
    torch.testing.assert_close(*outputs(model, other, torch.randn(NODES, IN, dtype=torch.float64)))


def test_another_bias_is_refused_by_name():
    model = GAT(IN, HIDDEN, OUT, HEADS)
    before = copy.deepcopy(model.state_dict())
    state = randomized(gat_stack(bias=True)).state_dict()
    with pytest.raises(WeightsError, match=r"(?s)unexpected \(2\).*convs\.0\.bias: not convertible") as raised:
        load_pretrained(model, state)
    assert raised.value.report.unexpected == ["convs.0.bias", "convs.1.bias"]
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_whole_gat_averages_its_output_heads_and_is_refused():
    """PyTorch Geometric's ``GAT`` has as many heads in the last layer, ours (as the paper's for cora) has one."""
    state = peers.pyg().models.GAT(IN, HIDDEN * HEADS, 2, OUT, heads=HEADS, **PLAIN).state_dict()
    with pytest.raises(WeightsError) as raised:
        load_pretrained(GAT(IN, HIDDEN, OUT, HEADS), state)
    assert {mismatch.key for mismatch in raised.value.report.mismatched} == {
        "convs.1.lin.weight",
        "convs.1.att_src",
        "convs.1.att_dst",
    }


@pytest.mark.parametrize("options", [{"jk": "cat"}, {"norm": "batch_norm"}], ids=["jumping knowledge", "norms"])
def test_whole_gcn_with_more_than_layers_is_refused(options):
    state = peers.pyg().models.GCN(IN, HIDDEN, 3, OUT, **options).state_dict()
    with pytest.raises(WeightsError, match="unexpected"):
        load_pretrained(GCN(IN, HIDDEN, OUT, 3, **SYM), state)


def test_half_an_attention_is_not_loaded():
    model = GAT(IN, HIDDEN, OUT, HEADS)
    before = copy.deepcopy(model.state_dict())
    state = dict(randomized(gat_stack()).float().state_dict())
    del state["conv1.att_src"]
    report = load_pretrained(model, state, strict=False)
    assert report.missing == ["convs.0.att_src"]
    assert report.matched == ["convs.1.lin.weight", "convs.1.att_dst", "convs.1.att_src"]
    assert sum("of no use without its partners" in note for note in report.notes) == 2
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("attention_heads")


def test_layers_with_their_keys_need_no_conversion():
    theirs = peers.pyg().GATConv(IN, OUT, heads=HEADS)
    ours = GATConv(IN, OUT, heads=HEADS)
    assert load_pretrained(ours, theirs.state_dict()).source == "advkern"
