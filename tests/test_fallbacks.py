"""Every reason why an op runs in plain PyTorch: told apart, warned of once, an error where fallbacks are."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

import advkern
from advkern import BackendError, FallbackWarning, backend, use_backend


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    """Nothing chosen yet, nothing warned of, and an op that leaves out a type and an instruction set."""
    monkeypatch.delenv("ADVKERN_STRICT", raising=False)
    monkeypatch.setattr(backend, "_choices", {})
    monkeypatch.setattr(backend, "_warned", set())
    monkeypatch.setattr(backend, "_ops", dict(backend._ops))
    backend.register_op(
        "probe", {"cpu": "cpu"}, dtypes={"cpu": (torch.float32, torch.float16)}, isas={"cpu": ("avx512", "avx2")}
    )


def loading_fails_with(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(backend.importlib, "import_module", fail)
    monkeypatch.setattr(backend, "COMPILED", backend._load_compiled())
    return "gcn_aggregate", "cpu", None


def cpu_not_built(monkeypatch, folder):
    return loading_fails_with(monkeypatch, ModuleNotFoundError("No module named 'advkern._C'"))


def cpu_not_loadable(monkeypatch, folder):
    return loading_fails_with(monkeypatch, ImportError("undefined symbol: torch_parallel_for"))


def cuda_library(monkeypatch, library, version="13.0"):
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(backend, "CUDA", backend._load_cuda(library))
    return "gcn_aggregate", "cuda", None


def cuda_not_built(monkeypatch, folder):
    return cuda_library(monkeypatch, folder / "_C_cuda.so")


def damaged(folder: Path) -> Path:
    library = folder / "_C_cuda.so"
    library.write_bytes(b"no library at all")
    return library


def cuda_not_loadable(monkeypatch, folder):
    return cuda_library(monkeypatch, damaged(folder))


def cuda_beside_a_torch_without(monkeypatch, folder):
    return cuda_library(monkeypatch, damaged(folder), version=None)


def cuda_machine(monkeypatch, *, available=True, device=(7, 5), archs=("8.0", "9.0+PTX")):
    """As on a machine with a GPU, or without one, where the kernels are built and loaded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: device)
    monkeypatch.setattr(backend, "CUDA", backend.CompiledPart("loaded", facts={"archs": list(archs)}))
    return "gcn_aggregate", "cuda", None


def no_cuda_device(monkeypatch, folder):
    return cuda_machine(monkeypatch, available=False)


def architecture(monkeypatch, folder):
    return cuda_machine(monkeypatch)


def cpu_machine(monkeypatch, isas, dtype):
    monkeypatch.setattr(backend, "COMPILED", backend.CompiledPart("loaded", facts={"isas": isas}))
    return "probe", "cpu", dtype


def instruction_set(monkeypatch, folder):
    return cpu_machine(monkeypatch, ["baseline"], torch.float32)


def dtype(monkeypatch, folder):
    return cpu_machine(monkeypatch, ["avx2", "baseline"], torch.float64)


REASONS = {
    cpu_not_built: r"not built: .+; what mends it: .*pip install",
    cpu_not_loadable: r"not loadable: advkern\._C: undefined symbol: .+; what mends it: ADVKERN_BUILD=cpu pip install",
    cuda_not_built: r"not built: .+; what mends it: .*ADVKERN_BUILD=cuda pip install",
    cuda_not_loadable: r"not loadable: _C_cuda\.so: .+; what mends it: ADVKERN_BUILD=cuda pip install",
    cuda_beside_a_torch_without: r"not loadable: _C_cuda\.so: torch .+ has no CUDA; what mends it: a torch with CUDA",
    no_cuda_device: r"torch finds no CUDA device",
    architecture: r"architecture not covered: built for 8\.0, 9\.0\+PTX, the device is 7\.5; .*"
    r"TORCH_CUDA_ARCH_LIST=7\.5 ADVKERN_BUILD=cuda pip install",
    instruction_set: r"instruction set not covered: the kernel needs avx512 or avx2, this machine has baseline",
    dtype: r"type not covered: the kernel takes float32, float16, got float64",
}


@pytest.fixture(params=REASONS, ids=lambda situation: situation.__name__)
def situation(request, monkeypatch, tmp_path):
    """``(op, device type, dtype)``, where that op's kernel cannot run, and the pattern of the reason."""
    return request.param(monkeypatch, tmp_path), REASONS[request.param]


def test_reason_is_told(situation):
    (op, device, dtype), pattern = situation
    assert re.match(pattern, backend.why_not(op, device, device, dtype))


def test_reasons_are_told_apart():
    """The words before the first colon are the kind; the two parts share theirs."""
    kinds = [pattern.partition(":")[0] for pattern in REASONS.values()]
    assert len(set(kinds)) == 6


def test_fallback_warns_once_with_the_reason(situation):
    where, pattern = situation
    with pytest.warns(FallbackWarning, match=f"falls back to plain PyTorch: .* cannot run: {pattern}") as caught:
        assert backend.choose(*where) == "torch"
        with use_backend({}):  # chooses anew
            assert backend.choose(*where) == "torch"
    assert len(caught) == 1


def test_strict_makes_it_an_error_with_the_reason(situation, monkeypatch):
    where, pattern = situation
    monkeypatch.setenv("ADVKERN_STRICT", "1")
    with pytest.raises(BackendError, match=rf"ADVKERN_STRICT allows no fallback.*{pattern}.*\[torch: can run\]"):
        backend.choose(*where)


def test_asking_for_it_is_an_error_with_the_reason(situation):
    (op, device, dtype), pattern = situation
    with use_backend({op: device}), pytest.raises(BackendError, match=f"{device} was asked for.*{pattern}"):
        backend.choose(op, device, dtype)


def test_plain_pytorch_can_be_asked_for_without_a_warning(situation, monkeypatch):
    where, _ = situation
    monkeypatch.setenv("ADVKERN_STRICT", "1")
    with use_backend("torch"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.choose(*where) == "torch"


def test_explain_tells_it_and_leaves_the_warning_for_the_call(situation):
    where, pattern = situation
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (choice,) = advkern.explain(lambda: backend.choose(*where)).choices
    assert (choice.op, choice.device, choice.dtype) == where
    assert choice.backend == "torch"
    assert re.match(pattern, choice.against[choice.device])
    with pytest.warns(FallbackWarning):
        backend.choose(*where)


@pytest.mark.parametrize("strict", [True, False])
def test_explain_tells_an_error_and_goes_on(situation, monkeypatch, strict):
    (op, device, dtype), pattern = situation
    monkeypatch.setenv("ADVKERN_STRICT", "1" if strict else "0")
    with use_backend({} if strict else {op: device}):
        (choice,) = advkern.explain(lambda: backend.choose(op, device, dtype)).choices
    assert choice.backend is None
    assert choice.because.startswith(f"{device} cannot run" if strict else f"{device} was asked for")
    assert re.match(pattern, choice.against[device])
    assert choice.against["torch"] == "can run, but no fallback is allowed"


# -- what is covered is not refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("isas", [["avx512", "avx2", "baseline"], ["avx2", "baseline"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, None])
def test_covered_type_and_instruction_set(monkeypatch, isas, dtype):
    assert backend.choose(*cpu_machine(monkeypatch, isas, dtype)) == "cpu"


def test_types_fall_back_one_by_one(monkeypatch):
    cpu_machine(monkeypatch, ["avx2"], None)
    with pytest.warns(FallbackWarning):
        assert backend.choose("probe", "cpu", torch.float64) == "torch"
    assert backend.choose("probe", "cpu", torch.float32) == "cpu"


def test_info_tells_the_types_that_are_covered(monkeypatch):
    cpu_machine(monkeypatch, ["avx2"], None)
    assert backend.info()["ops"]["probe"]["cpu"]["cpu"] == "can run float32, float16"


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
def test_architecture_is_covered_by_machine_code_or_ptx(monkeypatch, device, archs, covered):
    cuda_machine(monkeypatch, device=device, archs=archs)
    assert (backend.why_not("gcn_aggregate", "cuda", "cuda") is None) == covered


def test_cuda_kernels_do_not_take_cpu_tensors():
    assert backend.why_not("gcn_aggregate", "cuda", "cpu") == "cuda takes tensors on cuda, got cpu"


def test_op_without_such_a_kernel_says_so():
    assert backend.why_not("coo_to_csr", "cuda", "cuda") == "coo_to_csr has no cuda kernel"
