"""``torch.nn.MultiheadAttention``, where a call turns out to be self-attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.conversion.rule import Rule, library_class
from advkern.conversion.swap import Converted, hooked, is_plain_tensor
from advkern.ops.vit_attention import vit_attention


class ConvertedMultiheadAttention(Converted):
    """Self-attention without weights on our kernel; every other call is torch's."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as ``torch.nn.MultiheadAttention`` does."""
        own: Any = self
        if (
            need_weights
            or attn_mask is not None
            or is_causal
            or query is not key
            or key is not value
            or not _is_sequence(query, own)
            or not _is_padding(key_padding_mask)
            or hooked(own.out_proj)
        ):
            options = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            return super().forward(query, key, value, *options)
        qkv = nn.functional.linear(query, own.in_proj_weight, own.in_proj_bias).unflatten(-1, (3, own.num_heads, -1))
        if not own.batch_first:
            qkv = qkv.transpose(0, 1)
        drop = {"dropout": own.dropout, "training": self.training}
        out: Any = vit_attention(qkv, key_padding_mask=key_padding_mask, **drop)
        out = out.flatten(2) if own.batch_first else out.flatten(2).transpose(0, 1)
        return nn.functional.linear(out, own.out_proj.weight, own.out_proj.bias), None


def _is_sequence(query: Tensor, own: Any) -> bool:
    return is_plain_tensor(query) and query.dim() == 3 and query.dtype == own.in_proj_weight.dtype


def _is_padding(mask: Tensor | None) -> bool:
    return mask is None or (mask.dtype == torch.bool and mask.dim() == 2)


def _refusal(module: Any) -> str | None:
    if not module._qkv_same_embed_dim:
        return "keys or values of another width than the queries (kdim, vdim)"
    if module.bias_k is not None or module.bias_v is not None:
        return "it adds biases to keys and values (add_bias_kv)"
    if module.add_zero_attn:
        return "it adds a row of zeros (add_zero_attn)"
    return "a hook is registered on out_proj" if hooked(module.out_proj) else None


def _probe(module: Any, generator: torch.Generator) -> tuple[Any, ...]:
    x = torch.randn(2, 5, module.embed_dim, generator=generator, dtype=torch.float64)
    return x, x, x, None, False


RULES = [
    Rule(
        library_class("torch.nn.modules.activation.MultiheadAttention"),
        ConvertedMultiheadAttention,
        _refusal,
        _probe,
        "vit_attention where query, key and value are one tensor, need_weights=False, without attn_mask; all other "
        "calls, and the one fused function of TransformerEncoderLayer in eval without gradients, are torch's",
    )
]
