"""``gat_attention`` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.reference._philox import keep_factor, philox
from advkern.reference.gcn_aggregate import _check_structure, _sparse_product, accumulation_dtype, edge_dot

BITS = 32  # of a random number that decides on one edge and head
_LANES = 4  # heads that share a counter


def gat_attention(
    rowptr: Tensor,  # [num_nodes + 1]
    col: Tensor,  # [num_edges]
    h: Tensor,  # [num_nodes, heads, channels]
    score_dst: Tensor,  # [num_nodes, heads]
    score_src: Tensor,  # [num_nodes, heads]
    seed: Tensor | None = None,  # [1]
    bias: Tensor | None = None,  # [heads * channels]
    negative_slope: float = 0.2,
    threshold: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # [num_nodes, heads, channels], [num_nodes, heads], [num_nodes, heads]
    """``out[i] = sum_e keep[e] * alpha[e] * h[col[e]] + bias``, and of each row the greatest score and the sum of
    ``exp``.

    ``alpha[e] = exp(s[e] - row_max[i]) / row_sum[i]``, ``s[e] = leaky_relu(score_dst[i] + score_src[col[e]])``. A row
    without edges, or with none but scores of -inf, gives 0, 0 and 0. Half types are summed in float32.
    """
    _check_structure(rowptr, col)
    score = edge_scores(rowptr, col, score_dst, score_src, negative_slope)
    row_max = _segment_reduce(score, "max", rowptr)
    row_max = row_max.masked_fill(row_max == -torch.inf, 0)
    weight = torch.exp(score - _of_rows(row_max, rowptr, col))
    row_sum = _segment_reduce(weight, "sum", rowptr)
    weight = weight / _of_rows(_divisor(row_sum), rowptr, col)
    weight = weight * dropout_factor(weight, torch.arange(col.numel(), device=col.device), seed, threshold)
    out = _aggregate(rowptr, col, weight, h)
    if bias is not None:
        out += bias.view(h.shape[1:])
    return out, row_max, row_sum


def gat_attention_backward(
    rowptr: Tensor,  # [num_nodes + 1]
    rowptr_t: Tensor,  # [num_nodes + 1]: of the transpose, and so are the next two
    col_t: Tensor,  # [num_edges]
    perm: Tensor,  # [num_edges]: the place in the graph of each edge of the transpose
    h: Tensor,  # [num_nodes, heads, channels]
    score_dst: Tensor,  # [num_nodes, heads]
    score_src: Tensor,  # [num_nodes, heads]
    seed: Tensor | None,
    out: Tensor,  # [num_nodes, heads, channels]: this and the next two are what the forward gave
    row_max: Tensor,  # [num_nodes, heads]
    row_sum: Tensor,  # [num_nodes, heads]
    grad: Tensor,  # [num_nodes, heads, channels]
    grad_sum: Tensor | None,  # [num_nodes, heads], by row_sum with row_max held
    negative_slope: float = 0.2,
    threshold: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # as h, score_dst and score_src
    """The gradients, with one gather of ``grad`` over the transpose.

    With ``delta[i] = <grad[i], out[i]>`` (as in FlashAttention, Dao et al. 2022, arXiv:2205.14135) the gradient of a
    score is ``alpha * (keep * <grad[i], h[j]> - delta[i])``.
    """
    _check_structure(rowptr_t, col_t)
    acc = accumulation_dtype(h.dtype)
    delta = (grad.to(acc) * out.to(acc)).sum(2)
    if grad_sum is not None:
        delta = delta - grad_sum * row_sum
    score = edge_scores(rowptr_t, col_t, score_src, score_dst, negative_slope)
    target = col_t.long()
    alpha = torch.exp(score - row_max[target]) / _divisor(row_sum)[target]
    weight = alpha * dropout_factor(alpha, perm, seed, threshold)
    dot = torch.stack([edge_dot(rowptr_t, col_t, h[:, k], grad[:, k]) for k in range(h.shape[1])], 1)
    positive = _of_rows(score_src, rowptr_t, col_t) + score_dst[target] > 0
    grad_score = weight * dot - alpha * delta[target]
    grad_score = torch.where(positive, grad_score, grad_score * negative_slope)
    in_order = torch.empty_like(grad_score)
    in_order[perm] = grad_score
    grad_dst, grad_src = _segment_reduce(in_order, "sum", rowptr), _segment_reduce(grad_score, "sum", rowptr_t)
    return _aggregate(rowptr_t, col_t, weight, grad), grad_dst, grad_src


def edge_scores(
    rowptr: Tensor,  # [num_nodes + 1]
    col: Tensor,  # [num_edges]
    score_row: Tensor,  # [num_nodes, heads]
    score_col: Tensor,  # [num_nodes, heads]
    negative_slope: float,
) -> Tensor:  # [num_edges, heads]
    """``leaky_relu(score_row[row] + score_col[col])`` of every edge."""
    score = _of_rows(score_row, rowptr, col) + score_col[col.long()]
    return torch.where(score > 0, score, score * negative_slope)


def dropout_factor(
    like: Tensor,  # [num_edges, heads]
    edge: Tensor,  # [num_edges]: the place of each edge in the graph
    seed: Tensor | None,  # [1]
    threshold: int,
) -> Tensor | float:  # [num_edges, heads]
    """What dropout multiplies with: the random number of an edge and head is a word of their counter."""
    if threshold == 0 or seed is None:
        return 1.0
    heads = like.shape[1]
    group = torch.arange((heads + _LANES - 1) // _LANES, device=edge.device)
    counter = (edge[:, None] & 0xFFFFFFFF, edge[:, None] >> 32, group, 0)
    words = philox(counter, seed).flatten(1)[:, :heads]
    return keep_factor(words, threshold, BITS, like.dtype)


def _aggregate(rowptr: Tensor, col: Tensor, weight: Tensor, h: Tensor) -> Tensor:
    """``out[i] = sum_e weight[e] h[col[e]]``, head by head, so that nothing of E x H x F is held."""
    out = torch.empty_like(h, memory_format=torch.contiguous_format)
    for k in range(h.shape[1]):
        out[:, k] = _sparse_product(rowptr, col, weight[:, k], h[:, k].to(weight.dtype))
    return out


def _of_rows(values: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:  # [num_nodes, heads] -> [num_edges, heads]
    return torch.repeat_interleave(values, torch.diff(rowptr), dim=0, output_size=col.numel())


def _segment_reduce(values: Tensor, reduce: str, rowptr: Tensor) -> Tensor:  # [num_edges, heads] -> [num_nodes, heads]
    initial = -torch.inf if reduce == "max" else 0.0
    if values.numel() == 0:
        return values.new_full((rowptr.numel() - 1, values.shape[1]), initial)
    return torch.segment_reduce(values.contiguous(), reduce, offsets=rowptr, axis=0, initial=initial, unsafe=True)


def _divisor(row_sum: Tensor) -> Tensor:
    return row_sum.masked_fill(row_sum == 0, 1)
