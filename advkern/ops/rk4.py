"""Explicit Runge-Kutta integration of ``dy/dt = W2 tanh(W1 y + b1) + b2``: all steps and stages in one kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from advkern import backend
from advkern.ops._schema import EagerFunction, define
from advkern.reference import rk4 as reference
from advkern.reference.rk4 import TABLEAUS, accumulation_dtype

_NETWORK = "Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2"
_SCHEME = "Tensor h, int[] save_at, float[] tableau, int every"


def _fwd_fake(y, weight1, bias1, weight2, bias2, h, save_at, tableau, every):
    kept = -(-h.shape[0] // every) if every else 0
    return y.new_empty(len(save_at), *y.shape), y.new_empty(kept, *y.shape)


def _bwd_fake(grad, checkpoints, weight1, bias1, weight2, bias2, h, save_at, tableau, every):
    return grad.new_empty(grad.shape[1:]), *(torch.empty_like(t) for t in (weight1, bias1, weight2, bias2, h))


def _fwd_flops(y, weight1, bias1, weight2, bias2, h, save_at, tableau, every, **options):
    hidden, dim = weight1
    return h[0] * len(reference.rows_of(tableau)) * y[0] * 4 * hidden * dim


def _bwd_flops(grad, checkpoints, *rest, **options):
    return 3 * _fwd_flops(grad[1:], *rest)  # each step is taken again


_FWD = define("rk4_fwd", f"(Tensor y, {_NETWORK}, {_SCHEME}) -> (Tensor, Tensor)", reference.rk4, _fwd_fake, _fwd_flops)
_BWD = define(
    "rk4_bwd",
    f"(Tensor grad, Tensor checkpoints, {_NETWORK}, {_SCHEME}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.rk4_backward,
    _bwd_fake,
    _bwd_flops,
)
backend.register_op("rk4", {"cpu": "cpu", "cuda": "cuda"})

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Rk4Function(torch.autograd.Function):
    """The states that were asked for, differentiable in y, the weights and h."""

    @staticmethod
    def forward(y, weight1, bias1, weight2, bias2, h, save_at, tableau, every, where):
        return _FWD[where](y, weight1, bias1, weight2, bias2, h, save_at, tableau, every)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.save_at, ctx.tableau, ctx.every, ctx.where = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx, grad, _):
        *tensors, checkpoints = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # derivatives of this are wanted: plain lines
            wanted = [k for k in range(6) if ctx.needs_input_grad[k]]
            views = [t.view_as(t) for t in tensors]
            y, w1, b1, w2, b2, h = views
            out, _ = reference.rk4(y, w1, b1, w2, b2, h, ctx.save_at, ctx.tableau)
            found = torch.autograd.grad(out, [views[k] for k in wanted], grad, create_graph=True)
            by_place = dict(zip(wanted, found, strict=True))
            grads = [by_place.get(k) for k in range(6)]
        else:
            args = (grad.contiguous(), checkpoints, *tensors[1:], ctx.save_at, ctx.tableau, ctx.every)
            grads = _BWD[ctx.where](*args)
        return *grads, None, None, None, None


class _EagerRk4(EagerFunction, Rk4Function):
    pass


def rk4(
    y: Tensor,  # [..., dim]
    weight1: Tensor,  # [hidden, dim]
    bias1: Tensor,  # [hidden]
    weight2: Tensor,  # [dim, hidden]
    bias2: Tensor,  # [dim]
    h: Tensor,  # [steps], or [steps, ...] with a length of its own for each sample
    *,
    save_at: Sequence[int] | None = None,
    method: str = "rk4",
) -> Tensor:  # [len(save_at), ..., dim]
    """Take explicit Runge-Kutta steps of lengths ``h`` along ``dy/dt = W2 tanh(W1 y + b1) + b2``.

    ``k_i = f(y_n + h_n sum_{j<i} a_ij k_j)``, ``y_{n+1} = y_n + h_n sum_i b_i k_i``; returns the states after
    ``save_at`` steps (None: the last one alone). Gradients are those of the discrete scheme, exact, for ``y``, the
    weights and ``h``: the state is kept before every ``sqrt(steps)``-th step and the steps between are taken again.
    A second derivative, ``torch.func``'s transforms and forward mode run through the same formula in plain PyTorch.
    The result is bitwise the same run after run and on any number of threads.

    Args:
        y: float16, bfloat16, float32 or float64; half types are integrated in float32 and rounded at the end.
        h: lengths of the steps; 0 leaves a state as it is.
        save_at: ascending numbers of steps, from 0 to ``len(h)``.
        method: "euler", "midpoint", "rk4" (the classical rule) or "rk4_38" (Kutta's 3/8 rule).

    Raises:
        ValueError: a wrong shape, type, device or name.
        TypeError: an argument that is no tensor.

    Kutta 1901, "Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen"; Chen et al. 2018,
    "Neural ordinary differential equations", arXiv:1806.07366; checkpoints: Griewank 1992,
    doi:10.1080/10556789208805505.
    """
    _check({"y": y, "weight1": weight1, "bias1": bias1, "weight2": weight2, "bias2": bias2, "h": h}, method)
    steps = h.shape[0]
    save_at = [steps] if save_at is None else list(save_at)
    if sorted(save_at) != save_at or (save_at and not 0 <= save_at[0] <= save_at[-1] <= steps):
        raise ValueError(f"save_at: expected ascending numbers in [0, steps = {steps}], got {save_at}")
    acc = accumulation_dtype(y.dtype)
    flat = y.to(acc).reshape(-1, y.shape[-1]).contiguous()
    rows = flat.shape[:1] if h.dim() > 1 else ()
    network = [t.to(acc).contiguous() for t in (weight1, bias1, weight2, bias2)]
    tensors = (flat, *network, h.to(acc).reshape(steps, *rows).contiguous())
    out = _integrate(tensors, save_at, TABLEAUS[method].numbers, backend.choose("rk4", y.device.type))
    return out.reshape(len(save_at), *y.shape).to(y.dtype)


def _integrate(tensors: tuple[Tensor, ...], save_at: list[int], tableau: list[float], where: str) -> Tensor:
    y, weight1, bias1, weight2, bias2, h = tensors
    if torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return reference.rk4(y, weight1, bias1, weight2, bias2, h, save_at, tableau)[0]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return _FWD[where](*tensors, save_at, tableau, 0)[0]
    every = max(1, math.isqrt(h.shape[0]))
    function = Rk4Function if torch.compiler.is_compiling() else _EagerRk4
    return function.apply(*tensors, save_at, tableau, every, where)[0]


def _check(tensors: dict[str, Tensor], method: str) -> None:
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(t).__name__}")
    y, h, weight1 = tensors["y"], tensors["h"], tensors["weight1"]
    if method not in TABLEAUS:
        raise ValueError(f"method: expected one of {tuple(TABLEAUS)}, got {method!r}")
    if y.dim() < 1 or y.dtype not in _FLOATS:
        raise ValueError(f"y: expected floats of shape [..., dim], got {y.dtype} of shape {tuple(y.shape)}")
    if weight1.dim() != 2 or weight1.shape[1] != y.shape[-1]:
        raise ValueError(f"weight1: expected [hidden, dim = {y.shape[-1]}], got shape {tuple(weight1.shape)}")
    hidden, dim = weight1.shape
    for name, shape in {"bias1": (hidden,), "weight2": (dim, hidden), "bias2": (dim,)}.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensors[name].shape)}")
    if h.dim() < 1 or (h.dim() > 1 and h.shape[1:] != y.shape[:-1]):
        raise ValueError(f"h: expected [steps] or [steps, {tuple(y.shape[:-1])}], got shape {tuple(h.shape)}")
    for name, t in tensors.items():
        if not t.is_floating_point() or t.device != y.device:
            raise ValueError(f"{name}: expected floats on {y.device}, as y, got {t.dtype} on {t.device}")
