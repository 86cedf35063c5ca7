"""Integration of ``dy/dt = func(t, y)`` over a list of times, on steps that land on each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advkern import backend
from advkern.ops._rk4_step import check_state, take_step
from advkern.ops.rk4 import rk4
from advkern.reference.rk4 import TABLEAUS, Tableau, accumulation_dtype

State = Tensor | tuple[Tensor, ...]
_SLACK = 1e-9  # of a step: a span that exceeds whole steps by less is taken for them


class _Times(NamedTuple):
    """Times as numbers of the host, and as a tensor where a gradient by them is wanted."""

    numbers: list[float]
    tensor: Tensor | None
    eps: float  # the rounding that the numbers came with


class _Grid(NamedTuple):
    """The steps of each interval: ``steps`` of them, all of length ``step`` but the last one, of length ``last``."""

    start: float
    end: float
    steps: int
    step: float
    last: float

    def starts(self) -> list[float]:
        return [self.start + k * self.step for k in range(self.steps)]

    def lengths(self) -> list[float]:
        return [self.step] * (self.steps - 1) + [self.last]


def odeint(
    func: Callable[..., Any],
    y0: State,  # any shape, or a tuple of such
    t: Tensor | Sequence[float | Tensor],  # [T]; for a network of ``nn.ODEFunc`` also [T, ...], each sample's own
    *,
    method: str = "rk4",
    step_size: float | None = None,
    check_finite: bool = False,
) -> State:  # [T, ...], the first of them y0
    """Integrate ``dy/dt = func(t, y)`` from ``t[0]`` on; return the states at all ``t``.

    Steps have the length ``step_size`` (None: one step from each time to the next), counted from each time of ``t``;
    the last one before the next time is shortened so as to land on it: ``n = max(1, ceil(span / step_size))``, but for
    rounding. Their times are ``t[i] + k * step_size`` in float64 on the host, never a running sum.

    With ``func`` an :class:`advkern.nn.ODEFunc` as it stands, all steps run inside one kernel, forward and backward
    (:func:`advkern.ops.rk4`); any other gets a fused step (:func:`advkern.ops.rk4_step`). Gradients are those of the
    discrete scheme, for ``y0``, ``t``, and whatever ``func`` uses, parameters of a module or of a closure.

    Args:
        func: called as ``func(t, y)``, t a tensor ``[]`` on y's device; returns y's shape.
        y0: one tensor, or a tuple, of which ``func`` then gets and returns tuples.
        t: strictly increasing or decreasing times. A tensor is read once, before the first step; inside
            ``torch.compile`` they are numbers.
        method: "euler" (order 1), "midpoint" (2), "rk4" (4, the classical rule) or "rk4_38" (4, Kutta's 3/8 rule,
            which torchdiffeq calls rk4).
        check_finite: raise where a state became infinite or NaN; costs a synchronisation at the end.

    Raises:
        ValueError: repeated or unordered times, a step size that is not positive, an unknown method, a wrong shape.
        TypeError: an argument of another kind.
        FloatingPointError: with ``check_finite``, names the time at which it happened.

    Hairer, Norsett and Wanner 1993, "Solving ordinary differential equations I".
    """
    return integrate(func, y0, t, method, step_size, check_finite)


def integrate(
    func: Callable[..., Any],
    y0: State,
    t: Any,
    method: str,
    step_size: float | None,
    check_finite: bool = False,
    final_only: bool = False,
) -> State:
    """:func:`odeint`, or its last state alone."""
    as_tuple = isinstance(y0, (tuple, list))
    state = tuple(y0) if as_tuple else (y0,)
    _check(func, state, method, step_size)
    tableau = TABLEAUS[method]
    weights = fused_weights(func)
    if isinstance(t, Tensor) and t.dim() > 1:
        return _own_times(weights, y0, t, method, step_size, final_only)
    times = _read(t)
    grids = [_grid(a, b, step_size, times.eps) for a, b in pairwise(times.numbers)]
    if isinstance(weights, tuple) and not as_tuple:
        out: tuple[Tensor, ...] = (_fused(weights, state[0], times, grids, method, final_only),)
    else:
        backend.note("rk4", f"odeint goes step by step: {'y0 is a tuple' if as_tuple else weights}")
        out = _stepwise(func, state, times, grids, tableau, as_tuple, final_only)
    if check_finite and not all(bool(part.isfinite().all()) for part in out):
        _raise_at_first(func, state, grids, tableau, as_tuple)
    return out if as_tuple else out[0]


def fused_weights(func: Any) -> tuple[Tensor, ...] | str:
    """The weights of ``W2 tanh(W1 y + b1) + b2`` where ``func`` is this and no more, else why it goes step by step."""
    ask = getattr(func, "fused_weights", None)
    return ask() if ask is not None else f"{type(func).__name__} is no advkern.nn.ODEFunc"


# -- steps ---------------------------------------------------------------------------------------------------------


def _read(t: Any) -> _Times:
    """Times as numbers; the one place where a tensor of them is read."""
    tensor = None
    eps = 0.0
    if isinstance(t, Tensor):
        if t.dim() != 1 or not t.is_floating_point():
            raise ValueError(f"t: expected floats of shape [T], got {t.dtype} of shape {tuple(t.shape)}")
        numbers, eps = t.tolist(), torch.finfo(t.dtype).eps
        tensor = t if t.requires_grad else None
    elif isinstance(t, (str, bytes)) or not hasattr(t, "__iter__"):
        raise TypeError(f"t: expected a tensor or a sequence of times, got {type(t).__name__}")
    else:
        t = list(t)
        numbers = [float(time.detach() if isinstance(time, Tensor) else time) for time in t]
        tensors = [time for time in t if isinstance(time, Tensor)]
        if tensors:
            eps = max(torch.finfo(time.dtype).eps if time.is_floating_point() else 0.0 for time in tensors)
        if any(time.requires_grad for time in tensors):
            tensor = torch.stack([torch.as_tensor(time, dtype=torch.float64).cpu() for time in t])
    _check_times(numbers)
    return _Times(numbers, tensor, eps)


def _grid(start: float, end: float, step_size: float | None, eps: float) -> _Grid:
    span = end - start
    if step_size is None:
        return _Grid(start, end, 1, span, span)
    ratio = abs(span) / step_size
    slack = max(_SLACK * ratio, 2 * eps * max(abs(start), abs(end)) / step_size)
    count = max(1, math.ceil(ratio - slack))
    step = math.copysign(step_size, span)
    return _Grid(start, end, count, step, end - (start + (count - 1) * step))


def _fused(
    weights: tuple[Tensor, ...], y: Tensor, times: _Times, grids: list[_Grid], method: str, final_only: bool
) -> Tensor:
    """All steps in one kernel. A time moves the last step before it, and no other: the network does not see t."""
    save_at = [0]
    for grid in grids:
        save_at.append(save_at[-1] + grid.steps)
    lengths = [length for grid in grids for length in grid.lengths()]
    h = torch.tensor(lengths, dtype=accumulation_dtype(y.dtype), device=y.device)
    if times.tensor is not None and grids:
        spans = times.tensor.diff().to(h.dtype).to(h.device)
        last = torch.tensor(save_at[1:], device=h.device) - 1
        h = h.index_add(0, last, spans - spans.detach())
    return _run(weights, y, h, save_at, method, final_only)


def _run(
    weights: tuple[Tensor, ...], y: Tensor, h: Tensor, save_at: list[int], method: str, final_only: bool
) -> Tensor:
    weight1, bias1, weight2, bias2 = weights
    if final_only:
        return rk4(y, weight1, bias1, weight2, bias2, h, method=method)[0]
    return rk4(y, weight1, bias1, weight2, bias2, h, save_at=save_at, method=method)


def _stepwise(
    func: Callable[..., Any],
    state: tuple[Tensor, ...],
    times: _Times,
    grids: list[_Grid],
    tableau: Tableau,
    as_tuple: bool,
    final_only: bool,
    seen: list[tuple[float, Tensor]] | None = None,
) -> tuple[Tensor, ...]:
    dtype, device = accumulation_dtype(state[0].dtype), state[0].device
    saved = [state]
    for i, grid in enumerate(grids):
        starts, lengths = grid.starts(), grid.lengths()
        nodes = [[start + c * h for c in tableau.nodes] for start, h in zip(starts, lengths, strict=True)]
        stages = [list(row.unbind()) for row in torch.tensor(nodes, dtype=torch.float64).to(device, dtype)]
        dts: list[Tensor | None] = [None] * grid.steps
        if times.tensor is not None:
            first, second = (times.tensor[k].to(device, dtype) for k in (i, i + 1))
            moved = first - first.detach()
            stages = [[time + moved for time in row] for row in stages]
            last = lengths[-1] + (second - second.detach()) - moved
            dts[-1] = last
            stages[-1] = [stages[-1][0] + c * last for c in tableau.nodes]
        for n in range(grid.steps):
            state = take_step(func, stages[n], state, lengths[n], tableau.rows, dts[n], as_tuple)
            if seen is not None:
                end = grid.end if n + 1 == grid.steps else starts[n + 1]
                seen.append((end, torch.stack([part.isfinite().all() for part in state]).all()))
        saved.append(state)
    if final_only:
        return state
    return tuple(torch.stack(parts) for parts in zip(*saved, strict=True))


def _own_times(
    weights: tuple[Tensor, ...] | str, y0: Any, t: Tensor, method: str, step_size: float | None, final_only: bool
) -> Tensor:
    """Each sample has times of its own; the ones with fewer steps end in steps of length 0."""
    if isinstance(weights, str) or not isinstance(y0, Tensor):
        why = weights if isinstance(weights, str) else "y0 is a tuple"
        raise ValueError(f"t: times for each sample need one kernel for all steps, and {why}")
    if t.shape[1:] != y0.shape[:-1] or not t.is_floating_point():
        raise ValueError(f"t: expected floats of shape [T, {tuple(y0.shape[:-1])}], got {t.dtype}, {tuple(t.shape)}")
    t = t.double()
    spans = t.diff(dim=0)
    ordered = spans.detach() * spans.detach()[:1].sign()
    if t.shape[0] < 1 or not bool(t.isfinite().all()) or not bool((ordered > 0).all()):
        raise ValueError("t: expected every sample's times to be finite and to strictly increase or decrease")
    lengths, save_at = [], [0]
    for span in spans:
        size = span.detach().abs()
        ratio = size / step_size if step_size is not None else torch.ones_like(size)
        count = (ratio - _SLACK * ratio).ceil().clamp(min=1)
        step = span.detach() / size * (size if step_size is None else step_size)
        for n in range(int(count.max())):
            rest = torch.where(count == n + 1, span - n * step, torch.zeros_like(span))
            lengths.append(torch.where(count > n + 1, step, rest))
        save_at.append(len(lengths))
    h = torch.stack(lengths) if lengths else t.new_empty(0, *t.shape[1:])
    h = h.to(y0.device, accumulation_dtype(y0.dtype))
    return _run(weights, y0, h, save_at, method, final_only)


def _raise_at_first(
    func: Callable[..., Any], state: tuple[Tensor, ...], grids: list[_Grid], tableau: Tableau, as_tuple: bool
) -> None:
    """Take the steps again and say where a state was no longer finite."""
    if not all(bool(part.isfinite().all()) for part in state):
        raise FloatingPointError("y0: expected finite values, got an infinity or NaN")
    seen: list[tuple[float, Tensor]] = []
    with torch.no_grad():
        _stepwise(func, state, _Times([], None, 0.0), grids, tableau, as_tuple, True, seen)
    flags = torch.stack([flag for _, flag in seen]).tolist()
    when = next((time for (time, _), finite in zip(seen, flags, strict=True) if not finite), grids[-1].end)
    raise FloatingPointError(f"odeint: the state became infinite or NaN in the step to t = {when:g}")


# -- checks --------------------------------------------------------------------------------------------------------


def _check(func: Any, state: tuple[Any, ...], method: str, step_size: float | None) -> None:
    if not callable(func):
        raise TypeError(f"func: expected a callable, got {type(func).__name__}")
    if not state:
        raise ValueError("y0: expected at least one tensor, got an empty tuple")
    for part in state:
        check_state("y0", part)
    check_method("method", method)
    if step_size is not None:
        check_step_size(step_size)


def check_method(name: str, method: Any) -> None:
    """Refuse an unknown method."""
    if method not in TABLEAUS:
        raise ValueError(f"{name}: expected one of {tuple(TABLEAUS)}, got {method!r}")


def check_step_size(step_size: Any) -> None:
    """Refuse what is no positive, finite number."""
    if isinstance(step_size, bool) or not isinstance(step_size, (int, float)):
        raise TypeError(f"step_size: expected a number, got {type(step_size).__name__}")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size: expected a positive, finite number, got {step_size}")


def _check_times(numbers: list[float]) -> None:
    if not numbers:
        raise ValueError("t: expected at least one time, got none")
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"t: expected finite times, got {number}")
    falling = len(numbers) > 1 and numbers[1] < numbers[0]
    for a, b in pairwise(numbers):
        if a == b:
            raise ValueError(f"t: expected every time once, got {a} twice in a row")
        if (b < a) != falling:
            raise ValueError(f"t: expected strictly increasing or decreasing times, got {numbers}")
