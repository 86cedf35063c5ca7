"""``GraphConvolutionLayer`` and ``GCN``: the tutorial's classes, and a dense float64 formula."""

import contextlib
import copy
import io
import pickle

import networkx as nx
import pytest
import scipy.sparse
import torch
import tutorial
from drop_in import assert_same_start, gradients
from torch import nn

import advkern.nn
from advkern import Graph
from advkern.nn import GCN, GraphConvolutionLayer
from advkern.testing import assert_matches

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # torch's notices of beta state and unchecked invariants

ADJACENCIES = {
    "dense": torch.clone,
    "coo": torch.Tensor.to_sparse,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
    "graph": Graph.from_dense,
    "scipy": lambda adj: scipy.sparse.csr_array(adj.numpy()),
}
of_every_adjacency = pytest.mark.parametrize("make", ADJACENCIES.values(), ids=ADJACENCIES)


@pytest.fixture
def x():
    return torch.randn(6, 5, dtype=torch.float64)


def gradients_with(module, x, adj):
    """The gradients by that adjacency."""
    x = x.clone().requires_grad_()
    return gradients(module, x, module(x, adj))


def pair(theirs, num_layers=2):
    """The tutorial's model and ours with its weights, in float64."""
    model = theirs["GCN"](5, 8, 3, num_layers).double()
    ours = GCN(5, 8, 3, num_layers).double()
    ours.load_state_dict(model.state_dict())
    return model, ours


def train(model, optimizer, x, adj, steps, seed):
    """Losses of ``steps`` steps with dropout, whose masks follow from ``seed``."""
    torch.manual_seed(seed)
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(model.train()(x, adj), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


# -- the tutorial ------------------------------------------------------------------------------------------------


@of_every_adjacency
def test_layer_is_the_tutorials(theirs, make, directed, x):
    layer = theirs["GraphConvolutionLayer"](5, 3).double()
    nn.init.normal_(layer.bias)
    ours = GraphConvolutionLayer(5, 3).double()
    ours.load_state_dict(layer.state_dict())
    coo = directed.to_sparse()
    torch.testing.assert_close(ours(x, make(directed)), layer(x, coo))
    torch.testing.assert_close(gradients_with(ours, x, make(directed)), gradients_with(layer, x, coo))


@of_every_adjacency
@pytest.mark.parametrize("num_layers", [2, 3])
def test_model_is_the_tutorials(theirs, make, num_layers, directed, x):
    model, ours = pair(theirs, num_layers)
    coo = directed.to_sparse()
    torch.testing.assert_close(ours.eval()(x, make(directed)), model.eval()(x, coo))
    torch.testing.assert_close(gradients_with(ours, x, make(directed)), gradients_with(model, x, coo))


@pytest.mark.parametrize("num_layers", [2, 3])
def test_state_dict_loads_both_ways(theirs, num_layers):
    model, ours = theirs["GCN"](5, 8, 3, num_layers), GCN(5, 8, 3, num_layers)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    model.load_state_dict(ours.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    ours.load_state_dict(theirs["GCN"](5, 8, 3, num_layers).state_dict())
    assert list(ours.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("num_layers", [2, 3])
def test_same_seed_gives_the_same_weights(theirs, num_layers):
    assert_same_start(theirs["GCN"], GCN, 5, 8, 3, num_layers)


def test_same_seed_gives_the_same_training(theirs, directed, x):
    model, ours = pair(theirs)
    losses = [
        train(m, torch.optim.Adam(m.parameters(), lr=0.05), x, directed.to_sparse(), steps=20, seed=7)
        for m in (model, ours)
    ]
    torch.testing.assert_close(*losses)
    assert losses[0][-1] < losses[0][0]


def test_optimizer_state_continues_in_our_model(theirs, directed, x):
    model, _ = pair(theirs)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    coo = directed.to_sparse()
    train(model, optimizer, x, coo, steps=5, seed=7)

    ours = GCN(5, 8, 3).double()
    ours.load_state_dict(model.state_dict())
    resumed = torch.optim.Adam(ours.parameters(), lr=0.05)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected = train(model, optimizer, x, coo, steps=5, seed=8)
    torch.testing.assert_close(train(ours, resumed, x, coo, steps=5, seed=8), expected)
    torch.testing.assert_close(list(ours.parameters()), list(model.parameters()))


def test_first_cells_of_the_tutorial_run_with_our_classes():
    """Cells 0 to 2: imports, the classes (then replaced by ours), a random graph with its picture and a model."""
    imports, classes, use = tutorial.cells()[:3]
    tutorial.namespace()  # chooses a backend of matplotlib that needs no screen
    space = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(imports, space)
        exec(classes, space)
        assert space["GCN"] is not GCN
        space.update(GCN=advkern.nn.GCN, GraphConvolutionLayer=advkern.nn.GraphConvolutionLayer)
        exec(use, space)
        space["plt"].close("all")
    assert type(space["gcn"]) is GCN
    assert "GCN output shape: torch.Size([20, 4])" in printed.getvalue()
    torch.testing.assert_close(space["output"].exp().sum(1), torch.ones(20))


# -- where we differ from it -------------------------------------------------------------------------------------


def test_one_layer_is_one_layer(directed, x):
    model = GCN(5, 8, 3, num_layers=1).double()
    (layer,) = model.layers
    assert layer.weight.shape == (5, 3)
    expected = (directed @ x @ layer.weight + layer.bias).log_softmax(1)
    torch.testing.assert_close(model(x, directed), expected)


def test_tutorials_checkpoint_of_one_layer_is_refused_with_the_remedy(theirs):
    checkpoint = theirs["GCN"](5, 8, 3, 1).state_dict()
    with pytest.raises(RuntimeError, match=r"holds 2 layers and the model 1\. .*load it into num_layers=2"):
        GCN(5, 8, 3, num_layers=1).load_state_dict(checkpoint)
    GCN(5, 8, 3, num_layers=2).load_state_dict(checkpoint)


@pytest.mark.parametrize("kind", [torch.from_numpy, torch.Tensor.to_sparse], ids=["dense", "coo"])
def test_integer_adjacency_of_networkx_is_cast(kind):
    matrix = torch.from_numpy(nx.to_numpy_array(nx.gnp_random_graph(6, 0.5, seed=0, directed=True), dtype=int))
    adj = matrix if kind is torch.from_numpy else kind(matrix)
    assert adj.dtype == torch.int64
    model, x = GCN(5, 8, 3).eval(), torch.randn(6, 5)
    assert torch.equal(model(x, adj), model(x, matrix.float()))


def test_dropout_is_off_in_eval_and_on_in_training(directed, x):
    model = GCN(5, 64, 3, dropout=0.5).double()
    assert not torch.equal(model(x, directed), model(x, directed))
    first, second = model.layers
    hidden = torch.relu(directed @ x @ first.weight)
    model.eval()
    torch.testing.assert_close(model(x, directed), (directed @ hidden @ second.weight).log_softmax(1))
    model.train().dropout.p = 1.0
    torch.testing.assert_close(model(x, directed), torch.full((6, 3), 1 / 3).double().log())


# -- a dense formula ---------------------------------------------------------------------------------------------


def formula(layer, x, adj):
    """``act(norm(A) x W + b)`` on the dense matrix."""
    if layer.add_self_loops:
        adj = adj + torch.diag((adj.diagonal() == 0).to(adj.dtype))
    degree = adj.sum(1)
    if layer.normalize == "sym":
        factor = torch.where(degree > 0, degree, torch.inf) ** -0.5
        adj = factor[:, None] * adj * factor
    elif layer.normalize == "row":
        adj = adj / torch.where(degree > 0, degree, 1)[:, None]
    out = adj @ x @ layer.weight
    out = out if layer.bias is None else out + layer.bias
    by_name = {None: lambda out: out, "relu": torch.relu, "elu": nn.functional.elu}
    return by_name.get(layer.activation, layer.activation)(out)


@pytest.mark.parametrize("out_features", [3, 5, 8])  # the product comes before or after the aggregation
@pytest.mark.parametrize("normalize", [None, "sym", "row"])
@pytest.mark.parametrize("add_self_loops", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "elu", torch.tanh], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_the_formula(out_features, normalize, add_self_loops, activation, bias, directed, x):
    options = {"bias": bias, "normalize": normalize, "add_self_loops": add_self_loops, "activation": activation}
    layer = GraphConvolutionLayer(5, out_features, **options).double()
    if bias:
        nn.init.normal_(layer.bias)
    x.requires_grad_()
    adj = directed.clone().requires_grad_()  # the gradient flows through its degrees too
    leaves = [x, adj, *layer.parameters()]
    results = [layer(x, adj), formula(layer, x, adj)]
    torch.testing.assert_close(*results)
    factor = torch.randn_like(results[0])
    actual, expected = (torch.autograd.grad(out, leaves, factor) for out in results)
    stored = (directed != 0).double()  # a place where nothing is stored is no edge and has no gradient
    torch.testing.assert_close(actual, (expected[0], expected[1] * stored, *expected[2:]))


@pytest.mark.parametrize("normalize", [None, "sym", "row"])
@pytest.mark.parametrize("add_self_loops", [False, True])
def test_model_passes_its_options_to_every_layer(normalize, add_self_loops, directed, x):
    model = GCN(5, 8, 3, 3, normalize=normalize, add_self_loops=add_self_loops).double().eval()
    expected = x
    for layer in model.layers:
        assert (layer.normalize, layer.add_self_loops) == (normalize, add_self_loops)
        expected = formula(layer, expected, directed)
    torch.testing.assert_close(model(x, directed), expected.log_softmax(1))


def test_activation_with_parameters_belongs_to_the_layer(directed, x):
    layer = GraphConvolutionLayer(5, 3, activation=nn.PReLU()).double()
    torch.testing.assert_close(layer(x, directed), formula(layer, x, directed))
    assert "activation.weight" in layer.state_dict()


# -- types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out_features", [3, 8])
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_errs_as_little_as_plain_pytorch(out_features, autocast, directed, x):
    layer = GraphConvolutionLayer(5, out_features).double()
    nn.init.normal_(layer.bias)
    exact = formula(layer, x, directed)
    magnitude = directed @ x.abs() @ layer.weight.abs() + layer.bias.abs()
    kind = torch.float32 if autocast else torch.bfloat16
    layer, x, adj = layer.to(kind), x.to(kind), directed.to(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual, yardstick = layer(x, adj), formula(layer, x, adj).bfloat16()
    assert_matches(actual.detach(), exact.detach(), yardstick.detach(), magnitude.detach())


def test_autocast_trains_float32_parameters(directed):
    model, x = GCN(5, 8, 3).eval(), torch.randn(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.layers[0](x, directed.float()).dtype == torch.bfloat16
        out = model(x, directed.float())
    out.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.count_nonzero() > 0


def test_grad_scaler_takes_the_same_step_as_without(directed):
    x, adj = torch.randn(6, 5), directed.float()
    plain = GCN(5, 8, 3).eval()
    scaled = copy.deepcopy(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two: scaling is exact
    for model, scale in ((plain, lambda loss: loss), (scaled, scaler.scale)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scale(model(x, adj).square().sum()).backward()
        scaler.step(optimizer) if model is scaled else optimizer.step()
    scaler.update()
    assert scaler.get_scale() == 1024
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))


# -- derivatives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(5, 8, 3), (5, 3, 8)])
@pytest.mark.parametrize("normalize", [None, "sym"])
def test_gradient_penalty(sizes, normalize, directed, x):
    model = GCN(*sizes, normalize=normalize).double().eval()
    x.requires_grad_()

    def penalty(out):
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), list(model.parameters()))

    plain = formula(model.layers[1], formula(model.layers[0], x, directed), directed).log_softmax(1)
    torch.testing.assert_close(penalty(model(x, directed)), penalty(plain))


@pytest.mark.parametrize("make", [torch.clone, Graph.from_dense], ids=["dense", "graph"])
def test_hooks_see_inputs_outputs_and_gradients(make, directed, x):
    layer, adj, seen = GraphConvolutionLayer(5, 3).double(), make(directed), {}
    layer.register_forward_hook(lambda module, inputs, out: seen.update(inputs=inputs, out=out))
    layer.register_full_backward_hook(lambda module, into, out: seen.update(grad_in=into, grad_out=out))
    x.requires_grad_()
    out = layer(x, adj)
    factor = torch.randn_like(out)
    out.backward(factor)
    assert len(seen["inputs"]) == 2
    assert torch.equal(seen["out"], out)
    assert torch.equal(seen["grad_out"][0], factor)
    torch.testing.assert_close(seen["grad_in"][0], directed.t() @ factor @ layer.weight.t())
    assert torch.equal(seen["grad_in"][0], x.grad)


def test_hook_on_the_last_layer_sees_what_the_softmax_is_taken_of(directed, x):
    torch.manual_seed(0)
    model = GCN(5, 8, 3).double().eval()
    fused, seen = model(x, directed), []
    model.layers[-1].register_forward_hook(lambda layer, args, out: seen.append(out))
    hooked = model(x, directed)
    torch.testing.assert_close(torch.log_softmax(seen[0], 1), hooked)
    torch.testing.assert_close(fused, hooked)


@pytest.mark.parametrize("own", ["activation", "forward", "class"])
def test_last_layer_of_ones_own_is_called(own, directed, x):
    model = GCN(5, 8, 3).double().eval()
    layer = model.layers[-1]
    if own == "activation":
        layer.activation = "relu"
    elif own == "forward":
        layer.forward = lambda x, adj: torch.relu(GraphConvolutionLayer.forward(layer, x, adj))
    else:
        layer.__class__ = type(
            "Own",
            (GraphConvolutionLayer,),
            {"forward": lambda self, x, adj: torch.relu(super(type(self), self).forward(x, adj))},
        )
    hidden = torch.relu(formula(model.layers[0], x, directed))
    expected = torch.relu(formula(layer, hidden, directed)).log_softmax(1)
    torch.testing.assert_close(model(x, directed), expected)


@pytest.mark.parametrize("sizes", [(5, 8, 3), (5, 3, 8)], ids=["product first", "product last"])
def test_autocast_gives_the_type_of_torchs_log_softmax(sizes, directed, x):
    model = GCN(*sizes).eval()
    with torch.autocast("cpu", torch.bfloat16):
        seen = []
        model.layers[-1].register_forward_hook(lambda layer, args, out: seen.append(out))
        hooked = model(x.float(), directed.float())
        model.layers[-1]._forward_hooks.clear()
        assert model(x.float(), directed.float()).dtype == hooked.dtype == torch.log_softmax(seen[0], 1).dtype


# -- copies and compilers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_model_is_copied_after_a_forward(copied, directed, x):
    model = GCN(5, 8, 3, normalize="sym", add_self_loops=True).double().eval()
    out = model(x, directed)
    out.sum().backward()
    other = copied(model)
    assert torch.equal(other(x, directed), out)
    with torch.no_grad():
        other.layers[0].weight.zero_()
    assert torch.equal(model(x, directed), out)


@pytest.mark.compile
@pytest.mark.parametrize("add_self_loops", [False, True])
def test_compiles_without_a_graph_break_and_trains(add_self_loops, directed, x):
    model = GCN(5, 8, 3, normalize="sym", add_self_loops=add_self_loops).double().eval()
    compiled = torch.compile(model, fullgraph=True)
    graph = Graph.from_dense(directed)
    torch.testing.assert_close(compiled(x, graph), model(x, directed))
    torch.testing.assert_close(gradients_with(compiled, x, graph), gradients_with(model, x, directed))


@pytest.mark.compile
def test_exports_with_the_graph_as_an_input(directed, x):
    model = GCN(5, 8, 3, normalize="row", add_self_loops=True).double().eval()
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x, Graph.from_dense(directed))), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for adj in (directed, 2 * directed.t()):  # the same sizes, other edges
        torch.testing.assert_close(loaded(x, Graph.from_dense(adj)), model(x, adj))


# -- what is refused ---------------------------------------------------------------------------------------------

EYE = torch.eye(6)
WRONG = {
    "in_features: .*at least 1, got 0": lambda: GraphConvolutionLayer(0, 3),
    "out_features: .*at least 1.*, got -1": lambda: GraphConvolutionLayer(5, -1),
    r"normalize: expected one of \(None, 'sym', 'row'\), got 'mean'": lambda: GCN(5, 8, 3, normalize="mean"),
    "activation: expected one of .*'relu'.* or a callable, got 'gelu'": (
        lambda: GraphConvolutionLayer(5, 3, activation="gelu")
    ),
    "num_layers: .*at least 1, got 0": lambda: GCN(5, 8, 3, num_layers=0),
    r"dropout: .*\[0, 1\], got 1.5": lambda: GCN(5, 8, 3, dropout=1.5),
    r"x: expected shape \[num_nodes = 6, 5\], got \(6, 4\)": lambda: GCN(5, 8, 3)(torch.ones(6, 4), EYE),
    r"x: expected shape \[num_nodes = 6, 5\], got \(5,\)": lambda: GraphConvolutionLayer(5, 3)(torch.ones(5), EYE),
    r"x: expected shape \[num_nodes = 6, 5\], got \(4, 5\)": (
        lambda: GraphConvolutionLayer(5, 3)(torch.ones(4, 5), EYE)
    ),
    r"adj: expected a square matrix, got shape \(6, 2\)": lambda: GCN(5, 8, 3)(torch.ones(6, 5), EYE[:, :2]),
}


@pytest.mark.parametrize(("message", "call"), WRONG.items(), ids=WRONG)
def test_wrong_value_is_refused_by_name(message, call):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize("x", [[[1.0]], (EYE, EYE)], ids=["list", "pair"])
def test_features_of_another_kind_are_refused_by_name(x):
    with pytest.raises(TypeError, match=f"^x: expected a tensor .*got {type(x).__name__}"):
        GraphConvolutionLayer(6, 3)(x, EYE)
