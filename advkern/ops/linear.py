"""The product with a layer's weight, which graph and vision models spend most of their time in on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern import backend
from advkern.ops._derivatives import is_plain, sum_of_rows
from advkern.ops._schema import EagerFunction, define
from advkern.reference import linear as reference
from advkern.reference.gcn_aggregate import accumulation_dtype


def _fwd_fake(x, weight, bias):
    return x.new_empty(x.shape[0], weight.shape[0])


def _bwd_weight_fake(grad, x):
    return x.new_empty(grad.shape[1], x.shape[1])


def _fwd_flops(x, weight, *rest, **options):
    return 2 * x[0] * weight[0] * weight[1]


def _bwd_weight_flops(grad, x, **options):
    return 2 * x[0] * x[1] * grad[1]


_FWD = define(
    "linear_fwd", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor", reference.linear, _fwd_fake, _fwd_flops
)
_BWD_WEIGHT = define(
    "linear_bwd_weight",
    "(Tensor grad, Tensor x) -> Tensor",
    reference.weight_gradient,
    _bwd_weight_fake,
    _bwd_weight_flops,
)
backend.register_op("linear", {"cpu": "cpu"})

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# The product and its derivative by the weight are each other's derivatives: two Functions give every order.


class LinearFunction(torch.autograd.Function):
    """``x W^T + b``, differentiable in x, W and b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, where):
        return _FWD[where](x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _bias, ctx.where = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        return (
            _product(grad, weight.t(), None, ctx.where) if needs_x else None,
            _weight_gradient(grad, x, ctx.where) if needs_weight else None,
            sum_of_rows(grad, accumulation_dtype(grad.dtype)).to(grad.dtype) if needs_bias else None,
            None,
        )


class LinearWeightFunction(torch.autograd.Function):
    """``grad^T x``, differentiable in both."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, where):
        return _BWD_WEIGHT[where](grad, x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, x, ctx.where = inputs
        ctx.save_for_backward(grad, x)

    @staticmethod
    def backward(ctx, grad_weight):  # [out, in]
        grad, x = ctx.saved_tensors
        return (
            _product(x, grad_weight, None, ctx.where) if ctx.needs_input_grad[0] else None,
            _product(grad, grad_weight.t(), None, ctx.where) if ctx.needs_input_grad[1] else None,
            None,
        )


class _EagerLinear(EagerFunction, LinearFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        LinearFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx, x_t, weight_t, bias_t, _):
        x, weight = ctx.saved_tensors
        terms = [] if x_t is None else [_product(x_t.contiguous(), weight, None, ctx.where)]
        if weight_t is not None:
            terms.append(_product(x, weight_t, None, ctx.where))
        if bias_t is not None:
            terms.append(bias_t.expand(x.shape[0], -1))
        return sum(terms)


class _EagerLinearWeight(EagerFunction, LinearWeightFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        LinearWeightFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx, grad_t, x_t, _):
        grad, x = ctx.saved_tensors
        terms = [] if grad_t is None else [_weight_gradient(grad_t.contiguous(), x, ctx.where)]
        if x_t is not None:
            terms.append(_weight_gradient(grad, x_t.contiguous(), ctx.where))
        return sum(terms)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, where: str) -> Tensor:
    if is_plain(x, weight, bias):
        return _FWD[where](x, weight, bias)
    function = LinearFunction if torch.compiler.is_compiling() else _EagerLinear
    return function.apply(x, weight, bias, where)


def _weight_gradient(grad: Tensor, x: Tensor, where: str) -> Tensor:
    if is_plain(grad, x):
        return _BWD_WEIGHT[where](grad, x)
    function = LinearWeightFunction if torch.compiler.is_compiling() else _EagerLinearWeight
    return function.apply(grad, x, where)


def linear(
    x: Tensor,  # [..., in]
    weight: Tensor,  # [out, in]
    bias: Tensor | None = None,  # [out]
) -> Tensor:  # [..., out]
    """``x W^T + b``, as :func:`torch.nn.functional.linear`.

    On a CPU in tiles that stay in registers, into memory of huge pages; elsewhere it is torch's own. Differentiable any
    number of times. On the kernel, and not on torch's own, results and gradients are bitwise the same run after run and
    on any number of threads, and a row is the same whatever rows stand beside it.

    Args:
        x: float16, bfloat16, float32 or float64; half types are summed in float32. Under autocast it is torch's own.
        weight: of x's type; strides of any kind.
        bias: of x's type, or None.

    Raises:
        ValueError: a wrong shape, type or device.
        TypeError: an argument of another kind.
    """
    _check(x, weight, bias)
    where = backend.choose("linear", x.device.type)
    if where == "torch" or torch.is_autocast_enabled(x.device.type):
        return reference.linear(x, weight, bias)
    rows = x.flatten(0, -2) if x.dim() > 2 else x
    rows = rows[None] if x.dim() == 1 else rows
    bias = None if bias is None else bias.contiguous()
    out = _product(rows.contiguous(), weight, bias, where)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], weight.shape[0])


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if value is None and name == "bias":
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if value.dtype not in _FLOATS:
            raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {value.dtype}")
        if value.device != x.device:
            raise ValueError(f"{name}: expected a tensor on {x.device}, as x, got one on {value.device}")
        if value.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{name}: expected {x.dtype}, as x, got {value.dtype}")
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"weight: expected [out, in] with in = {x.shape[-1] if x.dim() else 'none'}, as x's last axis, "
            f"got shape {tuple(weight.shape)} for x of shape {tuple(x.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected [out = {weight.shape[0]}], got shape {tuple(bias.shape)}")
