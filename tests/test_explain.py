"""``advkern.explain`` tells what the ops of a call took, and changes nothing."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import advkern
from advkern import Graph, backend, use_backend
from advkern.nn import GCN
from advkern.ops import gcn_aggregate
from advkern.testing import uniform_graph


@pytest.fixture
def graph():
    return uniform_graph(20, 60)


@pytest.fixture
def x():
    return torch.randn(20, 4)


def taken(explanation):
    return {choice.op: choice.backend for choice in explanation.choices}


def test_op_is_told_with_the_reasons_against_the_others(graph, x):
    (choice,) = advkern.explain(gcn_aggregate, graph, x, activation="relu").choices
    assert (choice.op, choice.device) == ("gcn_aggregate", "cpu")
    assert choice.backend == backend.choose("gcn_aggregate", "cpu")
    assert choice.against.keys() == set(backend.BACKENDS) - {choice.backend}
    assert choice.against["triton"] == "gcn_aggregate has no triton kernel"


def test_what_is_returned_is_what_is_printed(graph, x, capsys):
    with use_backend("torch"):
        explanation = advkern.explain(gcn_aggregate, graph, x)
    assert capsys.readouterr().out == f"{explanation}\n"
    lines = str(explanation).splitlines()
    assert lines[:2] == [
        "gcn_aggregate:",
        "gcn_aggregate takes torch for cpu tensors: use_backend or ADVKERN_BACKEND asks for it",
    ]
    assert "  not cuda: cuda takes tensors on cuda, got cpu" in lines


@pytest.mark.skipif(backend.COMPILED.status != "loaded", reason="needs the compiled part")
def test_example_of_the_docs_prints_what_they_say(capsys):
    page = (Path(__file__).parents[1] / "docs" / "backends.md").read_text()
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    exec(compile(code, "docs/backends.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_module_is_told_by_every_op_it_calls(graph, x):
    explanation = advkern.explain(GCN(4, 8, 2), x, graph)
    assert explanation.called == "GCN"
    assert list(taken(explanation)) == ["gcn_aggregate", "coo_to_csr"]  # the latter transposes, for the backward


def test_what_is_told_is_what_the_call_does_not_a_list_of_its_ops(graph, x):
    with torch.no_grad():  # no transpose
        assert list(taken(advkern.explain(GCN(4, 8, 2), x, graph))) == ["gcn_aggregate"]


def test_inner_choice_is_told(graph, x):
    def call(x):
        with use_backend({"gcn_aggregate": "torch"}):
            return gcn_aggregate(graph, x)

    assert taken(advkern.explain(call, x)) == {"gcn_aggregate": "torch"}


def test_call_without_an_op_says_so():
    explanation = advkern.explain(nn.Linear(3, 3), torch.ones(3))
    assert explanation.choices == ()
    assert str(explanation) == "Linear: no op of advkern was called"


def test_compiled_module_is_told_too(graph, x):
    torch._dynamo.reset()
    model = GCN(4, 8, 2).eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x, graph)
        assert list(taken(advkern.explain(compiled, x, graph))) == ["gcn_aggregate"]
        assert torch.equal(compiled(x, graph), model(x, graph))


def test_op_can_give_a_reason_of_its_own(x):
    def step(x):
        backend.note("probe", "step by step because func has hooks")
        return x

    explanation = advkern.explain(lambda x: step(step(x)), x)
    assert explanation.notes == ("probe: step by step because func has hooks",)
    assert str(explanation).endswith("\nnote: probe: step by step because func has hooks")
    step(x)  # without explain nothing listens
    assert backend._record is None


def test_note_does_not_break_a_compiled_graph(x):
    def call(x):
        backend.note("probe", "another way")
        return x + 1

    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(x), x + 1)


def test_random_state_buffers_and_choices_are_left_as_they_were(graph, x):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout()

        def forward(self, x):
            return self.dropout(gcn_aggregate(graph, self.norm(x)))

    model = Model()
    state, random, choices = (
        {k: v.clone() for k, v in model.state_dict().items()},
        torch.get_rng_state(),
        backend._choices,
    )
    advkern.explain(model, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert backend._choices is choices


def test_module_sees_missing_kernels_to_the_end(x, monkeypatch):
    """Under strict the first op already raises; explain tells of both."""
    monkeypatch.setattr(backend, "COMPILED", backend.CompiledPart("not built", "a reason", "a command"))
    monkeypatch.setenv("ADVKERN_STRICT", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation = advkern.explain(GCN(4, 8, 2), x, torch.eye(20))
    assert taken(explanation) == {"coo_to_csr": None, "gcn_aggregate": None}
    assert "not cpu: not built: a reason; what mends it: a command" in str(explanation)


def test_refused_inputs_are_refused_and_recording_ends(graph, x):
    with pytest.raises(ValueError, match="x: expected"):
        advkern.explain(gcn_aggregate, graph, x[:3])
    assert backend._record is None


@pytest.mark.parametrize("wrong", ["gcn_aggregate", None, Graph])
def test_something_else_is_refused(wrong):
    with pytest.raises(TypeError):
        advkern.explain(wrong)
