"""The tutorial's ``MultiHeadSelfAttention``, which its transformers are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.conversion.rule import Rule, tutorial_class
from advkern.conversion.swap import Converted, hooked, is_plain_tensor
from advkern.nn import MultiHeadSelfAttention


class ConvertedSelfAttention(Converted):
    """The forward of :class:`advkern.nn.MultiHeadSelfAttention`; its map is computed when it is read."""

    def forward(self, x: Tensor) -> Any:
        """Attend from ``x: [B, N, embed_dim]`` to itself: the output and the attention."""
        own: Any = self
        if not is_plain_tensor(x) or x.dim() != 3 or hooked(own.attention_dropout):
            return super().forward(x)
        return MultiHeadSelfAttention.forward(own, x)


def _refusal(module: Any) -> str | None:
    drop = module.attention_dropout
    if type(drop) is not nn.Dropout:
        return f"its attention_dropout is a {type(drop).__name__}"
    return "a hook is registered on attention_dropout" if hooked(drop) else None


def _probe(module: Any, generator: torch.Generator) -> tuple[Any, ...]:
    return (torch.randn(2, 5, module.embed_dim, generator=generator, dtype=torch.float64),)


RULES = [
    Rule(
        tutorial_class("MultiHeadSelfAttention", modules=("qkv", "attention_dropout", "proj", "proj_dropout")),
        ConvertedSelfAttention,
        _refusal,
        _probe,
        "vit_attention, with the attention before dropout and computed when it is read",
        dropouts=lambda module: [module.attention_dropout.p, module.proj_dropout.p],
    )
]
