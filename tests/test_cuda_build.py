"""The CUDA kernels compile, without spills, and load; that takes nvcc and no GPU."""

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
OTHER_PYTHON = os.environ.get("ADVKERN_CUDA_PYTHON")

pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The library as `setup.py` builds it beside this torch, and what ptxas said."""
    folder = tmp_path_factory.mktemp("cuda")
    env = os.environ | {
        "ADVKERN_BUILD": "cuda",
        "NVCC_APPEND_FLAGS": "-Xptxas=-v",
        "CUDA_HOME": str(Path(NVCC).parents[1]),
    }
    env.pop("TORCH_CUDA_ARCH_LIST", None)
    command = [sys.executable, "setup.py", "build_cuda", "--build-lib", str(folder)]
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
from advkern import backend
import advkern.ops
part = backend._load_cuda(Path(sys.argv[1]))
assert torch.version.cuda is not None, "this is no CUDA torch"
assert part.status == "loaded", part.reason
for op in ("gcn_aggregate_fwd", "gcn_aggregate_edge_dot"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"advkern::{op}", "CUDA"), op
"""


@pytest.mark.skipif(OTHER_PYTHON is None, reason="needs ADVKERN_CUDA_PYTHON, an interpreter with a CUDA torch")
def test_loads_and_registers_beside_a_torch_with_cuda(built):
    command = [OTHER_PYTHON, "-c", LOAD, str(built[0])]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_is_told_apart_beside_a_torch_without_cuda(built):
    import torch

    from advkern import backend

    part = backend._load_cuda(built[0])
    assert part.status == ("loaded" if torch.version.cuda else "not loadable")
