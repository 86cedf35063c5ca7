"""The CUDA kernels on CPU tensors, under the emulator of ``tests/csrc``: one more place for an op's suite to run.

Each op is registered once more, in a namespace of its own, so that compile, vmap and the dispatcher treat it as they
treat the real one. A call runs in the next of the emulator's three orders of threads.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import advkern.ops  # noqa: F401  # defines the ops
from advkern import backend, use_backend
from advkern.ops import _schema
from advkern.structure import chunks_of_long_rows

ROOT = Path(__file__).parents[2]
NAMESPACE = "advkern_emulated"
FLAGS = ("-std=c++20", "-O2", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas")
SCALARS = {torch.float64: ord("d"), torch.float32: ord("f"), torch.float16: ord("h"), torch.bfloat16: ord("b")}
INDICES = {torch.int32: ord("i"), torch.int64: ord("l")}
ORDERS = 3

_calls = itertools.count()


class Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "num_chunks", "channels")]


@functools.cache
def library(op: str) -> ctypes.PyDLL:
    """Compile ``tests/csrc/emulated_<op>.cpp``, or find what an earlier run compiled of the same sources."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if not shutil.which(compiler[0]) or not sys.platform.startswith("linux"):
        pytest.skip("the emulator needs a C++ compiler, on Linux")
    source = ROOT / "tests" / "csrc" / f"emulated_{op}.cpp"
    read = sorted(
        [source, *(ROOT / "tests/csrc").glob("*.h"), *(ROOT / "csrc").rglob("*.cuh"), *ROOT.glob("csrc/*/*.h")]
    )
    text = b"".join(path.read_bytes() for path in read) + repr((compiler, FLAGS, torch.__version__)).encode()
    built = Path(tempfile.gettempdir(), f"advkern-emulated-{op}-{hashlib.sha256(text).hexdigest()[:16]}.so")
    if not built.exists():
        folders = [f"-I{ROOT / 'csrc'}", f"-I{source.parent}", "-isystem", str(Path(torch.__file__).parent / "include")]
        with tempfile.NamedTemporaryFile(dir=built.parent, suffix=".so", delete=False) as unfinished:
            subprocess.run([*compiler, *FLAGS, *folders, str(source), "-o", unfinished.name], check=True)
            os.replace(unfinished.name, built)  # at once, for tests that run beside these
    return ctypes.PyDLL(str(built))  # keeps the interpreter's lock: the emulator has one device


def run(op: str, function: str, *arguments: Any) -> None:
    loaded = library(op)
    call = getattr(loaded, function)
    call.restype = ctypes.c_char_p
    number = next(_calls)
    loaded.set_order(number % ORDERS, number)
    message = call(*(_address(a) if a is None or isinstance(a, Tensor) else a for a in arguments))
    assert not message, f"{function}: {message.decode()}"


def _address(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def _gcn_aggregate_fwd(rowptr, col, schedule, x, weight, row_scale, col_scale, bias, activation):
    chunks = chunks_of_long_rows(rowptr, col.numel())  # what a graph on CUDA would bring
    sizes = Sizes(x.shape[0], col.numel(), chunks.shape[0], x.shape[1])
    out = torch.empty_like(x)
    types = SCALARS[x.dtype], INDICES[col.dtype], ctypes.byref(sizes)
    inputs = (rowptr, col, chunks, x, weight, row_scale, col_scale, bias)
    run("gcn_aggregate", "gcn_aggregate_fwd", *types, *inputs, ctypes.c_int64(activation), out)
    return out


def _gcn_aggregate_edge_dot(rowptr, col, schedule, a, b):
    sizes = Sizes(a.shape[0], col.numel(), 0, a.shape[1])
    dot = a.new_empty(col.shape, dtype=torch.float64 if a.dtype == torch.float64 else torch.float32)
    types = SCALARS[a.dtype], INDICES[col.dtype], ctypes.byref(sizes)
    run("gcn_aggregate", "gcn_aggregate_edge_dot", *types, rowptr, col, a, b, dot)
    return dot


def _register(table: dict[str, Any], kernel: Callable[..., Tensor], fake: Callable[..., Tensor]) -> None:
    """Add to ``table``, an op's overloads by backend, one that runs ``kernel``."""
    name = kernel.__name__.removeprefix("_")
    torch.library.define(f"{NAMESPACE}::{name}", str(table["cpu"]._schema).partition(name)[2])
    torch.library.impl(f"{NAMESPACE}::{name}", "CPU")(kernel)
    torch.library.register_fake(f"{NAMESPACE}::{name}")(fake)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    torch.library.register_vmap(op, _schema._loop(op))
    table["emulated"] = op


_gcn = sys.modules["advkern.ops.gcn_aggregate"]
_register(_gcn._FWD, _gcn_aggregate_fwd, _gcn._fwd_fake)
_register(_gcn._EDGE_DOT, _gcn_aggregate_edge_dot, _gcn._edge_dot_fake)


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Let the ops that have CUDA kernels run these on CPU tensors inside the ``with``."""
    with use_backend({}), patch.dict(backend._choices):  # words of its own, forgotten on leaving
        for op in ("gcn_aggregate",):
            library(op)
            backend._choices[backend._asked, (op, "cpu", None)] = "emulated"
        yield
