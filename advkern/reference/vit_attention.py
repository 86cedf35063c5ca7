"""``vit_attention`` in plain PyTorch."""

import torch
from torch import Tensor

from advkern.reference._philox import half_words, keep_factor, philox, threshold

KEYS_A_COUNTER = 8  # of 16 random bits each


def vit_attention(
    q: Tensor,  # [batch, length, heads, dim]
    k: Tensor,  # [batch, length, heads, dim]
    v: Tensor,  # [batch, length, heads, dim]
    key_padding_mask: Tensor | None = None,  # [batch, length] bool: True is ignored
    seed: Tensor | None = None,  # [1] int64, of the dropout
    scale: float = 1.0,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:  # [batch, length, heads, dim], [batch, heads, length]
    """``out[i] = sum_j softmax_j(scale <q[i], k[j]>) v[j]`` and the scores' log-sum-exp.

    A query whose keys are all ignored gives 0 and -inf. Half types are computed in float32, as the kernels do.
    """
    weights, lse = attention_weights(q, k, key_padding_mask, scale)
    if seed is not None:
        weights = weights * dropout_factor(weights, seed, dropout)
    return torch.einsum("bhij,bjhd->bihd", weights, v.to(weights.dtype)).to(q.dtype), lse


def vit_attention_gradient(
    grad_out: Tensor,  # [batch, length, heads, dim]
    grad_lse: Tensor | None,  # [batch, heads, length]
    q: Tensor,  # [batch, length, heads, dim]
    k: Tensor,  # [batch, length, heads, dim]
    v: Tensor,  # [batch, length, heads, dim]
    key_padding_mask: Tensor | None = None,  # [batch, length] bool
    seed: Tensor | None = None,  # [1] int64
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Tensor:  # [batch, length, 3, heads, dim]
    """The gradients of q, k and v by the chain rule, in lines that can themselves be differentiated."""
    weights, _ = attention_weights(q, k, key_padding_mask, scale)
    q, k, v, grad_out = (t.to(weights.dtype) for t in (q, k, v, grad_out))
    grad_weights = torch.einsum("bihd,bjhd->bhij", grad_out, v)
    dropped = weights
    if seed is not None:
        factor = dropout_factor(weights, seed, dropout)
        dropped, grad_weights = weights * factor, grad_weights * factor
    delta = (weights * grad_weights).sum(-1, keepdim=True)
    if grad_lse is not None:
        delta = delta - grad_lse[..., None]
    grad_scores = scale * weights * (grad_weights - delta)
    grad_q = torch.einsum("bhij,bjhd->bihd", grad_scores, k)
    grad_k = torch.einsum("bhij,bihd->bjhd", grad_scores, q)
    grad_v = torch.einsum("bhij,bihd->bjhd", dropped, grad_out)
    return torch.stack([grad_q, grad_k, grad_v], dim=2)


def attention_weights(
    q: Tensor,  # [batch, queries, heads, dim]
    k: Tensor,  # [batch, length, heads, dim]
    key_padding_mask: Tensor | None,  # [batch, length]
    scale: float,
) -> tuple[Tensor, Tensor]:  # [batch, heads, queries, length], [batch, heads, queries]
    """The softmax over the keys, before dropout, and its log-sum-exp."""
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = torch.einsum("bihd,bjhd->bhij", q.to(acc) * scale, k.to(acc))
    if key_padding_mask is None:
        return torch.softmax(scores, -1), torch.logsumexp(scores, -1)
    ignored = key_padding_mask[:, None, None, :]
    scores = scores.masked_fill(ignored, torch.finfo(acc).min)  # not -inf, which has no derivative where all are
    lse = torch.logsumexp(scores, -1).masked_fill(ignored.all(-1), -torch.inf)
    return torch.softmax(scores, -1).masked_fill(ignored, 0), lse


def dropout_factor(
    weights: Tensor,  # [batch, heads, queries, length]
    seed: Tensor,  # [1] int64
    dropout: float,
) -> Tensor:  # [batch, heads, queries, length]
    """What dropout multiplies the weights with: eight keys share a counter (key // 8, query, batch * heads + head)."""
    batch, heads, queries, length = weights.shape
    device = weights.device
    groups = torch.arange(-(-length // KEYS_A_COUNTER), device=device)
    query = torch.arange(queries, device=device)[:, None]
    head = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1)
    random = half_words(philox((groups, query, head, 0), seed)).flatten(-2)[..., :length]
    return keep_factor(random, threshold(dropout, 16), 16, weights.dtype)
