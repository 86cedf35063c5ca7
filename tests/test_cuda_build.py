"""The CUDA kernels compile, without spills, and load beside a torch with CUDA; that takes nvcc and no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("csrc/*/*_cuda.cu"))
NVCC = shutil.which("nvcc", path=os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin"]))
CUDA_PYTHON = Path(os.environ.get("ADVKERN_CUDA_PYTHON") or ROOT / "build/cuda-torch/bin/python")
HAS_CUDA_TORCH = CUDA_PYTHON.exists()

pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The library as `setup.py` builds it, beside a torch with CUDA if there is one, and what ptxas said."""
    folder = tmp_path_factory.mktemp("cuda")
    env = os.environ | {
        "ADVKERN_BUILD": "cuda",
        "NVCC_APPEND_FLAGS": "-Xptxas=-v",
        "CUDA_HOME": str(Path(NVCC).parents[1]),
    }
    env.pop("TORCH_CUDA_ARCH_LIST", None)
    python = str(CUDA_PYTHON) if HAS_CUDA_TORCH else sys.executable
    command = [python, "setup.py", "build_cuda", "--build-lib", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return folder / "advkern" / "_C_cuda.so", done.stdout


def entries(log):
    """(kernel, architecture, bytes spilled) of every compiled kernel."""
    pattern = (
        r"Compiling entry function '(\w+)' for '(sm_\d+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    )
    return [(name, arch, int(stores) + int(loads)) for name, arch, stores, loads in re.findall(pattern, log, re.DOTALL)]


def test_every_source_is_compiled_for_the_shipped_architectures(built):
    library, log = built
    assert library.is_file()
    compiled = {(name, arch) for name, arch, _ in entries(log)}
    for arch in ("sm_80", "sm_90"):
        names = [name for name, target in compiled if target == arch]
        for source in SOURCES:
            kernels = re.findall(r"\b(\w+_kernel)\(", source.with_name(f"{source.parent.name}.cuh").read_text())
            assert kernels
            for kernel in kernels:
                assert any(kernel in name for name in names), f"{kernel} for {arch}"


def test_no_kernel_spills(built):
    assert [entry for entry in entries(built[1]) if entry[2]] == []


LOAD = """
import sys, torch
from pathlib import Path
from torch._subclasses.fake_tensor import FakeTensorMode
import advkern.ops
from advkern import backend

library, *names = sys.argv[1:]
assert torch.version.cuda is not None, "this is no CUDA torch"
backend.CUDA = backend._load_cuda(Path(library))
assert backend.CUDA.status == "loaded", backend.CUDA.reason
assert backend.why_not("gcn_aggregate", "cuda", "cuda") == "torch finds no CUDA device"
for name in names:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"advkern::{name}", "CUDA"), name

# Shapes and types come right for CUDA tensors, and the schema's arguments reach the kernel's own checks.
rowptr, col, schedule, x = torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.zeros(0, 2).long(), torch.ones(2, 3)
op = torch.ops.advkern.gcn_aggregate_fwd.default
with FakeTensorMode() as mode:
    fake = [mode.from_tensor(t).to("cuda") for t in (rowptr, col, schedule, x)]
    out = op(*fake, None, None, None, None, 0)
    assert (out.device.type, out.shape, out.dtype) == ("cuda", x.shape, x.dtype), out
cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
try:
    op.redispatch(cuda, rowptr, col.float(), schedule, x, None, None, None, None, 0)
except RuntimeError as error:
    assert "col must be int32 or int64" in str(error), error
else:
    raise AssertionError("the CUDA kernel was not reached")
torch.library.opcheck(op, (rowptr, col, torch.tensor([0, 2]), x, None, None, None, None, 0))
"""


@pytest.mark.skipif(not HAS_CUDA_TORCH, reason="needs a CUDA build of torch: make cuda-torch, or ADVKERN_CUDA_PYTHON")
def test_loads_and_registers_beside_a_torch_with_cuda(built):
    # An op with CUDA kernels has one for every schema that has a CPU kernel.
    glue = [source.with_name(f"{source.parent.name}_cpu.cpp") for source in SOURCES]
    names = [name for path in glue for name in re.findall(r'm\.impl\("(\w+)"', path.read_text())]
    assert len(names) >= len(SOURCES)
    command = [str(CUDA_PYTHON), "-c", LOAD, str(built[0]), *names]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_is_told_apart_beside_a_torch_without_cuda(built):
    import torch

    from advkern import backend

    part = backend._load_cuda(built[0])
    assert part.status == ("loaded" if torch.version.cuda else "not loadable")
