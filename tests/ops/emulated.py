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
from collections.abc import Callable, Iterator, Sequence
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


def _gcn_aggregate_activation_bwd(grad, out, activation):
    result = torch.empty_like(grad)
    numbers = [ctypes.c_int64(number) for number in (*grad.shape, activation)]
    run("gcn_aggregate", "gcn_aggregate_activation_bwd", SCALARS[grad.dtype], *numbers, grad, out, result)
    return result


def _gcn_aggregate_edge_dot(rowptr, col, schedule, a, b):
    sizes = Sizes(a.shape[0], col.numel(), 0, a.shape[1])
    dot = a.new_empty(col.shape, dtype=torch.float64 if a.dtype == torch.float64 else torch.float32)
    types = SCALARS[a.dtype], INDICES[col.dtype], ctypes.byref(sizes)
    run("gcn_aggregate", "gcn_aggregate_edge_dot", *types, rowptr, col, a, b, dot)
    return dot


class _GatSizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "num_chunks", "num_chunks_t")),
        *((name, ctypes.c_int64) for name in ("heads", "channels", "threshold")),
        ("negative_slope", ctypes.c_double),
    ]


def _gat_attention_fwd(rowptr, col, schedule, h, score_dst, score_src, seed, bias, negative_slope, threshold):
    chunks = chunks_of_long_rows(rowptr, col.numel())
    sizes = _GatSizes(h.shape[0], col.numel(), chunks.shape[0], 0, *h.shape[1:], threshold, negative_slope)
    results = torch.empty_like(h), torch.empty_like(score_dst), torch.empty_like(score_dst)
    types = SCALARS[h.dtype], INDICES[col.dtype], ctypes.byref(sizes)
    inputs = (rowptr, col, chunks, h, score_dst, score_src, seed, bias)
    run("gat_attention", "gat_attention_fwd", *types, *inputs, *results)
    return results


def _gat_attention_bwd(rowptr, schedule, rowptr_t, col_t, schedule_t, perm, h, *rest):
    *tensors, negative_slope, threshold = rest
    score_dst = tensors[0]
    chunks, chunks_t = (chunks_of_long_rows(r, col_t.numel()) for r in (rowptr, rowptr_t))
    counts = (col_t.numel(), chunks.shape[0], chunks_t.shape[0])
    sizes = _GatSizes(h.shape[0], *counts, *h.shape[1:], threshold, negative_slope)
    results = torch.empty_like(h), torch.empty_like(score_dst), torch.empty_like(score_dst)
    types = SCALARS[h.dtype], INDICES[col_t.dtype], ctypes.byref(sizes)
    graphs = (rowptr, chunks, rowptr_t, col_t, chunks_t, perm)
    run("gat_attention", "gat_attention_bwd", *types, *graphs, h, *tensors, *results)
    return results


class _Rk4Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("samples", "dim", "hidden", "steps", "saves", "every", "h_per_sample", "stages")
    ]


def _rk4_scheme(samples, network, save_at, tableau, every):
    """What both ways through an integration take: type, sizes, saves, tableau and the network with h."""
    (hidden, dim), h = network[0].shape, network[4]
    stages = int((2 * len(tableau)) ** 0.5)
    sizes = _Rk4Sizes(samples, dim, hidden, h.shape[0], len(save_at), every, h.dim() == 2, stages)
    saves, numbers = (ctypes.c_int64 * len(save_at))(*save_at), (ctypes.c_double * len(tableau))(*tableau)
    return SCALARS[h.dtype], ctypes.byref(sizes), saves, numbers, _addresses(network)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def _rk4_fwd(y, weight1, bias1, weight2, bias2, h, save_at, tableau, every):
    results = y.new_empty(len(save_at), *y.shape), y.new_empty(-(-h.shape[0] // every) if every else 0, *y.shape)
    scheme = _rk4_scheme(y.shape[0], (weight1, bias1, weight2, bias2, h), save_at, tableau, every)
    run("rk4", "rk4_fwd", *scheme, y, *results)
    return results


def _rk4_bwd(grad, checkpoints, weight1, bias1, weight2, bias2, h, save_at, tableau, every):
    network = (weight1, bias1, weight2, bias2, h)
    results = grad.new_empty(grad.shape[1:]), *(torch.empty_like(t) for t in network)
    scheme = _rk4_scheme(grad.shape[1], network, save_at, tableau, every)
    run("rk4", "rk4_bwd", *scheme, grad, checkpoints, _addresses(results))
    return results


def _rk4_stages(y, factor):
    terms = len(factor)
    return SCALARS[y.dtype], ctypes.c_int64(y.numel()), ctypes.c_int64(terms), (ctypes.c_double * terms)(*factor), y


def _rk4_combine(y, factor, *k):
    out = torch.empty_like(y)
    run("rk4", "rk4_combine", *_rk4_stages(y, factor), _addresses([t for t in k if t is not None]), out)
    return out


def _rk4_scale(grad, factor):
    out = grad.new_empty(len(factor), *grad.shape)
    run("rk4", "rk4_scale", *_rk4_stages(grad, factor), out)
    return out


def _rk4_dot(grad, factor, *k):
    out = grad.new_zeros((), dtype=torch.float64)
    if grad.numel():
        run("rk4", "rk4_dot", *_rk4_stages(grad, factor), _addresses([t for t in k if t is not None]), out)
    return out


def _register(table: dict[str, Any], kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
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
_register(_gcn._ACTIVATION_BWD, _gcn_aggregate_activation_bwd, _gcn._activation_bwd_fake)
_register(_gcn._EDGE_DOT, _gcn_aggregate_edge_dot, _gcn._edge_dot_fake)

_gat = sys.modules["advkern.ops.gat_attention"]
_register(_gat._FWD, _gat_attention_fwd, _gat._fwd_fake)
_register(_gat._BWD, _gat_attention_bwd, _gat._bwd_fake)

_rk4, _step = sys.modules["advkern.ops.rk4"], sys.modules["advkern.ops._rk4_step"]
_register(_rk4._FWD, _rk4_fwd, _rk4._fwd_fake)
_register(_rk4._BWD, _rk4_bwd, _rk4._bwd_fake)
_register(_step._COMBINE, _rk4_combine, _step._combine_fake)
_register(_step._SCALE, _rk4_scale, _step._scale_fake)
_register(_step._DOT, _rk4_dot, _step._dot_fake)


@contextmanager
def emulated_cuda() -> Iterator[None]:
    """Let the ops that have CUDA kernels run these on CPU tensors inside the ``with``."""
    with use_backend({}), patch.dict(backend._choices):  # words of its own, forgotten on leaving
        for op in ("gcn_aggregate", "gat_attention", "rk4"):
            library(op)
            backend._choices[backend._asked, (op, "cpu", None)] = "emulated"
        yield
