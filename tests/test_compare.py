"""``advkern.compare``: its figures against ones known by other ways, and that it leaves models as they were."""

import math
import os
import subprocess
import sys

import networkx as nx
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import advkern
from advkern import Graph, ops, use_backend
from advkern.flops import FlopCounterMode
from advkern.testing import peak_allocated, peak_memory, uniform_graph
from advkern.testing.memory import _highest

GRAPH = Graph.from_networkx(nx.karate_club_graph())


@pytest.fixture(scope="module")
def comparison():
    torch.manual_seed(0)
    models = {
        "GCN": (advkern.nn.GCN(34, 16, 2), (torch.eye(34), GRAPH)),
        "Linear": nn.Sequential(nn.Linear(100, 50), nn.Dropout(0.5)),
        "Multimodal": advkern.nn.MultimodalTransformer(50, 8, 8, 4, 16, 2, 4, 3),
    }
    inputs = {
        "Linear": torch.randn(1000, 100),
        "Multimodal": {"images": torch.randn(2, 3, 8, 8), "text_ids": torch.ones(2, 5, dtype=torch.long)},
    }
    return advkern.compare(models, inputs, use={"GCN": "graphs"})


def test_rows_come_in_the_order_of_the_models(comparison):
    assert [row.name for row in comparison.rows] == ["GCN", "Linear", "Multimodal"]
    assert [row.use for row in comparison.rows] == ["graphs", "", ""]


def test_parameters_are_counted(comparison):
    assert comparison.rows[0].parameters == 34 * 16 + 16 + 16 * 2 + 2
    assert comparison.rows[1].parameters == 100 * 50 + 50


def test_flops_and_memory_of_a_linear_layer_are_exact(comparison):
    linear = comparison.rows[1]
    assert linear.flops == 2 * 1000 * 100 * 50
    assert linear.peak_bytes == 1000 * 50 * 4
    assert 0 < linear.seconds < 1


def test_flops_of_a_graph_convolution_count_products_and_edges(comparison):
    products = 2 * 34 * 34 * 16 + 2 * 34 * 16 * 2
    assert comparison.rows[0].flops == products + 2 * GRAPH.num_edges * (16 + 2)


def count(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.fixture(params=["as it comes", "torch"])
def anywhere(request):
    """The kernels that this machine has, and plain PyTorch: an op costs the same."""
    if request.param == "torch":
        with use_backend("torch"):
            yield
    else:
        yield


def test_attention_counts_as_its_two_products_and_their_five(anywhere):
    q, k, v = (torch.randn(2, 9, 3, 4, requires_grad=True) for _ in range(3))

    def eager():
        q_, k_, v_ = (t.transpose(1, 2) for t in (q, k, v))
        return (torch.softmax(q_ @ k_.mT, -1) @ v_).transpose(1, 2)

    forward = count(eager)
    assert count(lambda: ops.vit_attention((q, k, v))) == forward == 4 * 2 * 3 * 9 * 9 * 4
    trained = count(lambda: eager().sum().backward()) + forward // 2  # the scores again, which eager PyTorch kept
    assert count(lambda: ops.vit_attention((q, k, v)).sum().backward()) == trained


def test_linear_counts_as_torch_s_own(anywhere):
    x, weight = torch.randn(11, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    own = lambda: torch.nn.functional.linear(x, weight)
    assert count(lambda: ops.linear(x, weight)) == count(own) == 2 * 11 * 5 * 3
    assert count(lambda: ops.linear(x, weight).sum().backward()) == count(lambda: own().sum().backward())


def test_graph_attention_counts_a_product_an_edge(anywhere):
    graph = uniform_graph(20, 70)
    h = torch.randn(20, 3, 5, requires_grad=True)
    scores = torch.randn(2, 20, 3, requires_grad=True)
    assert count(lambda: ops.gat_attention(graph, h, *scores)) == 2 * 70 * 3 * 5
    assert count(lambda: ops.gat_attention(graph, h, *scores).sum().backward()) == 3 * 2 * 70 * 3 * 5


def test_aggregation_s_gradient_counts_as_the_aggregation(anywhere):
    graph = uniform_graph(20, 70)
    x = torch.randn(20, 5, requires_grad=True)
    assert count(lambda: ops.gcn_aggregate(graph, x).sum().backward()) == 2 * 2 * 70 * 5


def test_integration_counts_as_the_loop_of_linear_layers(anywhere):
    func = advkern.nn.ODEFunc(3, hidden_dim=7)
    y, h = torch.randn(11, 3, requires_grad=True), torch.full((10,), 0.1)
    expected = 4 * 10 * count(lambda: func(0.0, y))
    weights = func.fused_weights()
    assert count(lambda: ops.rk4(y, *weights, h)) == expected
    assert count(lambda: ops.rk4(y, *weights, h).sum().backward()) == (1 + 3) * expected
    assert count(lambda: advkern.nn.NeuralODE(func, "rk4", 0.1)(y, (0.0, 1.0))) == expected


def test_peak_is_what_was_alive_at_once():
    def call():
        a = torch.empty(1000)
        b = torch.empty(2000)
        del a
        return torch.empty(500), b

    assert peak_allocated(call) == 4 * 3000
    assert peak_allocated(lambda: None) == 0


def test_events_of_one_time_count_in_the_order_of_their_record():
    """That two results were alive at once is not lost where the clock does not tell them apart."""
    assert _highest([(1, 100), (2, 100), (2, -100), (3, -100)]) == 200
    assert _highest([(1, 100), (2, -100), (2, 100), (3, -100)]) == 100
    assert _highest([(2, 100), (1, 50), (3, -150)]) == 150


@pytest.mark.parametrize("level", [None, "3"])
def test_environment_is_as_it_was(monkeypatch, level):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("KINETO_LOG_LEVEL", level)
    peak_allocated(lambda: torch.empty(1))
    assert os.environ.get("KINETO_LOG_LEVEL") == level


def test_peak_agrees_with_the_system_s():
    """Of a call that nothing but torch's allocator serves: two results at a time, 40 MB each."""
    prepare = """
import torch
torch.set_num_threads(1)
x = torch.randn(1000, 10000)
def measured():
    y = x.exp()
    z = y + 1
    del y
    return z.sqrt().sum()
"""
    space = {}
    exec(prepare, space)
    exact = peak_allocated(space["measured"])
    assert exact == pytest.approx(2 * 40_000_000, abs=64)  # and a few numbers
    assert peak_memory(prepare) == pytest.approx(exact, rel=0.1)


def test_profiler_writes_nothing():
    code = "import torch; from advkern.testing import peak_allocated; print(peak_allocated(lambda: torch.empty(250)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1000\n", "")


def test_modules_are_left_in_their_modes():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    model[0].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    seen = []
    model.register_forward_hook(lambda *_: seen.append((model.training, model[1].training, torch.is_grad_enabled())))
    advkern.compare({"net": (model, torch.randn(8, 4))})
    assert set(seen) == {(False, False, False)}
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_modes_come_back_after_an_error():
    model = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        advkern.compare({"net": (model, torch.randn(2, 4))})
    assert model.training and torch.is_grad_enabled()


def test_without_inputs_only_parameters_are_told():
    (row,) = advkern.compare({"net": nn.Linear(3, 3)}).rows
    assert (row.parameters, row.flops, row.seconds, row.peak_bytes) == (12, None, None, None)


def test_table_is_aligned_and_told_with_units(comparison):
    header, rule, *rows = str(comparison).splitlines()
    assert header.split() == ["model", "use", "parameters", "FLOPs", "forward", "peak", "memory"]
    assert set(rule) == {"-"} and all(len(row) <= len(rule) for row in rows)
    assert "5.05 k" in rows[1] and "10 M" in rows[1] and "200 kB" in rows[1] and "ms" in rows[1]
    assert "graphs" in rows[0]


def test_chart_has_a_bar_for_each_model(comparison):
    ax = Figure().subplots()
    assert comparison.plot(ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [row.parameters for row in comparison.rows]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["GCN", "Linear", "Multimodal"]
    assert ax.get_xlabel() == "parameters"


@pytest.mark.parametrize("quantity", ["flops", "seconds", "peak_bytes"])
def test_chart_of_another_quantity(comparison, quantity):
    ax = comparison.plot(Figure().subplots(), quantity)
    assert [bar.get_width() for bar in ax.patches] == [getattr(row, quantity) for row in comparison.rows]
    assert math.isclose(ax.get_xlim()[1] / max(bar.get_width() for bar in ax.patches), 2, rel_tol=3)


def test_chart_refuses_what_was_not_measured(comparison):
    with pytest.raises(ValueError, match=r"quantity: expected one of .*got 'beauty'"):
        comparison.plot(Figure().subplots(), "beauty")
    with pytest.raises(ValueError, match=r"quantity: flops needs inputs of every model, and 'net' had none"):
        advkern.compare({"net": nn.Linear(3, 3)}).plot(Figure().subplots(), "flops")


WRONG = {
    "models is a list": (lambda: advkern.compare([nn.Linear(1, 1)]), TypeError, r"models: expected a mapping.*list"),
    "no models": (lambda: advkern.compare({}), ValueError, r"models: expected at least one"),
    "no module": (lambda: advkern.compare({"a": 1}), TypeError, r"models: expected a module .*'a', got int"),
    "inputs of nobody": (
        lambda: advkern.compare({"a": nn.Linear(1, 1)}, {"b": 1}),
        ValueError,
        r"inputs: expected names out of \('a',\), got 'b'",
    ),
    "inputs is a tensor": (
        lambda: advkern.compare({"a": nn.Linear(1, 1)}, torch.ones(1)),
        TypeError,
        r"inputs: expected a mapping.*Tensor",
    ),
    "use of nobody": (
        lambda: advkern.compare({"a": nn.Linear(1, 1)}, use={"b": ""}),
        ValueError,
        r"use: expected names out of \('a',\), got 'b'",
    ),
}


@pytest.mark.parametrize("scenario", WRONG)
def test_wrong_input_is_named(scenario):
    call, exception, pattern = WRONG[scenario]
    with pytest.raises(exception, match=pattern):
        call()
