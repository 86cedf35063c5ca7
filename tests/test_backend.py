"""Choosing a backend, and being told why not another."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest
import torch

from advkern import BackendError, backend, use_backend
from advkern.ops import gcn_aggregate
from advkern.testing import uniform_graph

compiled = pytest.mark.skipif(backend.COMPILED.status != "loaded", reason="needs the compiled part")

# A process in which `advkern._C` cannot be found, as in a pure install.
WITHOUT_COMPILED = """
import sys, warnings
sys.modules["advkern._C"] = None
import json, torch, advkern
from advkern.ops import gcn_aggregate
from advkern.testing import uniform_graph
graph, x = uniform_graph(20, 60), torch.randn(20, 4)
"""


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_COMPILED + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)


@compiled
def test_cpu_tensors_take_the_compiled_kernel():
    assert backend.choose("gcn_aggregate", "cpu") == "cpu"


@pytest.mark.parametrize("chosen", ["torch", {"gcn_aggregate": "torch"}])
def test_use_backend_holds_inside_and_ends_outside(chosen):
    before = backend.choose("gcn_aggregate", "cpu")
    with use_backend(chosen):
        assert backend.choose("gcn_aggregate", "cpu") == "torch"
    assert backend.choose("gcn_aggregate", "cpu") == before


def test_use_backend_nests_and_survives_an_exception():
    before = backend.choose("gcn_aggregate", "cpu")
    with pytest.raises(KeyError), use_backend("torch"), use_backend({"coo_to_csr": "torch"}):
        assert backend.choose("gcn_aggregate", "cpu") == "torch"
        raise KeyError
    assert backend.choose("gcn_aggregate", "cpu") == before


def test_op_without_the_asked_backend_keeps_its_own():
    before = backend.choose("gcn_aggregate", "cpu")
    with use_backend("triton"):
        assert backend.choose("gcn_aggregate", "cpu") == before


@pytest.mark.parametrize(
    ("chosen", "pattern"),
    [("gpu", r"backend: expected a backend.*'gpu'"), ({"gcn": "torch"}, r"backend: expected an op.*'gcn'")],
)
def test_wrong_choice_is_named(chosen, pattern):
    with pytest.raises(ValueError, match=pattern):
        use_backend(chosen)


def test_asked_backend_that_cannot_run_raises_with_every_reason():
    """The cpu kernels do not take tensors of another device."""
    with use_backend({"gcn_aggregate": "cpu"}), pytest.raises(BackendError) as error:
        backend.choose("gcn_aggregate", "meta")
    for name in backend.BACKENDS:
        assert f"[{name}: " in str(error.value)
    assert "cpu takes tensors on cpu, got meta" in str(error.value)


@pytest.fixture
def traced():
    """``compile(function)``, and the overloads of gcn_aggregate that were traced, graph by graph."""
    torch._dynamo.reset()
    graphs = []

    def record(module, inputs):
        targets = [str(node.target) for node in module.graph.nodes]
        graphs.append([target.rpartition(".")[2] for target in targets if "gcn_aggregate" in target])
        return module

    return functools.partial(torch.compile, backend=record, fullgraph=True), graphs


@pytest.fixture
def call():
    graph = uniform_graph(20, 60)
    gcn_aggregate(graph, torch.zeros(20, 4))  # what a graph derives at its first use would be traced
    return lambda x: gcn_aggregate(graph, x)


@compiled
def test_compiled_code_notices_another_choice_and_knows_the_first_again(traced, call):
    compile, graphs = traced
    compiled_call, x = compile(call), torch.randn(20, 4)
    compiled_call(x)
    with use_backend("torch"):
        compiled_call(x)
    compiled_call(x)
    with use_backend("torch"):
        compiled_call(x)
    assert graphs == [["default"], ["torch"]]


@compiled
def test_choice_inside_compiled_code(traced, call):
    compile, graphs = traced

    def inside(x):
        with use_backend({"gcn_aggregate": "torch"}):
            y = call(x)
        return call(y)

    x = torch.randn(20, 4)
    assert torch.equal(compile(inside)(x), inside(x))
    assert graphs == [["torch", "default"]]


def test_without_the_compiled_part_it_warns_once_and_is_right():
    done = run("""
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        out = gcn_aggregate(graph, x)
fallbacks = [w for w in caught if w.category is advkern.FallbackWarning and "gcn_aggregate" in str(w.message)]
dense = graph.to_dense() @ x
print(json.dumps({"warnings": [str(w.message) for w in fallbacks], "error": float((out - dense).abs().max())}))
""")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["warnings"]) == 1
    assert "falls back to plain PyTorch" in result["warnings"][0]
    assert "pip install" in result["warnings"][0]
    assert result["error"] < 1e-5


def test_without_the_compiled_part_derivatives_compile_and_opcheck_pass():
    done = run("""
warnings.simplefilter("ignore")
leaf = x[:, :2].double().requires_grad_()
call = lambda x: gcn_aggregate(graph, x, normalize="sym", activation="elu")
assert torch.autograd.gradcheck(call, leaf) and torch.autograd.gradgradcheck(call, leaf)
structure = (graph.rowptr, graph.col, graph.schedule)
torch.library.opcheck(torch.ops.advkern.gcn_aggregate_fwd.default, (*structure, x, None, None, None, None, 0))
assert torch.allclose(torch.compile(call, fullgraph=True)(x), call(x))
""")
    assert done.returncode == 0, done.stderr


def test_without_the_compiled_part_the_first_call_may_be_a_compiled_one():
    done = run("""
call = lambda x: gcn_aggregate(graph, x)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = torch.compile(call, fullgraph=True, backend="eager")(x)
assert torch.equal(out, call(x))
print([w.category.__name__ for w in caught if "gcn_aggregate falls back" in str(w.message)])
""")
    assert done.stdout.strip() == "['FallbackWarning']", done.stderr


def test_strict_makes_a_fallback_an_error():
    done = run("gcn_aggregate(graph, x)", ADVKERN_STRICT="1")
    assert done.returncode == 1
    assert "BackendError: advkern: coo_to_csr: cpu cannot run, and ADVKERN_STRICT allows no fallback" in done.stderr


@pytest.mark.parametrize("off", ["", "0"])
def test_strict_can_be_switched_off(off):
    done = run('warnings.simplefilter("ignore"); print(gcn_aggregate(graph, x).shape)', ADVKERN_STRICT=off)
    assert done.stdout.strip() == "torch.Size([20, 4])", done.stderr


def test_asked_cpu_without_the_compiled_part_is_an_error():
    done = run("gcn_aggregate(graph, x)", ADVKERN_BACKEND="cpu")
    assert "BackendError: advkern: coo_to_csr: cpu was asked for and cannot run. [cpu: not built: " in done.stderr


def test_environment_chooses_for_one_op():
    code = 'print(advkern.backend.choose("gcn_aggregate", "cpu"))'
    done = run(code, ADVKERN_BACKEND="gcn_aggregate=torch,coo_to_csr=torch", ADVKERN_STRICT="1")
    assert done.stdout.strip() == "torch", done.stderr


def test_wrong_environment_is_named_on_first_use_not_on_import():
    done = run('print("imported"); gcn_aggregate(graph, x)', ADVKERN_BACKEND="fast")
    assert "ADVKERN_BACKEND: expected a backend" in done.stderr


def test_info_tells_a_missing_part_with_reason_and_command():
    done = run("print(json.dumps(advkern.backend.info()))")
    part = json.loads(done.stdout)["compiled"]
    assert part["status"] == "not built"
    assert part["reason"]
    assert "pip install" in part["mend"]


def test_info_tells_what_each_op_takes_and_what_the_environment_asks():
    code = "print(json.dumps(advkern.backend.info()))"
    facts = json.loads(run(code, ADVKERN_BACKEND="coo_to_csr=torch", ADVKERN_STRICT="1").stdout)
    assert facts["environment"] == {"ADVKERN_BACKEND": "coo_to_csr=torch", "ADVKERN_STRICT": "1"}
    assert facts["ops"]["coo_to_csr"]["cpu"]["takes"] == "torch"
    strict = "nothing: cpu cannot run, and ADVKERN_STRICT allows no fallback"
    assert facts["ops"]["gcn_aggregate"]["cpu"]["takes"] == strict
    assert facts["ops"]["gcn_aggregate"]["cpu"]["torch"] == "can run"


def test_info_survives_a_wrong_environment():
    command = [sys.executable, "-m", "advkern", "info", "--json"]
    facts = json.loads(subprocess.check_output(command, text=True, env=os.environ | {"ADVKERN_BACKEND": "fast"}))
    takes = facts["ops"]["gcn_aggregate"]["cpu"]["takes"]
    assert takes.startswith("nothing: ADVKERN_BACKEND: expected a backend")
