"""Runge-Kutta steps of any function: the states between the calls of the function, each in one kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from advkern import backend
from advkern.ops._schema import EagerFunction, define
from advkern.reference import rk4 as reference
from advkern.reference.rk4 import TABLEAUS

_STAGES = "float[] factor, Tensor k1, Tensor? k2, Tensor? k3, Tensor? k4"


def _combine_reference(y, factor, *k):
    return reference.combine(y, factor, *(stage for stage in k if stage is not None))


def _dot_reference(grad, factor, *k):
    combined = reference.combine(torch.zeros_like(grad), factor, *(stage for stage in k if stage is not None))
    return (grad.double() * combined.double()).sum()


def _scale_reference(grad, factor):
    return torch.stack([(f * grad.to(reference.accumulation_dtype(grad.dtype))).to(grad.dtype) for f in factor])


def _combine_fake(y, factor, *k):
    return torch.empty_like(y, memory_format=torch.contiguous_format)


def _scale_fake(grad, factor):
    return grad.new_empty(len(factor), *grad.shape)


def _dot_fake(grad, factor, *k):
    return grad.new_empty((), dtype=torch.float64)


_COMBINE = define(
    "rk4_combine",
    f"(Tensor y, {_STAGES}) -> Tensor",
    _combine_reference,
    _combine_fake,
)
_SCALE = define(
    "rk4_scale",
    "(Tensor grad, float[] factor) -> Tensor",
    _scale_reference,
    _scale_fake,
)
_DOT = define(
    "rk4_dot",
    f"(Tensor grad, {_STAGES}) -> Tensor",
    _dot_reference,
    _dot_fake,
)

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class CombineFunction(EagerFunction):
    """``y + dt sum_j row_j k_j``, differentiable in y, the k's and, where it is a tensor, dt."""

    @staticmethod
    def forward(y, k1, k2, k3, k4, dt, length, row, where):
        return _COMBINE[where](y, [length * r for r in row], k1, k2, k3, k4)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *k, dt, ctx.length, ctx.row, ctx.where = inputs
        ctx.count = sum(stage is not None for stage in k)
        ctx.save_for_backward(dt, *(k if dt is not None else ()))

    @staticmethod
    def backward(ctx, grad):
        dt, *k = ctx.saved_tensors
        grad = grad.contiguous()
        needs_dt = ctx.needs_input_grad[5]
        grad_dt = None
        if torch.is_grad_enabled():  # derivatives of this are wanted: plain lines
            length = ctx.length if dt is None else dt
            grads = [(grad * (r * length)).to(grad.dtype) for r in ctx.row]
            if needs_dt:
                grad_dt = sum(r * (grad * stage).sum() for r, stage in zip(ctx.row, k, strict=False))
        else:
            factors = list(dict.fromkeys(ctx.length * r for r in ctx.row))  # k's of one factor share their gradient
            scaled = dict(zip(factors, _SCALE[ctx.where](grad, factors), strict=True))
            grads = [scaled[ctx.length * r] for r in ctx.row]
            if needs_dt:
                grad_dt = _DOT[ctx.where](grad, list(ctx.row), *k).to(dt.dtype)
        return grad, *grads, *[None] * (4 - ctx.count), grad_dt, None, None, None


def combine(y: Tensor, row: Sequence[float], k: Sequence[Tensor], length: float, dt: Tensor | None = None) -> Tensor:
    """``y + dt sum_j row_j k_j``; ``length`` is dt's number, and ``dt`` the tensor where its gradient is wanted."""
    pairs = [(r, stage) for r, stage in zip(row, k, strict=True) if r]
    row, k = [r for r, _ in pairs], [stage.to(y.dtype) for _, stage in pairs]
    if torch.compiler.is_compiling() or _transformed():  # a compiler fuses these lines as well
        factor = [r * length for r in row] if dt is None else [r * dt for r in row]
        return reference.combine(y, factor, *k)
    where = backend.choose("rk4", y.device.type)
    stages = (*(stage.contiguous() for stage in k), *[None] * (4 - len(k)))
    y = y.contiguous()
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (y, *stages, dt))):
        return _COMBINE[where](y, [length * r for r in row], *stages)
    return CombineFunction.apply(y, *stages, dt, length, row, where)


def _transformed() -> bool:
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def take_step(
    func: Callable[..., Any],
    times: Sequence[Tensor],  # of the stages
    state: tuple[Tensor, ...],
    length: float,
    rows: Sequence[Sequence[float]],
    dt: Tensor | None = None,
    as_tuple: bool = False,
) -> tuple[Tensor, ...]:
    """One step of the method with these rows, on each tensor of the state."""
    slopes: list[tuple[Tensor, ...]] = []
    stage = state
    for row, time in zip(rows, times, strict=True):
        slopes.append(_slope(func(time, stage if as_tuple else stage[0]), state, as_tuple))
        stage = tuple(combine(y, row, [slope[i] for slope in slopes], length, dt) for i, y in enumerate(state))
    return stage


def _slope(value: Any, state: tuple[Tensor, ...], as_tuple: bool) -> tuple[Tensor, ...]:
    value = tuple(value) if as_tuple and isinstance(value, (tuple, list)) else (value,)
    shapes = [tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for v in value]
    expected = [tuple(y.shape) for y in state]
    if shapes != expected:
        raise ValueError(f"func: expected it to return the state's shapes {expected}, got {shapes}")
    return value


def rk4_step(
    func: Callable[[Tensor, Tensor], Tensor],
    t: float | Tensor,  # []
    y: Tensor,  # any shape
    dt: float | Tensor,  # []
) -> Tensor:  # as y
    """One step of the classical Runge-Kutta rule for ``dy/dt = func(t, y)``.

    ``y + dt (k1 + 2 k2 + 2 k3 + k4)/6`` with ``k1 = f(t, y)``, ``k2 = f(t + dt/2, y + dt k1/2)``,
    ``k3 = f(t + dt/2, y + dt k2/2)``, ``k4 = f(t + dt, y + dt k3)``: each of these four states in one pass over the
    memory (15 elements moved for each of y's), and so their gradients. Differentiable any number of times in ``y``,
    ``t``, ``dt`` and whatever ``func`` uses. A ``dt`` that is a tensor is read by the host, which on CUDA waits for
    the device.

    Raises:
        ValueError: ``y`` holds no floats, or ``func`` returns another shape.
        TypeError: ``y`` is no tensor.

    Kutta 1901, Zeitschrift fuer Mathematik und Physik 46.
    """
    check_state("y", y)
    tableau = TABLEAUS["rk4"]
    time = t if isinstance(t, Tensor) else torch.tensor(t, dtype=reference.accumulation_dtype(y.dtype), device=y.device)
    tensor = dt if isinstance(dt, Tensor) else None
    times = [time + node * dt if node else time for node in tableau.nodes]
    unread = tensor is not None and (torch.compiler.is_compiling() or _transformed())  # the tensor itself is used
    length = 0.0 if unread else float(dt if tensor is None else tensor.detach())
    return take_step(func, times, (y,), length, tableau.rows, tensor)[0]


def check_state(name: str, y: Any) -> None:
    """Refuse what is no tensor of floats."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(y).__name__}")
    if y.dtype not in _FLOATS:
        raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {y.dtype}")
