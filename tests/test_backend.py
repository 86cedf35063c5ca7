"""Choosing a backend, and being told why not another."""

from __future__ import annotations

import json
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
    import os

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


def test_compiled_code_notices_another_choice():
    torch._dynamo.reset()
    graph, x = uniform_graph(20, 60), torch.randn(20, 4)
    traced = []

    def record(module, inputs):
        traced.append([str(node.target) for node in module.graph.nodes if "gcn_aggregate" in str(node.target)])
        return module

    call = torch.compile(lambda x: gcn_aggregate(graph, x), backend=record, fullgraph=True)
    call(x)
    with use_backend("torch"):
        call(x)
    assert [calls[0].rpartition(".")[2] for calls in traced][-1] == "torch"


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


def test_strict_makes_a_fallback_an_error():
    done = run("gcn_aggregate(graph, x)", ADVKERN_STRICT="1")
    assert done.returncode == 1
    assert "BackendError: advkern: coo_to_csr cannot run on cpu" in done.stderr


def test_asked_cpu_without_the_compiled_part_is_an_error():
    done = run("gcn_aggregate(graph, x)", ADVKERN_BACKEND="cpu")
    assert "BackendError: advkern: coo_to_csr cannot run on cpu" in done.stderr


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
    assert part["status"] == "missing"
    assert part["reason"]
    assert "pip install" in part["mend"]


def test_broken_part_is_told_apart_from_a_missing_one(monkeypatch):
    def broken(name):
        raise ImportError("undefined symbol: torch_parallel_for")

    monkeypatch.setattr(backend.importlib, "import_module", broken)
    part = backend._load_compiled()
    assert part.status == "broken"
    assert "undefined symbol" in part.reason
    assert part.mend


# -- the CUDA kernels: each reason against them is told apart ----------------------------------------------------------


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Let `why_not` see a device of a compute capability, and kernels that were built for some architectures."""

    def pretend(device, archs):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: device)
        monkeypatch.setattr(backend, "CUDA", backend.CompiledPart("loaded", facts={"archs": archs}))
        return backend.why_not("gcn_aggregate", "cuda", "cuda")

    return pretend


def test_cuda_kernels_that_were_not_built(tmp_path):
    part = backend._load_cuda(tmp_path / "_C_cuda.so")
    assert part.status == "missing"
    assert part.mend.startswith("ADVKERN_BUILD=cuda pip install") or "CUDA_HOME" in part.mend


@pytest.mark.parametrize(("cuda", "reason"), [(None, "has no CUDA"), ("13.0", "cannot be loaded: ")])
def test_cuda_kernels_that_cannot_be_loaded(tmp_path, monkeypatch, cuda, reason):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    library = tmp_path / "_C_cuda.so"
    library.write_bytes(b"no library at all")
    part = backend._load_cuda(library)
    assert part.status == "broken"
    assert reason in part.reason


@pytest.mark.parametrize(
    ("device", "archs", "covered"),
    [
        ((8, 0), ["8.0", "9.0+PTX"], True),
        ((8, 6), ["8.0", "9.0+PTX"], True),  # machine code of the same major version
        ((12, 0), ["8.0", "9.0+PTX"], True),  # PTX
        ((7, 5), ["8.0", "9.0+PTX"], False),
        ((9, 0), ["8.0"], False),
        ((8, 0), ["8.6"], False),
    ],
)
def test_architecture_that_is_not_covered_is_named_with_those_built(as_on_a_gpu, device, archs, covered):
    reason = as_on_a_gpu(device, archs)
    if covered:
        assert reason is None
    else:
        assert f"built for {', '.join(archs)} and the device is {device[0]}.{device[1]}" in reason
        assert "TORCH_CUDA_ARCH_LIST=" in reason


def test_cuda_kernels_do_not_take_cpu_tensors():
    assert backend.why_not("gcn_aggregate", "cuda", "cpu") == "cuda takes tensors on cuda, got cpu"
