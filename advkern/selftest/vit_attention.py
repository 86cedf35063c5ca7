"""``vit_attention`` beside the softmax over all pairs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from advkern.ops import vit_attention
from advkern.reference.vit_attention import dropout_factor
from advkern.selftest._case import Case, Draw

_SEED, _LENGTH, _HEADS, _DIM = 5, 65, 4, 32


def cases(scale: int, device: torch.device) -> list[Case]:
    """Images of 64 patches and a class token; the last keys of every second one are ignored, once under dropout."""
    draw, batch = Draw(device), 2 * scale
    tensors = {"qkv": draw.normal(batch, _LENGTH, 3, _HEADS, _DIM)}
    ignored = torch.zeros(batch, _LENGTH, dtype=torch.bool, device=device)
    ignored[::2, -9:] = True
    return [
        Case(name, tensors, partial(_call, ignored, p), partial(_formula, ignored, p))
        for name, p in (("vit_attention", 0.0), ("vit_attention, dropout", 0.3))
    ]


def _call(ignored: Tensor, p: float, qkv: Tensor) -> Tensor:
    torch.manual_seed(_SEED)
    out = vit_attention(qkv, key_padding_mask=ignored, dropout=p, training=True)
    assert isinstance(out, Tensor)  # a tuple only with return_lse
    return out


def _formula(ignored: Tensor, p: float, qkv: Tensor) -> Tensor:
    q, k, v = qkv.unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", q * _DIM**-0.5, k)
    weights = scores.masked_fill(ignored[:, None, None], -torch.inf).softmax(-1)
    if p:
        torch.manual_seed(_SEED)  # so the op's own seed is drawn
        weights = weights * dropout_factor(weights, torch.ops.advkern.seed(qkv), p)
    return torch.einsum("bhij,bjhd->bihd", weights, v)
