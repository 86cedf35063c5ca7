"""Runs the cases of every op on every backend that can run here."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from advkern import backend, use_backend
from advkern.selftest._case import Case
from advkern.selftest._report import Report, Row
from advkern.testing import interleave, mismatch

_LARGE = 10  # times the inputs of the comparison, so that several threads have work
_THREADS = (1, 2, 3, 2)
Results = dict[str, Tensor]


def run(only: Iterable[str] = (), progress: Callable[[str], None] = lambda what: None) -> Report:
    """Test the ops named in ``only``, or all of them.

    A failure never ends the test; what an op raises is one more failure. ``progress`` is told what comes next.

    Raises:
        ValueError: an unknown op.
    """
    known = backend.registered_ops()
    ops = sorted(only or known)
    if unknown := set(ops) - set(known):
        raise ValueError(f"only: expected ops out of {known}, got {sorted(unknown)}")
    start = time.perf_counter()
    rows, absent = [], {}
    for op in ops:
        absent[op] = _absent(op)
        for name, device in _places(op):
            progress(f"{op} on {name}")
            rows += [_row(op, name, small, large) for small, large in _cases(op, device)]
    return Report(tuple(rows), absent, time.perf_counter() - start)


def _devices() -> list[torch.device]:
    names = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [torch.device(name) for name in names]


def _places(op: str) -> Iterator[tuple[str, torch.device]]:
    """Each backend that can run, with the device it runs on; the kernels before plain PyTorch."""
    for name in backend.BACKENDS:
        for device in _devices():
            at_home = name == "torch" or (name == "cpu") == (device.type == "cpu")  # Triton's interpreter is not
            if at_home and backend.why_not(op, name, device.type) is None:
                yield name, device


def _absent(op: str) -> dict[str, str]:
    """Each backend that cannot run, and why; that the op has no such kernel is no news."""
    found = {name for name, _ in _places(op)}
    reasons = {}
    for name in backend.BACKENDS:
        reason = backend.why_not(op, name, "cpu" if name == "cpu" else "cuda") or "torch finds no CUDA device"
        if name not in found and reason != f"{op} has no {name} kernel":
            reasons[name] = reason
    return reasons


def _cases(op: str, device: torch.device) -> Iterator[tuple[Case, Case]]:
    """The cases of an op's file here, each small and large."""
    cases = importlib.import_module(f"advkern.selftest.{op}").cases
    return zip(cases(1, device), cases(_LARGE, device), strict=True)


def _row(op: str, name: str, small: Case, large: Case) -> Row:
    device = next(iter(small.tensors.values())).device.type
    dtypes = [dtype for dtype in small.dtypes if backend.why_not(op, name, device, dtype) is None]
    failures: list[str] = []
    errors: dict[str, float] = {}
    same_bits = seconds = eager_seconds = None
    for dtype in dtypes:
        with _noting(failures, _name(dtype)):
            problems, found = _compared(small.to(dtype), name)
            failures += [f"{_name(dtype)}: {problem}" for problem in problems]
            errors = found if dtype == torch.float32 else errors
    measured = large.to(torch.float32) if torch.float32 in dtypes else large
    with _noting(failures, "repeated"):
        same_bits = _repeats(measured, name)
        if not same_bits and name != "torch":  # which promises nothing of the kind
            failures.append("repeated: not the same bits run after run or on other numbers of threads")
    with _noting(failures, "timed"):
        seconds, eager_seconds = _times(measured, name)
    gradients = [error for key, error in errors.items() if key.startswith("grad_")]
    return Row(
        op=op,
        case=small.name,
        backend=name,
        device=device,
        dtypes=tuple(map(_name, dtypes)),
        error=errors.get("output"),
        eager_error=errors.get("eager"),
        gradient_error=max(gradients, default=None),
        same_bits=same_bits,
        seconds=seconds,
        eager_seconds=eager_seconds,
        failures=tuple(failures),
    )


@contextmanager
def _noting(failures: list[str], what: str) -> Iterator[None]:
    """Turn whatever is raised inside into a failure: a broken kernel may raise anything."""
    try:
        yield
    except Exception as error:
        failures.append(f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _compared(case: Case, name: str) -> tuple[list[str], dict[str, float]]:
    """What breaks the rule of :func:`advkern.testing.mismatch`, and the largest error of each result."""
    with use_backend(name):
        actual = case.results(case.call)
    if not any(t.is_floating_point() for t in case.tensors.values()):
        right = case.results(case.formula)
        return [f"{key}: wrong ids" for key, ids in actual.items() if not torch.equal(ids, right[key])], {}
    exact = case.to(torch.float64).results(case.formula)
    yardstick = _yardstick(case, exact)
    problems, errors = [], {}
    for key, value in actual.items():
        # The largest result is no more than the sum of its terms' magnitudes: the rule, if anything, tightened.
        problem = mismatch(value, exact[key], yardstick[key], float(exact[key].abs().max()), key)
        problems += [] if problem is None else [problem]
        errors[key] = float((value.double() - exact[key]).abs().max())
    errors["eager"] = float((yardstick["output"].double() - exact["output"]).abs().max())
    return problems, errors


def _yardstick(case: Case, exact: Results) -> Results:
    """Plain PyTorch's results in the case's type; in float64, which is its own measure, as far off as float32's."""
    if next(iter(case.tensors.values())).dtype != torch.float64:
        return case.results(case.formula)
    single = case.to(torch.float32)
    plain, true = single.results(case.formula), single.to(torch.float64).results(case.formula)
    scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return {key: value + scale * (plain[key].double() - true[key]) for key, value in exact.items()}


def _repeats(case: Case, name: str) -> bool:
    threads = torch.get_num_threads()
    runs: list[Results] = []
    try:
        with use_backend(name):
            for count in _THREADS:
                torch.set_num_threads(count)
                runs.append(case.results(case.call))
    finally:
        torch.set_num_threads(threads)
    return all(torch.equal(value, other[key]) for other in runs[1:] for key, value in runs[0].items())


def _times(case: Case, name: str) -> tuple[float, float | None]:
    """Seconds on the backend, and on plain PyTorch where that is another."""

    prepared = case.prepared(case.call)

    def call(on: str) -> None:
        with use_backend(on):
            prepared()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    candidates = {on: partial(call, on) for on in dict.fromkeys((name, "torch"))}
    samples = interleave(candidates, rounds=5, min_seconds=0.01)
    return min(samples[name]), None if name == "torch" else min(samples["torch"])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
