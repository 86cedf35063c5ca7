"""Graph attention: scores, softmax, dropout and weighted sum of all heads in one pass over the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advkern import backend
from advkern.graph import Graph
from advkern.ops._derivatives import is_plain
from advkern.ops._schema import EagerFunction, define
from advkern.ops._seed import seed as draw_seed
from advkern.ops.gcn_aggregate import _FLOATS, _Adjacency, _adjacency, _aggregate, _edge_dot, _under_autocast
from advkern.reference import gat_attention as reference
from advkern.reference._philox import threshold as threshold_of
from advkern.reference.gcn_aggregate import accumulation_dtype


def _fwd_reference(rowptr, col, schedule, *rest):
    return reference.gat_attention(rowptr, col, *rest)


def _fwd_fake(rowptr, col, schedule, h, score_dst, score_src, *rest):
    out = torch.empty_like(h, memory_format=torch.contiguous_format)
    return out, torch.empty_like(score_dst), torch.empty_like(score_dst)


def _bwd_reference(rowptr, schedule, rowptr_t, col_t, schedule_t, perm, *rest):
    return reference.gat_attention_backward(rowptr, rowptr_t, col_t, perm, *rest)


def _bwd_fake(rowptr, schedule, rowptr_t, col_t, schedule_t, perm, h, score_dst, score_src, *rest):
    grad_h = torch.empty_like(h, memory_format=torch.contiguous_format)
    return grad_h, torch.empty_like(score_dst), torch.empty_like(score_src)


def _fwd_flops(rowptr, col, schedule, h, *rest, **options):
    return 2 * col[0] * h[1] * h[2]


def _bwd_flops(rowptr, schedule, rowptr_t, col_t, schedule_t, perm, h, *rest, **options):
    return 4 * col_t[0] * h[1] * h[2]  # a score's gradient, and the sum for grad_h


_FEATURES = "Tensor h, Tensor score_dst, Tensor score_src, Tensor? seed"
_FWD = define(
    "gat_attention_fwd",
    f"(Tensor rowptr, Tensor col, Tensor schedule, {_FEATURES}, Tensor? bias, float negative_slope, int threshold)"
    " -> (Tensor, Tensor, Tensor)",
    _fwd_reference,
    _fwd_fake,
    _fwd_flops,
)
_BWD = define(
    "gat_attention_bwd",
    "(Tensor rowptr, Tensor schedule, Tensor rowptr_t, Tensor col_t, Tensor schedule_t, Tensor perm, "
    f"{_FEATURES}, Tensor out, Tensor row_max, Tensor row_sum, Tensor grad, Tensor? grad_sum, "
    "float negative_slope, int threshold) -> (Tensor, Tensor, Tensor)",
    _bwd_reference,
    _bwd_fake,
    _bwd_flops,
)
backend.register_op("gat_attention", {"cpu": "cpu", "cuda": "cuda"})


class GatAttentionFunction(torch.autograd.Function):
    """``(out, row_max, row_sum)``, differentiable in h and both scores.

    ``row_max`` counts as a constant everywhere: what is made of it and ``row_sum`` does not depend on it. One
    derivative runs on a kernel of its own; where a derivative of the derivative may be asked for, it is composed of
    the aggregation and the edge dot product of ``gcn_aggregate``, which give derivatives of every order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(h, score_dst, score_src, seed, negative_slope, threshold, where, adjacency):
        return _FWD[where](*adjacency[:3], h, score_dst, score_src, seed, None, negative_slope, threshold)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.negative_slope, ctx.threshold, ctx.where, ctx.adjacency = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx, grad, _grad_max, grad_sum):
        h, score_dst, score_src, seed, out, row_max, row_sum = ctx.saved_tensors
        if grad is None:
            grad = torch.zeros_like(out)
        grad = grad.contiguous()
        grad_sum = None if grad_sum is None else grad_sum.contiguous()
        a = ctx.adjacency
        if is_plain(h, score_dst, score_src, grad, grad_sum):
            graph = (a.rowptr, a.schedule, a.rowptr_t, a.col_t, a.schedule_t, a.perm)
            rest = (out, row_max, row_sum, grad, grad_sum, ctx.negative_slope, ctx.threshold)
            grads = _BWD[ctx.where](*graph, h, score_dst, score_src, seed, *rest)
        else:
            delta = (grad.to(row_sum.dtype) * out.to(row_sum.dtype)).sum(2)
            if grad_sum is not None:
                delta = delta - grad_sum * row_sum
            keep = _keep(a, score_dst, seed, ctx.threshold)
            grads = _by_head(_head_backward, ctx, h, score_dst, score_src, row_max, row_sum, keep, grad, delta)
        return *grads, None, None, None, None, None


class _EagerGatAttention(EagerFunction, GatAttentionFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        GatAttentionFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4], *output)

    @staticmethod
    def jvp(ctx, h_t, dst_t, src_t, *_):
        h, score_dst, score_src, seed, _out, row_max, row_sum = ctx.saved_tensors
        keep = _keep(ctx.adjacency, score_dst, seed, ctx.threshold)
        saved = (h, score_dst, score_src, row_max, row_sum, keep)
        out_t, sum_t = _by_head(_head_jvp, ctx, *saved, h_t, dst_t, src_t)
        return out_t, torch.zeros_like(row_max), sum_t


# One head, [num_nodes] and [num_nodes, channels], in terms that can be differentiated further.


def _by_head(function: Callable[..., tuple[Tensor, ...]], ctx: Any, *tensors: Tensor | None) -> list[Tensor]:
    """Call ``function`` with each head of the tensors, and join what it returns."""
    count = next(t.shape[1] for t in tensors if t is not None)
    heads = [function(ctx, *(None if t is None else t[:, k] for t in tensors)) for k in range(count)]
    return [torch.stack(parts, 1) for parts in zip(*heads, strict=True)]


def _head_backward(ctx, h, score_dst, score_src, row_max, row_sum, keep, grad, delta):
    a, where = ctx.adjacency, ctx.where
    alpha, slope = _head_attention(ctx, score_dst, score_src, row_max, row_sum)
    weight = alpha if keep is None else alpha * keep
    dot = _edge_dot(a, grad, h, where)
    grad_score = (weight * dot - alpha * _of_rows(a, delta, where)) * slope
    grad_h = _aggregate(a.transpose(), grad.contiguous(), where, weight[a.perm])
    return grad_h, _sum_of_rows(a, grad_score, where), _sum_of_rows(a.transpose(), grad_score[a.perm], where)


def _head_jvp(ctx, h, score_dst, score_src, row_max, row_sum, keep, h_t, dst_t, src_t):
    a, where = ctx.adjacency, ctx.where
    alpha, slope = _head_attention(ctx, score_dst, score_src, row_max, row_sum)
    weight = alpha if keep is None else alpha * keep
    zeros = torch.zeros_like(row_sum)
    score_t = _pair_sum(a, zeros if dst_t is None else dst_t, zeros if src_t is None else src_t, where) * slope
    mean_t = _sum_of_rows(a, alpha * score_t, where)
    weight_t = weight * (score_t - _of_rows(a, mean_t, where))
    out_t = _aggregate(a, h.contiguous(), where, weight_t)
    if h_t is not None:
        out_t = out_t + _aggregate(a, h_t.contiguous(), where, weight)
    return out_t, row_sum * mean_t


def _head_attention(ctx, score_dst, score_src, row_max, row_sum):
    """The attention of each edge, and the slope of its leaky ReLU there, ``[num_edges]`` both."""
    a, where = ctx.adjacency, ctx.where
    score = _pair_sum(a, score_dst, score_src, where)
    slope = torch.where(score > 0, torch.ones_like(score), ctx.negative_slope)
    weight = torch.exp(score * slope - _of_rows(a, row_max.detach(), where))
    return weight * _of_rows(a, 1 / row_sum.masked_fill(row_sum == 0, 1), where), slope


def _pair_sum(adjacency: _Adjacency, of_rows: Tensor, of_cols: Tensor, where: str) -> Tensor:  # [num_edges]
    """``of_rows[i] + of_cols[j]``: the edge dot product of two-channel matrices."""
    one = torch.ones_like(of_rows)
    return _edge_dot(adjacency, torch.stack([of_rows, one], 1), torch.stack([one, of_cols], 1), where)


def _of_rows(adjacency: _Adjacency, values: Tensor, where: str) -> Tensor:  # [num_nodes] -> [num_edges]
    return _edge_dot(adjacency, values[:, None], torch.ones_like(values)[:, None], where)


def _sum_of_rows(adjacency: _Adjacency, values: Tensor, where: str) -> Tensor:  # [num_edges] -> [num_nodes]
    ones = values.new_ones(adjacency.rowptr.shape[0] - 1, 1)
    return _aggregate(adjacency, ones, where, values)[:, 0]


def _keep(adjacency: _Adjacency, like: Tensor, seed: Tensor | None, threshold: int) -> Tensor | None:
    """What dropout multiplies each edge and head with, ``[num_edges, heads]``, or None for ones."""
    if seed is None:
        return None
    edges = torch.arange(adjacency.col.shape[0], device=like.device)
    factor = reference.dropout_factor(like, edges, seed, threshold)
    return factor if isinstance(factor, Tensor) else None  # a probability so small that nothing is dropped


def gat_attention(
    graph: Graph,  # N nodes, E edges
    h: Tensor,  # [num_nodes, heads, channels]
    score_dst: Tensor,  # [num_nodes, heads]
    score_src: Tensor,  # [num_nodes, heads]
    *,
    negative_slope: float = 0.2,
    dropout: float = 0.0,
    training: bool = False,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # [num_nodes, heads, channels], and [num_nodes, heads]
    """Let each node attend to its neighbours, as a graph attention network does (Veličković et al. 2018,
    arXiv:1710.10903).

    ``out[i] = sum_{e in row i} keep[e] * alpha[e] * h[j]`` with ``j = col[e]`` and ``alpha = softmax`` over the row of
    ``leaky_relu(score_dst[i] + score_src[j])``, each head by itself; ``keep`` is dropout's factor, 1 without it.

    A row without edges, or one whose scores are all -inf, gives 0. Every stored edge counts, multiple ones too; edge
    weights are not looked at. Differentiable any number of times in ``h`` and both scores. Bitwise the same run after
    run and on any number of threads. Memory: O(N H F) and, in the backward, a scratch of E H; nothing of E H F. Plain
    PyTorch takes O(E F) more.

    Args:
        graph: row *i* attends to the columns it stores.
        h: float16, bfloat16, float32 or float64; half types are summed in float32. Under autocast ``h`` takes the
            autocast type.
        score_dst, score_src: of the node that attends and of the one attended to, taken in float32 (float64 if ``h``
            is), under autocast too.
        negative_slope: of the leaky ReLU.
        dropout: the probability in ``[0, 1]`` of dropping an edge of a head in training; the others are scaled up. The
            mask follows from one random seed by counter (Philox), so it is the same on every backend and never stored.
        training: whether to drop at all.
        return_lse: also return the log-sum-exp of each row's scores, -inf for a row without edges.

    A graph that was damaged after its construction, with ids or offsets out of range, is a RuntimeError on the CPU. On
    CUDA, where an error would need a synchronisation, the rows concerned are NaN; nothing foreign is read.

    Raises:
        ValueError: a wrong shape, type, device or probability.
        TypeError: an argument of another kind.
    """
    out, row_max, row_sum = attend(graph, h, score_dst, score_src, negative_slope, dropout, training)
    if not return_lse:
        return out
    empty = row_sum == 0
    return out, (row_max.detach() + row_sum.masked_fill(empty, 1).log()).masked_fill(empty, -torch.inf)


def attend(
    graph: Graph,
    h: Tensor,
    score_dst: Tensor,
    score_src: Tensor,
    negative_slope: float,
    dropout: float,
    training: bool,
    bias: Tensor | None = None,  # [heads, channels]
) -> tuple[Tensor, Tensor, Tensor]:
    """The op plus ``bias``, with each row's greatest score and its sum of ``exp(score - row_max)``."""
    _check(graph, h, score_dst, score_src, dropout)
    h = _under_autocast(h)
    acc = accumulation_dtype(h.dtype)
    tensors = (h.contiguous(), score_dst.to(acc).contiguous(), score_src.to(acc).contiguous())
    threshold = threshold_of(dropout, reference.BITS) if training else 0
    seed = draw_seed(h) if threshold else None
    where = backend.choose("gat_attention", h.device.type)
    plain = is_plain(*tensors)
    adjacency = _adjacency(graph, with_transpose=not plain)
    if plain:  # the kernel adds a bias where that gives the bits of the sum below: in the type that it sums in
        inside = bias if bias is not None and bias.dtype == h.dtype == acc and is_plain(bias) else None
        added = None if inside is None else inside.contiguous().flatten()
        out, *of_rows = _FWD[where](*adjacency[:3], *tensors, seed, added, negative_slope, threshold)
        bias = None if inside is not None else bias
    else:
        function = GatAttentionFunction if torch.compiler.is_compiling() else _EagerGatAttention
        out, *of_rows = function.apply(*tensors, seed, negative_slope, threshold, where, adjacency)
    return (out if bias is None else out + bias), *of_rows


def edge_attention(
    graph: Graph, score_dst: Tensor, score_src: Tensor, row_max: Tensor, row_sum: Tensor, negative_slope: float
) -> Tensor:  # [num_edges, heads]
    """The attention of every edge in CSR order, before dropout, from the scores and what :func:`attend` gave."""
    acc = row_sum.dtype
    row, col = graph.row.long(), graph.col.long()
    score = torch.nn.functional.leaky_relu(score_dst.to(acc)[row] + score_src.to(acc)[col], negative_slope)
    return torch.exp(score - row_max.detach()[row]) / row_sum.masked_fill(row_sum == 0, 1)[row]


def _check(graph: Graph, h: Tensor, score_dst: Tensor, score_src: Tensor, dropout: float) -> None:
    if not isinstance(graph, Graph):
        raise TypeError(f"graph: expected an advkern.Graph, got {type(graph).__name__}")
    for name, value in (("h", h), ("score_dst", score_dst), ("score_src", score_src)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if not value.is_floating_point() or value.dtype not in _FLOATS:
            raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {value.dtype}")
        if value.device != graph.device:
            raise ValueError(f"{name}: expected a tensor on {graph.device}, as the graph, got one on {value.device}")
    if h.dim() != 3 or h.shape[0] != graph.num_nodes or h.shape[1] == 0:
        raise ValueError(
            f"h: expected [num_nodes = {graph.num_nodes}, heads of at least 1, channels], got shape {tuple(h.shape)}"
        )
    for name, value in (("score_dst", score_dst), ("score_src", score_src)):
        if value.shape != h.shape[:2]:
            raise ValueError(
                f"{name}: expected [num_nodes, heads] = {list(h.shape[:2])}, as h, got shape {tuple(value.shape)}"
            )
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout}")
