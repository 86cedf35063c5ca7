"""``odeint`` and the fused step beside the loop that one writes, torchdiffeq, and that loop with a compiled step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchdiffeq
from conftest import keep, relative_error
from torch import Tensor, nn
from torchdiffeq._impl.rk_common import rk4_alt_step_func

from advkern.nn import ODEFunc
from advkern.ops import odeint, rk4_step
from advkern.testing import peak_memory

STEPS = 100
SAMPLES = {2: 400, 16: 1024, 64: 4096}  # dim: samples
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}  # beside steps a quarter as long, so with the method's own error
ELEMENTS = 4_000_000

sizes = pytest.mark.parametrize("dim", SAMPLES, ids=lambda dim: f"D{dim}")
types = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))


def textbook_step(func: Callable, t: float, y: Tensor, h: float) -> Tensor:
    """The classical rule as one writes it down, and as the tutorial does."""
    k1 = func(t, y)
    k2 = func(t + h / 2, y + h * k1 / 2)
    k3 = func(t + h / 2, y + h * k2 / 2)
    k4 = func(t + h, y + h * k3)
    return y + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6


def loop(func: Callable, y: Tensor, steps: int = STEPS, step: Callable = textbook_step) -> Tensor:
    for n in range(steps):
        y = step(func, n / steps, y, 1 / steps)
    return y


def solvers(func: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each as a function of y0. torchdiffeq's rk4 is Kutta's 3/8 rule: the same work, a step more evenly weighed."""
    times = torch.tensor([0.0, 1.0])
    compiled = torch.compile(lambda t, y, h: textbook_step(func, t, y, h), dynamic=False)
    h = 1 / STEPS  # the network does not see t: one compiled step serves all
    return {
        "advkern": lambda y: odeint(func, y, (0.0, 1.0), step_size=h)[-1],
        "loop": lambda y: loop(func, y),
        "torchdiffeq": lambda y: torchdiffeq.odeint(func, y, times, method="rk4", options={"step_size": h})[-1],
        "loop_compiled": lambda y: loop(func, y, step=lambda _, t, y, h: compiled(0.0, y, h)),
    }


def problem(dim: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return ODEFunc(dim).to(dtype), torch.randn(SAMPLES[dim], dim).to(dtype)


def facts(dim: int, dtype: torch.dtype, threads: int, work: str) -> dict:
    name = f"ODEFunc {dim}-{2 * dim}-{dim}"
    type_name = str(dtype).removeprefix("torch.")
    return {"work": work, "graph": name, "channels": dim, "threads": threads, "dtype": type_name} | {
        "rounds": 7 if dim < 64 else 2,
        "tolerance": TOLERANCE[dtype],
    }


@types
@sizes
def bench_forward(compare, threads, dim, dtype):
    func, y = problem(dim, dtype)
    func.requires_grad_(False)
    candidates = {name: lambda f=f: f(y) for name, f in solvers(func).items()}
    compare(candidates, lambda: exact(dim, dtype), **facts(dim, dtype, threads, "forward"))


def exact(dim: int, dtype: torch.dtype) -> Tensor:
    """The state at the end in float64, by steps a quarter as long."""
    func, y = problem(dim, dtype)
    with torch.no_grad():
        return loop(func.double(), y.double(), 4 * STEPS)


@types
@sizes
def bench_forward_backward(compare, threads, dim, dtype):
    func, y = problem(dim, dtype)
    exact_func, exact_y = problem(dim, dtype)
    exact_func, exact_y = exact_func.double(), exact_y.double()
    cotangent = torch.randn(y.shape).to(dtype)

    def both(solve, func, y, cotangent):
        y = y.clone().requires_grad_()
        out = solve(y)
        return out.detach(), *torch.autograd.grad(out, [y, *func.parameters()], cotangent)

    candidates = {name: lambda f=f: both(f, func, y, cotangent) for name, f in solvers(func).items()}
    truth = lambda: both(lambda y: loop(exact_func, y, 4 * STEPS), exact_func, exact_y, cotangent.double())
    compare(candidates, truth, **facts(dim, dtype, threads, "forward+backward"))


@types
def bench_step(compare, threads, dtype):
    """One step of a function that costs nothing: what is left are the combinations."""
    y, k = (torch.randn(ELEMENTS).to(dtype) for _ in range(2))
    stages = [k.clone() for _ in range(4)]  # alike, so that either rule gives the same; apart, as a function's are
    compare(
        {name: lambda step=step: step(given(stages), y) for name, step in steps().items()},
        lambda: y.double() + LENGTH * k.double(),
        **step_facts("step, forward", dtype, threads),
    )


@types
def bench_step_backward(compare, threads, dtype):
    leaves = [torch.randn(ELEMENTS).to(dtype).requires_grad_() for _ in range(5)]
    cotangent = torch.randn(ELEMENTS).to(dtype)

    def both(step):
        return torch.autograd.grad(step(given(leaves[1:]), leaves[0]), leaves, cotangent)

    compare(
        {name: lambda step=step: both(step) for name, step in steps().items()},
        lambda: (cotangent.double(), LENGTH * cotangent.double()),
        error=lambda grads, truth: relative_error((grads[0], sum(grads[1:])), truth),  # the rules weigh stages apart
        **step_facts("step, forward+backward", dtype, threads),
    )


LENGTH = 0.1


def steps() -> dict[str, Callable[[Callable, Tensor], Tensor]]:
    start = torch.tensor(0.0)
    return {
        "advkern": lambda func, y: rk4_step(func, 0.0, y, LENGTH),
        "loop": lambda func, y: textbook_step(func, 0.0, y, LENGTH),
        "torchdiffeq": lambda func, y: (
            y + rk4_alt_step_func(lambda t, y, perturb=None: func(t, y), start, LENGTH, start + LENGTH, y)
        ),
    }


def given(stages: list[Tensor]) -> Callable:
    """A function that returns these slopes in turn."""
    following = itertools.cycle(stages)
    return lambda t, y: next(following)


def step_facts(work: str, dtype: torch.dtype, threads: int) -> dict:
    kind = str(dtype).removeprefix("torch.")
    return {"work": work, "graph": f"{ELEMENTS:,} elements", "threads": threads, "dtype": kind, "tolerance": 1e-6}


MEASURED = """
import sys, torch
sys.path.insert(0, {folder!r})
from bench_rk4 import loop, problem, solvers
func, y = problem({dim}, torch.float32)
y.requires_grad_()
solve = {{"advkern": solvers(func)["advkern"], "torchdiffeq": solvers(func)["torchdiffeq"]}}.get(
    {name!r}, lambda y: loop(func, y))
leaves = [y, *func.parameters()]
torch.autograd.grad(solve(y[:1]).sum(), leaves)  # loads what loads lazily
def measured():
    torch.autograd.grad(solve(y).sum(), leaves)
"""


@sizes
def bench_peak_memory(request, dim):
    """Forward and backward: by how many bytes the peak of a process rises."""
    folder = str(Path(__file__).parent)
    names = ("advkern", "loop", "torchdiffeq")
    used = {name: peak_memory(MEASURED.format(folder=folder, dim=dim, name=name)) for name in names}
    if not request.config.getoption("quick"):
        keep("rk4", request.node.name, {"work": "peak memory", "dim": dim, "samples": SAMPLES[dim], "bytes": used})
