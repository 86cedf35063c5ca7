"""The maps of self-attention, computed from the queries and keys that a forward kept, when they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advkern.maps import AttentionMap, AttentionMaps
from advkern.reference.vit_attention import attention_weights


class _QueriesAndKeys(NamedTuple):
    """What a forward keeps for its map; with gradients enabled they are views of the packed projection."""

    q: Tensor  # [batch, length, heads, dim]
    k: Tensor  # [batch, length, heads, dim]
    key_padding_mask: Tensor | None  # [batch, length]
    scale: float

    def dense(self) -> Tensor:
        """Every row of every head: ``[batch, heads, length, length]``."""
        return self.rows(slice(None), slice(None))

    def rows(self, queries: Any, heads: Any) -> Tensor:
        """The rows of those queries and heads: ``[batch, heads, queries, length]``."""
        q, k = self.q[:, queries][:, :, heads], self.k[:, :, heads]
        return attention_weights(q, k, self.key_padding_mask, self.scale)[0].to(q.dtype)


class SelfAttentionMap(AttentionMap):
    """The attention of one layer, ``[batch, heads, length, length]``: row *i* is what position *i* pays to each.

    Rows are taken before dropout and sum to 1 (to 0 where every key is ignored). Besides the whole map, parts of it can
    be read that never hold length x length for all heads: :meth:`rows`, :meth:`cls`, :meth:`mean_heads`. Until
    :meth:`release` the map keeps the layer's queries and keys alive, 2 x batch x length x embed_dim numbers; with
    gradients enabled the whole packed projection and the autograd graph before it, which a backward needs anyway.
    """

    def rows(self, query_index: int | slice | Tensor, head: int | None = None) -> Tensor:
        """What the positions of ``query_index`` pay: ``[batch, heads, queries, length]``.

        Without the dimension of queries for an integer, and without that of heads where ``head`` names one.
        """
        whole = self._dense
        heads = slice(None) if head is None else slice(head, None if head == -1 else head + 1)
        queries = query_index
        if isinstance(query_index, int):
            queries = slice(query_index, None if query_index == -1 else query_index + 1)
        out = self._compute(queries, heads) if whole is None else whole[:, heads][:, :, queries]
        if not out.shape[1] and head is not None:
            raise IndexError(f"head: expected one of {self.shape[1]} heads, got {head}")
        if isinstance(query_index, int):
            if not out.shape[2]:
                raise IndexError(f"query_index: expected one of {self.shape[2]} positions, got {query_index}")
            out = out[:, :, 0]
        return out if head is None else out[:, 0]

    def cls(self) -> Tensor:
        """What the class token, position 0, pays: ``[batch, heads, length]``."""
        return self.rows(0)

    def mean_heads(self) -> Tensor:
        """The mean over the heads, ``[batch, length, length]``, one head at a time."""
        heads = self.shape[1]
        total = self.rows(slice(None), 0)
        for head in range(1, heads):
            total = total + self.rows(slice(None), head)
        return total / heads

    def _compute(self, queries: Any, heads: Any) -> Tensor:
        source = self._kept()
        with torch.set_grad_enabled(self._with_grad), torch.autocast(self.device.type, enabled=False):
            return source.rows(queries, heads)


class SelfAttentionMaps(AttentionMaps):
    """The attention of a model's layers, a list of :class:`SelfAttentionMap`, first layer first."""

    def __init__(self, maps: Iterable[SelfAttentionMap] = ()) -> None:
        super().__init__(maps)

    def rollout(self) -> Tensor:
        """How far each position of the output rests on each of the input: ``[batch, length, length]``.

        The product over the layers of ``(mean over heads + identity) / 2``; rows sum to 1. Abnar and Zuidema 2020,
        "Quantifying attention flow in transformers", arXiv:2005.00928.
        """
        if not self:
            raise ValueError("maps: expected the map of at least one layer, got none")
        steps = (self._step(layer.mean_heads()) for layer in self)
        flow = next(steps)
        for step in steps:
            flow = step @ flow
        return flow

    @staticmethod
    def _step(mean: Tensor) -> Tensor:
        return (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2


def self_attention_map(
    q: Tensor,  # [batch, length, heads, dim]
    k: Tensor,  # [batch, length, heads, dim]
    key_padding_mask: Tensor | None,  # [batch, length]
    scale: float,
) -> SelfAttentionMap:  # [batch, heads, length, length]
    """Make the map of those queries and keys; nothing is computed."""
    batch, length, heads, _ = q.shape
    source = _QueriesAndKeys(q, k, key_padding_mask, scale)
    requires_grad = q.requires_grad and torch.is_grad_enabled()
    return SelfAttentionMap(source, (batch, heads, length, length), q.dtype, q.device, requires_grad)
