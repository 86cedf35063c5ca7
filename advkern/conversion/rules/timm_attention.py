"""timm's ``Attention``, of its vision transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.conversion.rule import Rule, library_class
from advkern.conversion.swap import Converted, hooked, is_plain_tensor
from advkern.ops.vit_attention import vit_attention


class ConvertedTimmAttention(Converted):
    """timm's forward around our kernel; a call with a mask is timm's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attend from ``x: [B, N, dim]`` to itself: ``[B, N, dim]``."""
        own: Any = self
        masked = any(value is not None and value is not False for value in (*args, *kwargs.values()))
        if masked or not is_plain_tensor(x) or x.dim() != 3 or hooked(own.attn_drop):
            return super().forward(x, *args, **kwargs)
        qkv: Any = own.qkv(x).unflatten(-1, (3, own.num_heads, own.head_dim))
        if not _is_identity(own.q_norm) or not _is_identity(own.k_norm):
            q, k, v = qkv.unbind(2)
            qkv = (own.q_norm(q).to(v.dtype), own.k_norm(k).to(v.dtype), v)  # under autocast norms give float32
        fused = own.fused_attn
        training = self.training if fused else own.attn_drop.training
        scale = None if fused else own.scale
        out: Any = vit_attention(qkv, scale=scale, dropout=own.attn_drop.p, training=training)
        out = out.flatten(2)
        norm, gate = getattr(own, "norm", None), getattr(own, "gate", None)
        out = out if norm is None else norm(out)
        out = out if gate is None else out * gate(x).sigmoid()
        return own.proj_drop(own.proj(out))


def _is_identity(module: nn.Module) -> bool:
    return type(module) is nn.Identity and not hooked(module)


def _refusal(module: Any) -> str | None:
    if type(module.attn_drop) is not nn.Dropout:
        return f"its attn_drop is a {type(module.attn_drop).__name__}"
    return "a hook is registered on attn_drop" if hooked(module.attn_drop) else None


def _probe(module: Any, generator: torch.Generator) -> tuple[Any, ...]:
    width = module.qkv.weight.shape[1]
    return (torch.randn(2, 5, width, generator=generator, dtype=torch.float64),)


RULES = [
    Rule(
        library_class("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention"),
        ConvertedTimmAttention,
        _refusal,
        _probe,
        "vit_attention; calls with attn_mask or is_causal are timm's",
    )
]
