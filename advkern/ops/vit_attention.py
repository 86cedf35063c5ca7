"""Dense multi-head self-attention that holds no map: softmax, dropout and both products in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from advkern import backend
from advkern.ops._derivatives import is_plain
from advkern.ops._schema import EagerFunction, define
from advkern.ops._seed import seed as draw_seed
from advkern.reference import vit_attention as reference

_INPUTS = "Tensor q, Tensor k, Tensor v"
_OPTIONS = "Tensor? key_padding_mask, Tensor? seed, float scale, float dropout"


def _fwd_reference(q, k, v, key_padding_mask, seed, scale, dropout, with_lse):
    if seed is None and not with_lse:
        return _sdpa(q, k, v, key_padding_mask, scale), q.new_empty(0, dtype=_accumulation_dtype(q))
    out, lse = reference.vit_attention(q, k, v, key_padding_mask, seed, scale, dropout)
    return out.contiguous(), lse if with_lse else lse.new_empty(0)


def _fwd_fake(q, k, v, key_padding_mask, seed, scale, dropout, with_lse):
    batch, length, heads, _ = q.shape
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    return out, q.new_empty((batch, heads, length) if with_lse else (0,), dtype=_accumulation_dtype(q))


def _bwd_reference(q, k, v, out, lse, grad_out, grad_lse, key_padding_mask, seed, scale, dropout):
    options = (key_padding_mask, seed, scale, dropout)
    return reference.vit_attention_gradient(grad_out, grad_lse, q, k, v, *options).to(q.dtype)


def _bwd_fake(q, k, v, out, lse, grad_out, grad_lse, key_padding_mask, seed, scale, dropout):
    batch, length, heads, dim = q.shape
    return q.new_empty(batch, length, 3, heads, dim)


def _fwd_flops(q, *rest, **options):
    batch, length, heads, dim = q
    return 4 * batch * heads * length * length * dim


def _bwd_flops(q, *rest, **options):
    return 5 * _fwd_flops(q) // 2  # the scores again, and two products for each of theirs


_FWD_SCHEMA = f"({_INPUTS}, {_OPTIONS}, bool with_lse) -> (Tensor, Tensor)"
_BWD_SCHEMA = f"({_INPUTS}, Tensor out, Tensor lse, Tensor grad_out, Tensor? grad_lse, {_OPTIONS}) -> Tensor"
_FWD = define("vit_attention_fwd", _FWD_SCHEMA, _fwd_reference, _fwd_fake, _fwd_flops)
_BWD = define("vit_attention_bwd", _BWD_SCHEMA, _bwd_reference, _bwd_fake, _bwd_flops)


def _define_triton(ops: dict[str, Any], name: str, schema: str, fake: Any) -> None:
    """Add the overload ``.triton``; the kernels are imported when it is first called."""
    qualified = f"advkern::{name}.triton"

    def kernel(*args):
        from advkern._triton import vit_attention as kernels

        return getattr(kernels, name)(*args)

    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "CompositeExplicitAutograd")(kernel)
    torch.library.register_fake(qualified)(fake)
    ops["triton"] = getattr(torch.ops.advkern, name).triton


_define_triton(_FWD, "vit_attention_fwd", _FWD_SCHEMA, _fwd_fake)
_define_triton(_BWD, "vit_attention_bwd", _BWD_SCHEMA, _bwd_fake)
_IN_TRITON = (torch.float32, torch.bfloat16, torch.float16)
backend.register_op("vit_attention", {"cpu": "cpu", "cuda": "triton"}, dtypes={"triton": _IN_TRITON})

_WIDEST_IN_TRITON = 128  # dim of a head; wider ones run in plain PyTorch
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class _Options(NamedTuple):
    key_padding_mask: Tensor | None  # [batch, length] bool
    seed: Tensor | None  # [1] int64; None: no dropout
    scale: float
    dropout: float


# q, k and v come as one packed tensor [batch, length, 3, heads, dim], of which the ops see three views and which has
# one gradient, or as three tensors [batch, length, heads, dim]. Beyond the first derivative the lines of plain PyTorch
# are differentiated.


class VitAttentionFunction(torch.autograd.Function):
    """Attention and the log-sum-exp of its scores, differentiable in q, k and v."""

    generate_vmap_rule = True

    @staticmethod
    def forward(options, where, return_lse, *qkv):
        with_lse = return_lse or where != "torch"  # plain PyTorch's backward has no use for it
        return _FWD[where](*_parts(qkv), *options, with_lse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.options, ctx.where, ctx.return_lse, *qkv = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output, *qkv)

    @staticmethod
    def backward(ctx, grad_out, grad_lse):
        out, lse, *qkv = ctx.saved_tensors
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        grad_lse = grad_lse if ctx.return_lse else None  # the compiler makes zeros of it
        tensors = (grad_out, grad_lse, out, lse, *qkv)
        if is_plain(*tensors):
            grad = _gradient(ctx.options, ctx.where, *tensors)
        else:
            grad = VitAttentionBackwardFunction.apply(ctx.options, ctx.where, *tensors)
        return None, None, None, *((grad,) if len(qkv) == 1 else grad.unbind(2))


class VitAttentionBackwardFunction(torch.autograd.Function):
    """The packed gradient of attention, differentiable in grad_out, grad_lse, q, k and v."""

    generate_vmap_rule = True

    @staticmethod
    def forward(options, where, *tensors):
        return _gradient(options, where, *tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.options, _, grad_out, grad_lse, _, _, *qkv = inputs
        ctx.save_for_backward(grad_out, grad_lse, *qkv)

    @staticmethod
    def backward(ctx, grad):
        grad_out, grad_lse, *qkv = ctx.saved_tensors
        given = (grad_out, *qkv) if grad_lse is None else (grad_out, grad_lse, *qkv)

        def gradient(grad_out, *rest):  # in plain PyTorch, which can be differentiated
            lse_part, parts = (None, rest) if grad_lse is None else (rest[0], rest[1:])
            return reference.vit_attention_gradient(grad_out, lse_part, *_parts(parts), *ctx.options)

        value, pull = torch.func.vjp(gradient, *given)[:2]
        grads = list(pull(grad.to(value.dtype)))
        if grad_lse is None:
            grads.insert(1, None)
        return None, None, *grads[:2], None, None, *grads[2:]


class _EagerVitAttention(EagerFunction, VitAttentionFunction):
    pass


def _gradient(options, where, grad_out, grad_lse, out, lse, *qkv):
    return _BWD[where](*_parts(qkv), out, lse, grad_out, grad_lse, *options)


def _sdpa(q, k, v, key_padding_mask, scale):
    """Torch's own attention; a query without keys, where it has NaN, gives 0."""
    if q.numel() == 0:  # nothing to attend; of no heads torch 2.11 ends in a signal
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if key_padding_mask is None:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).contiguous()
    alone = key_padding_mask.all(1)[:, None, None, None]
    seen = ~key_padding_mask[:, None, None, :] | alone  # attends to all, then is dropped
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    return out.transpose(1, 2).masked_fill(alone, 0).contiguous()


def _parts(qkv):
    return qkv[0].unbind(2) if len(qkv) == 1 else qkv


def _accumulation_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def vit_attention(
    qkv: Tensor | tuple[Tensor, Tensor, Tensor],  # [batch, length, 3, heads, dim], or three [batch, length, heads, dim]
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    key_padding_mask: Tensor | None = None,  # [batch, length] bool
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # [batch, length, heads, dim], [batch, heads, length]
    """Attend from every position of a sequence to every position of it, head by head.

    ``out[i] = sum_j m[i, j] p[i, j] v[j]`` with ``p[i, j] = exp(scale <q[i], k[j]> - lse[i])`` and ``lse[i]`` the
    logarithm of the sum of ``exp(scale <q[i], k[j]>)`` over the keys that are not ignored. In training ``m[i, j]`` is 0
    with probability ``dropout`` and ``1 / (1 - dropout)`` otherwise (rounded to 16 bits), drawn by counter from a seed
    (``torch.manual_seed`` repeats it), so no mask is stored and every backend draws the same one.

    A query whose keys are all ignored gives 0, with an lse of -inf and 0 in the gradients. Differentiable any number
    of times. The kernels hold no map, forward or backward: O(length * dim) memory a head; second derivatives, forward
    mode and plain PyTorch's gradient take O(length^2). The kernels' result is bitwise the same run after run and on
    any number of threads.

    Args:
        qkv: the packed projection, read in place and given one packed gradient, or a tuple ``(q, k, v)`` with any
            strides. float16, bfloat16, float32 or float64; half types are computed in float32. Under autocast they
            take the autocast type.
        scale: of the scores; ``dim ** -0.5`` by default.
        dropout: probability of dropping a weight, in training.
        training: whether dropout applies.
        key_padding_mask: True where a key is ignored, as in ``torch.nn.MultiheadAttention``.
        return_lse: return ``(out, lse)``, both differentiable; ``lse`` is float32, or float64 for float64 input.

    Raises:
        ValueError: a wrong shape, type, device or probability.
        TypeError: an argument of another kind.

    Vaswani et al. 2017, arXiv:1706.03762; without maps after Dao et al. 2022, arXiv:2205.14135.
    """
    packed = isinstance(qkv, Tensor)
    tensors = (qkv,) if isinstance(qkv, Tensor) else tuple(qkv) if isinstance(qkv, (tuple, list)) else qkv
    first = _check(tensors, key_padding_mask, dropout, packed)
    tensors = tuple(_under_autocast(t) for t in tensors)
    if scale is None:
        scale = max(first.shape[-1], 1) ** -0.5
    seed = draw_seed(first) if training and dropout > 0 else None
    mask = None if key_padding_mask is None else key_padding_mask.contiguous()
    options = _Options(mask, seed, float(scale), float(dropout))
    if torch.autograd.forward_ad._current_level >= 0:  # plain PyTorch has a forward mode
        out, lse = reference.vit_attention(*_parts(tensors), *options)  # type: ignore[call-arg]  # mypy cannot count two stars
        return (out, lse) if return_lse else out
    where = backend.choose("vit_attention", first.device.type, tensors[0].dtype)
    if where == "triton" and first.shape[-1] > _WIDEST_IN_TRITON:
        backend.note("vit_attention", f"Triton's kernels take heads of at most {_WIDEST_IN_TRITON}: plain PyTorch")
        where = "torch"
    if is_plain(*tensors):
        out, lse = _FWD[where](*_parts(tensors), *options, return_lse)
    else:
        function = VitAttentionFunction if torch.compiler.is_compiling() else _EagerVitAttention
        out, lse = function.apply(options, where, return_lse, *tensors)
    return (out, lse) if return_lse else out


def _under_autocast(t: Tensor) -> Tensor:
    kind = t.device.type
    if torch.is_autocast_enabled(kind) and t.dtype != torch.float64:
        return t.to(torch.get_autocast_dtype(kind))
    return t


def _check(tensors: Any, key_padding_mask: Tensor | None, dropout: float, packed: bool) -> Tensor:
    if not isinstance(tensors, tuple) or not all(isinstance(t, Tensor) for t in tensors):
        kind = type(tensors).__name__ if not isinstance(tensors, tuple) else [type(t).__name__ for t in tensors]
        raise TypeError(f"qkv: expected a tensor or three tensors (q, k, v), got {kind}")
    if not packed and len(tensors) != 3:
        raise ValueError(f"qkv: expected a tensor or three tensors (q, k, v), got {len(tensors)} tensors")
    first = tensors[0]
    if packed and (first.dim() != 5 or first.shape[2] != 3):
        raise ValueError(f"qkv: expected [batch, length, 3, heads, dim], got shape {tuple(first.shape)}")
    for name, t in zip(("qkv",) if packed else ("q", "k", "v"), tensors, strict=True):
        if not packed and (t.dim() != 4 or t.shape != first.shape):
            wanted = "" if first.dim() != 4 or t is first else f" = {tuple(first.shape)}, as q"
            raise ValueError(f"{name}: expected [batch, length, heads, dim]{wanted}, got shape {tuple(t.shape)}")
        if t.dtype not in _FLOATS or t.dtype != first.dtype:
            wanted = "float16, bfloat16, float32 or float64" if t is first else f"{first.dtype}, as q"
            raise ValueError(f"{name}: expected {wanted}, got {t.dtype}")
        if t.device != first.device:
            raise ValueError(f"{name}: expected a tensor on {first.device}, as q, got one on {t.device}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout}")
    _check_mask(key_padding_mask, first)
    return first


def _check_mask(mask: Tensor | None, like: Tensor) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"key_padding_mask: expected a tensor, got {type(mask).__name__}")
    if mask.shape != like.shape[:2] or mask.dtype != torch.bool or mask.device != like.device:
        raise ValueError(
            f"key_padding_mask: expected bool [batch, length] = {tuple(like.shape[:2])} on {like.device}, got "
            f"{mask.dtype} of shape {tuple(mask.shape)} on {mask.device}"
        )
