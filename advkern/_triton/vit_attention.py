"""``vit_attention`` in Triton: ``out[i] = sum_j softmax_j(scale <q[i], k[j]>) v[j]`` and its gradient by recomputation.

Forward: a program a block of queries, which runs over whole blocks of keys and a narrow tail (a class token beside
whole blocks costs 16 keys, not a block), with an online softmax in base 2. Backward: of half types, dims up to 64 and
lengths up to ONE_PROGRAM_LENGTH a program a head, the head's queries and their gradient on chip, while blocks of keys
go by; else one pass for the gradient of q and one for k and v. Nothing is added atomically.

Dao et al. 2022 (arXiv:2205.14135), Dao 2023 (arXiv:2307.08691).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TAIL = tl.constexpr(16)  # keys, or queries, of a block beyond the whole ones; the least that tl.dot takes
TAIL_KEYS = tl.constexpr(32)  # of a step of the queries' tail, where that has a loop of its own
ONE_PROGRAM_LENGTH = 257  # up to which a head's backward is one program: a tile of 256 queries and a tail

# (BLOCK_M, BLOCK_N, warps, stages) by form, half or full precision, and padded dim. With strides of whole 16 elements
# none spills on sm_80 and sm_90 under Triton 3.6 and 3.9: advkern/_triton/instances.py prints them, and
# tests/test_triton.py holds dim 64 in every run and the others at full length; the reasons are in docs/performance.md.
# Float32 is multiplied without tensor cores, from registers.
_NARROW = (16, 32)
TILES = {
    ("fwd", "half"): dict.fromkeys((*_NARROW, 64), (64, 64, 4, 2)) | {128: (64, 32, 8, 2)},
    ("fwd", "full"): dict.fromkeys((32, 64), (32, 32, 8, 1)) | {16: (32, 32, 4, 1), 128: (16, 16, 8, 1)},
    ("bwd_q", "half"): dict.fromkeys((*_NARROW, 64), (64, 32, 4, 2)) | {128: (64, 32, 8, 1)},
    ("bwd_q", "full"): dict.fromkeys((32, 64), (32, 32, 8, 1)) | {16: (32, 32, 4, 1), 128: (16, 16, 8, 1)},
    ("bwd_kv", "half"): dict.fromkeys((*_NARROW, 64), (16, 64, 4, 2)) | {128: (32, 32, 8, 2)},
    ("bwd_kv", "full"): dict.fromkeys((*_NARROW, 64), (32, 32, 8, 1)) | {128: (16, 16, 8, 1)},
}
ONE_PROGRAM_TILES = {  # the same but BLOCK_M, by queries in the tile, and whether a tail goes beyond it
    (64, False): (32, 4, 1),
    (64, True): (16, 4, 1),
    (128, False): (32, 8, 1),
    (128, True): (16, 8, 1),
    (256, False): (16, 8, 1),
    (256, True): (16, 8, 1),
}
# Whether the one-program form's loop may have what it loads again and again (operands of products, from shared memory)
# loaded before it: Triton 3.6 and 3.8 then spill at 257 positions, and 3.9 spills where it may not.
HOIST = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
_HALF = (torch.bfloat16, torch.float16)

# fmt: off
# (a signature of twenty names in twenty lines hides the kernel)


@triton.jit
def _load_rows(base, row_stride, first, length, dim, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):  # [ROWS, BLOCK_D]
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, BLOCK_D)
    inside = (rows < length)[:, None] & (dims < dim)[None, :]
    return tl.load(base + rows[:, None].to(tl.int64) * row_stride + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _store_rows(base, row_stride, first, length, dim, values, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, BLOCK_D)
    inside = (rows < length)[:, None] & (dims < dim)[None, :]
    place = base + rows[:, None].to(tl.int64) * row_stride + dims[None, :]
    tl.store(place, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _dot(a, b, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    if UPCAST:  # the interpreter multiplies bfloat16 wrongly
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def _scores(
    q, k, scale, hidden, first, length,
    WIDTH: tl.constexpr, CHECKED: tl.constexpr, MASKED: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # [BLOCK_M, WIDTH], in base 2
    scores = _dot(q, tl.trans(k), ACC, PRECISION, UPCAST) * (scale * LOG2_E)
    keys = first + tl.arange(0, WIDTH)
    if CHECKED:
        scores = tl.where((keys < length)[None, :], scores, -float("inf"))
    if MASKED:
        ignored = tl.load(hidden + keys, mask=keys < length, other=1)
        scores = tl.where((ignored != 0)[None, :], -float("inf"), scores)
    return scores


@triton.jit
def _keep(
    seed, head_index, queries, first, threshold, kept, ROWS: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr
):
    """0 or ``kept``, [ROWS, WIDTH]: 16 bits each of the words of counter (key // 8, query, head, 0), low first."""
    groups = first // 8 + tl.arange(0, WIDTH // 8)
    zeros = tl.zeros([ROWS, WIDTH // 8], dtype=tl.int32)
    w0, w1, w2, w3 = tl.philox(seed, zeros + groups[None, :], zeros + queries[:, None], zeros + head_index, zeros)
    # a join adds the lowest bit of the key last: of the key's three bits the upper two choose the word
    low = tl.join(tl.join(w0 & 0xFFFF, w2 & 0xFFFF), tl.join(w1 & 0xFFFF, w3 & 0xFFFF))
    high = tl.join(tl.join(w0 >> 16, w2 >> 16), tl.join(w1 >> 16, w3 >> 16))
    random = tl.reshape(tl.join(low, high), [ROWS, WIDTH]).to(tl.int32)
    return (random >= threshold).to(ACC) * kept


@triton.jit
def _attend(
    acc, most, total, q, k_base, k_row, v_base, v_row, hidden, seed, head_index, queries, first, length, dim, scale,
    threshold, kept, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, CHECKED: tl.constexpr,
    MASKED: tl.constexpr, DROPPED: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    """Go on with keys [first, first + WIDTH): the sums, the largest score so far and the sum of the weights."""
    k = _load_rows(k_base, k_row, first, length, dim, WIDTH, BLOCK_D)
    v = _load_rows(v_base, v_row, first, length, dim, WIDTH, BLOCK_D)
    scores = _scores(q, k, scale, hidden, first, length, WIDTH, CHECKED, MASKED, ACC, PRECISION, UPCAST)
    greatest = tl.maximum(most, tl.max(scores, 1))
    shift = tl.where(greatest == -float("inf"), 0.0, greatest)  # a row without keys: exp2(-inf - 0) = 0
    weights = tl.exp2(scores - shift[:, None])
    correction = tl.exp2(most - shift)
    total = total * correction + tl.sum(weights, 1)
    if DROPPED:
        weights = weights * _keep(seed, head_index, queries, first, threshold, kept, ROWS, WIDTH, ACC)
    acc = acc * correction[:, None] + _dot(weights.to(v.dtype), v, ACC, PRECISION, UPCAST)
    return acc, greatest, total


@triton.jit
def vit_attention_fwd_kernel(
    q, k, v, hidden, seed, out, lse,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    length, heads, dim, scale, threshold, kept,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr, DROPPED: tl.constexpr,
    WITH_LSE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    blocks = tl.cdiv(length, BLOCK_M)
    head_index = tl.program_id(0) // blocks
    first_query = tl.program_id(0) % blocks * BLOCK_M
    batch, head = (head_index // heads).to(tl.int64), head_index % heads
    queries = first_query + tl.arange(0, BLOCK_M)
    seed_value = tl.load(seed) if DROPPED else 0
    q_tile = _load_rows(q + batch * q_batch + head * q_head, q_row, first_query, length, dim, BLOCK_M, BLOCK_D)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    hidden += batch * length

    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=ACC)
    most = tl.full([BLOCK_M], -float("inf"), dtype=ACC)
    total = tl.zeros([BLOCK_M], dtype=ACC)
    whole = length // BLOCK_N * BLOCK_N
    for first in range(0, whole, BLOCK_N):
        acc, most, total = _attend(
            acc, most, total, q_tile, k, k_row, v, v_row, hidden, seed_value, head_index, queries, first, length, dim,
            scale, threshold, kept, BLOCK_M, BLOCK_N, BLOCK_D, False, MASKED, DROPPED, ACC, PRECISION, UPCAST,
        )
    for first in range(whole, length, TAIL):
        acc, most, total = _attend(
            acc, most, total, q_tile, k, k_row, v, v_row, hidden, seed_value, head_index, queries, first, length, dim,
            scale, threshold, kept, BLOCK_M, TAIL, BLOCK_D, True, MASKED, DROPPED, ACC, PRECISION, UPCAST,
        )
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    rows = heads * dim
    _store_rows(out + batch * length * rows + head * dim, rows, first_query, length, dim, acc, BLOCK_M, BLOCK_D)
    if WITH_LSE:
        place = lse + head_index.to(tl.int64) * length + queries
        tl.store(place, ((most + tl.log2(total)) * LN_2).to(lse.dtype.element_ty), mask=queries < length)


@triton.jit
def _load_queries(
    q_base, q_row, grad_base, out_base, rows, lse, grad_lse, first, length, dim,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, WITH_GRAD_LSE: tl.constexpr, ACC: tl.constexpr,
):
    """A block of queries: q, grad_out, and by row the shift of its scores and delta = <grad_out, out> - grad_lse."""
    queries = first + tl.arange(0, ROWS)
    q = _load_rows(q_base, q_row, first, length, dim, ROWS, BLOCK_D)
    grad = _load_rows(grad_base, rows, first, length, dim, ROWS, BLOCK_D)
    out = _load_rows(out_base, rows, first, length, dim, ROWS, BLOCK_D)
    shift = tl.load(lse + queries, mask=queries < length, other=0.0).to(ACC)
    shift = tl.where(shift == -float("inf"), 0.0, shift) * LOG2_E
    delta = tl.sum(grad.to(ACC) * out.to(ACC), 1)
    if WITH_GRAD_LSE:
        delta -= tl.load(grad_lse + queries, mask=queries < length, other=0.0).to(ACC)
    return q, grad, shift, delta, queries


@triton.jit
def _derive(
    q, grad, shift, delta, queries, k, v, hidden, seed, head_index, first, length, scale, threshold, kept,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, CHECKED: tl.constexpr, MASKED: tl.constexpr, DROPPED: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    """The weights as dropout leaves them, and the gradient of the scores, of a block of queries and one of keys."""
    scores = _scores(q, k, scale, hidden, first, length, WIDTH, CHECKED, MASKED, ACC, PRECISION, UPCAST)
    weights = tl.exp2(scores - shift[:, None])
    grad_weights = _dot(grad, tl.trans(v), ACC, PRECISION, UPCAST)
    left = weights
    if DROPPED:
        left = weights * _keep(seed, head_index, queries, first, threshold, kept, ROWS, WIDTH, ACC)
    grad_scores = left * grad_weights - weights * delta[:, None]
    return left.to(q.dtype), grad_scores.to(q.dtype)


@triton.jit
def _own_places(
    q, k, v, hidden, out, lse, grad_out, grad_lse, grad, q_batch, q_head, k_batch, k_head, v_batch, v_head,
    head_index, length, heads, dim,
):
    """Where each tensor of a head begins; grad is [batch, length, 3, heads, dim]."""
    batch, head = (head_index // heads).to(tl.int64), head_index % heads
    place = batch * length * heads * dim + head * dim
    line = head_index.to(tl.int64) * length
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    grad += batch * length * 3 * heads * dim + head * dim
    return q, k, v, hidden + batch * length, out + place, lse + line, grad_out + place, grad_lse + line, grad


@triton.jit
def vit_attention_bwd_one_kernel(
    q, k, v, hidden, seed, out, lse, grad_out, grad_lse, grad,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    length, heads, dim, scale, threshold, kept,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TAIL_WITHIN: tl.constexpr,
    TAIL_AFTER: tl.constexpr, HOIST: tl.constexpr, MASKED: tl.constexpr, DROPPED: tl.constexpr,
    WITH_GRAD_LSE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    head_index = tl.program_id(0)
    rows = heads * dim
    seed_value = tl.load(seed) if DROPPED else 0
    q_own, k_own, v_own, hidden_own, out_own, lse_own, grad_out_own, grad_lse_own, grad_own = _own_places(
        q, k, v, hidden, out, lse, grad_out, grad_lse, grad, q_batch, q_head, k_batch, k_head, v_batch, v_head,
        head_index, length, heads, dim,
    )
    q_tile, grad_tile, shift, delta, queries = _load_queries(
        q_own, q_row, grad_out_own, out_own, rows, lse_own, grad_lse_own, 0, length, dim, BLOCK_M, BLOCK_D,
        WITH_GRAD_LSE, ACC,
    )
    grad_q = tl.zeros([BLOCK_M, BLOCK_D], dtype=ACC)
    if TAIL_WITHIN:
        q_tail, grad_tail, shift_tail, delta_tail, queries_tail = _load_queries(
            q_own, q_row, grad_out_own, out_own, rows, lse_own, grad_lse_own, BLOCK_M, length, dim, TAIL, BLOCK_D,
            WITH_GRAD_LSE, ACC,
        )
        grad_q_tail = tl.zeros([TAIL, BLOCK_D], dtype=ACC)
    for first in tl.range(0, length, BLOCK_N, disable_licm=not HOIST):
        k_tile = _load_rows(k_own, k_row, first, length, dim, BLOCK_N, BLOCK_D)
        v_tile = _load_rows(v_own, v_row, first, length, dim, BLOCK_N, BLOCK_D)
        weights, grad_scores = _derive(
            q_tile, grad_tile, shift, delta, queries, k_tile, v_tile, hidden_own, seed_value, head_index, first, length,
            scale, threshold, kept, BLOCK_M, BLOCK_N, True, MASKED, DROPPED, ACC, PRECISION, UPCAST,
        )
        grad_v = _dot(tl.trans(weights), grad_tile, ACC, PRECISION, UPCAST)
        grad_k = _dot(tl.trans(grad_scores), q_tile, ACC, PRECISION, UPCAST)
        grad_q += _dot(grad_scores, k_tile, ACC, PRECISION, UPCAST)
        if TAIL_WITHIN:
            weights, grad_scores = _derive(
                q_tail, grad_tail, shift_tail, delta_tail, queries_tail, k_tile, v_tile, hidden_own, seed_value,
                head_index, first, length, scale, threshold, kept, TAIL, BLOCK_N, True, MASKED, DROPPED, ACC, PRECISION,
                UPCAST,
            )
            grad_v += _dot(tl.trans(weights), grad_tail, ACC, PRECISION, UPCAST)
            grad_k += _dot(tl.trans(grad_scores), q_tail, ACC, PRECISION, UPCAST)
            grad_q_tail += _dot(grad_scores, k_tile, ACC, PRECISION, UPCAST)
        _store_rows(grad_own + rows, 3 * rows, first, length, dim, grad_k * scale, BLOCK_N, BLOCK_D)
        _store_rows(grad_own + 2 * rows, 3 * rows, first, length, dim, grad_v, BLOCK_N, BLOCK_D)
    _store_rows(grad_own, 3 * rows, 0, length, dim, grad_q * scale, BLOCK_M, BLOCK_D)
    if TAIL_WITHIN:
        _store_rows(grad_own, 3 * rows, BLOCK_M, length, dim, grad_q_tail * scale, TAIL, BLOCK_D)
    if TAIL_AFTER:
        tl.debug_barrier()  # from here on read what other threads have stored
        # all places anew, by way of a 0 that the compiler does not know: it would hold them through the loop above
        head_index += (length < 0).to(tl.int32)
        seed_value = tl.load(seed) if DROPPED else 0
        q_own, k_own, v_own, hidden_own, out_own, lse_own, grad_out_own, grad_lse_own, grad_own = _own_places(
            q, k, v, hidden, out, lse, grad_out, grad_lse, grad, q_batch, q_head, k_batch, k_head, v_batch, v_head,
            head_index, length, heads, dim,
        )
        q_tail, grad_tail, shift_tail, delta_tail, queries_tail = _load_queries(
            q_own, q_row, grad_out_own, out_own, rows, lse_own, grad_lse_own, BLOCK_M, length, dim, TAIL, BLOCK_D,
            WITH_GRAD_LSE, ACC,
        )
        grad_q_tail = tl.zeros([TAIL, BLOCK_D], dtype=ACC)
        for first in tl.range(0, length, TAIL_KEYS, disable_licm=True):
            k_tile = _load_rows(k_own, k_row, first, length, dim, TAIL_KEYS, BLOCK_D)
            v_tile = _load_rows(v_own, v_row, first, length, dim, TAIL_KEYS, BLOCK_D)
            grad_k = _load_rows(grad_own + rows, 3 * rows, first, length, dim, TAIL_KEYS, BLOCK_D)
            grad_v = _load_rows(grad_own + 2 * rows, 3 * rows, first, length, dim, TAIL_KEYS, BLOCK_D)
            weights, grad_scores = _derive(
                q_tail, grad_tail, shift_tail, delta_tail, queries_tail, k_tile, v_tile, hidden_own, seed_value,
                head_index, first, length, scale, threshold, kept, TAIL, TAIL_KEYS, True, MASKED, DROPPED, ACC,
                PRECISION, UPCAST,
            )
            more_v = _dot(tl.trans(weights), grad_tail, ACC, PRECISION, UPCAST)
            more_k = _dot(tl.trans(grad_scores), q_tail, ACC, PRECISION, UPCAST) * scale
            grad_q_tail += _dot(grad_scores, k_tile, ACC, PRECISION, UPCAST)
            _store_rows(grad_own + rows, 3 * rows, first, length, dim, more_k + grad_k.to(ACC), TAIL_KEYS, BLOCK_D)
            _store_rows(grad_own + 2 * rows, 3 * rows, first, length, dim, more_v + grad_v.to(ACC), TAIL_KEYS, BLOCK_D)
        _store_rows(grad_own, 3 * rows, BLOCK_M, length, dim, grad_q_tail * scale, TAIL, BLOCK_D)


@triton.jit
def _add_grad_q(
    grad_q, q, grad, shift, delta, queries, k_base, k_row, v_base, v_row, hidden, seed, head_index, first, length, dim,
    scale, threshold, kept, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, CHECKED: tl.constexpr,
    MASKED: tl.constexpr, DROPPED: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    k = _load_rows(k_base, k_row, first, length, dim, WIDTH, BLOCK_D)
    v = _load_rows(v_base, v_row, first, length, dim, WIDTH, BLOCK_D)
    _, grad_scores = _derive(
        q, grad, shift, delta, queries, k, v, hidden, seed, head_index, first, length, scale, threshold, kept, ROWS,
        WIDTH, CHECKED, MASKED, DROPPED, ACC, PRECISION, UPCAST,
    )
    return grad_q + _dot(grad_scores, k, ACC, PRECISION, UPCAST)


@triton.jit
def vit_attention_bwd_q_kernel(
    q, k, v, hidden, seed, out, lse, grad_out, grad_lse, grad,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    length, heads, dim, scale, threshold, kept,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr, DROPPED: tl.constexpr,
    WITH_GRAD_LSE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    blocks = tl.cdiv(length, BLOCK_M)
    head_index = tl.program_id(0) // blocks
    first_query = tl.program_id(0) % blocks * BLOCK_M
    batch, head = (head_index // heads).to(tl.int64), head_index % heads
    rows = heads * dim
    seed_value = tl.load(seed) if DROPPED else 0
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    hidden += batch * length
    place = batch * length * rows + head * dim
    line = head_index.to(tl.int64) * length
    q_tile, grad_tile, shift, delta, queries = _load_queries(
        q + batch * q_batch + head * q_head, q_row, grad_out + place, out + place, rows, lse + line, grad_lse + line,
        first_query, length, dim, BLOCK_M, BLOCK_D, WITH_GRAD_LSE, ACC,
    )
    grad_q = tl.zeros([BLOCK_M, BLOCK_D], dtype=ACC)
    whole = length // BLOCK_N * BLOCK_N
    for first in range(0, whole, BLOCK_N):
        grad_q = _add_grad_q(
            grad_q, q_tile, grad_tile, shift, delta, queries, k, k_row, v, v_row, hidden, seed_value, head_index, first,
            length, dim, scale, threshold, kept, BLOCK_M, BLOCK_N, BLOCK_D, False, MASKED, DROPPED, ACC, PRECISION,
            UPCAST,
        )
    for first in range(whole, length, TAIL):
        grad_q = _add_grad_q(
            grad_q, q_tile, grad_tile, shift, delta, queries, k, k_row, v, v_row, hidden, seed_value, head_index, first,
            length, dim, scale, threshold, kept, BLOCK_M, TAIL, BLOCK_D, True, MASKED, DROPPED, ACC, PRECISION, UPCAST,
        )
    place = grad + batch * length * 3 * rows + head * dim
    _store_rows(place, 3 * rows, first_query, length, dim, grad_q * scale, BLOCK_M, BLOCK_D)


@triton.jit
def vit_attention_bwd_kv_kernel(
    q, k, v, hidden, seed, out, lse, grad_out, grad_lse, grad,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    length, heads, dim, scale, threshold, kept,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr, DROPPED: tl.constexpr,
    WITH_GRAD_LSE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):
    blocks = tl.cdiv(length, BLOCK_N)
    head_index = tl.program_id(0) // blocks
    first_key = tl.program_id(0) % blocks * BLOCK_N
    batch, head = (head_index // heads).to(tl.int64), head_index % heads
    rows = heads * dim
    seed_value = tl.load(seed) if DROPPED else 0
    q += batch * q_batch + head * q_head
    hidden += batch * length
    place = batch * length * rows + head * dim
    line = head_index.to(tl.int64) * length
    k_tile = _load_rows(k + batch * k_batch + head * k_head, k_row, first_key, length, dim, BLOCK_N, BLOCK_D)
    v_tile = _load_rows(v + batch * v_batch + head * v_head, v_row, first_key, length, dim, BLOCK_N, BLOCK_D)
    grad_k = tl.zeros([BLOCK_N, BLOCK_D], dtype=ACC)
    grad_v = tl.zeros([BLOCK_N, BLOCK_D], dtype=ACC)
    for first in range(0, length, BLOCK_M):
        q_tile, grad_tile, shift, delta, queries = _load_queries(
            q, q_row, grad_out + place, out + place, rows, lse + line, grad_lse + line, first, length, dim, BLOCK_M,
            BLOCK_D, WITH_GRAD_LSE, ACC,
        )
        weights, grad_scores = _derive(
            q_tile, grad_tile, shift, delta, queries, k_tile, v_tile, hidden, seed_value, head_index, first_key, length,
            scale, threshold, kept, BLOCK_M, BLOCK_N, True, MASKED, DROPPED, ACC, PRECISION, UPCAST,
        )
        grad_v += _dot(tl.trans(weights), grad_tile, ACC, PRECISION, UPCAST)
        grad_k += _dot(tl.trans(grad_scores), q_tile, ACC, PRECISION, UPCAST)
    target = grad + batch * length * 3 * rows + head * dim
    _store_rows(target + rows, 3 * rows, first_key, length, dim, grad_k * scale, BLOCK_N, BLOCK_D)
    _store_rows(target + 2 * rows, 3 * rows, first_key, length, dim, grad_v, BLOCK_N, BLOCK_D)


# fmt: on

KERNELS = {
    "fwd": vit_attention_fwd_kernel,
    "bwd_one": vit_attention_bwd_one_kernel,
    "bwd_q": vit_attention_bwd_q_kernel,
    "bwd_kv": vit_attention_bwd_kv_kernel,
}
ACC_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float16: tl.float32,
}


def instance(form: str, length: int, dim: int, dtype: torch.dtype, tf32: bool = False) -> tuple[dict[str, Any], ...]:
    """The compile-time arguments and the launch options of a form of the kernel for heads of that size."""
    block_d = max(16, triton.next_power_of_2(dim))
    kind = "half" if dtype in _HALF else "full"
    constants = {"BLOCK_D": block_d, "ACC": ACC_TYPES[dtype]}
    constants |= {"PRECISION": "tf32" if tf32 else "ieee", "UPCAST": INTERPRETED and dtype == torch.bfloat16}
    if form == "bwd_one":  # all queries in one tile of a power of two, but for few (a class token) beyond it
        below = triton.next_power_of_2(length) // 2
        tail = 64 <= below < length <= below + TAIL.value
        block_m = below if tail else max(16, triton.next_power_of_2(length))
        block_n, warps, stages = ONE_PROGRAM_TILES[max(64, block_m), tail]
        if block_d == 16 and block_m == 256:
            block_n = 32
        constants |= {"TAIL_WITHIN": tail and block_m < 256, "TAIL_AFTER": tail and block_m >= 256, "HOIST": HOIST}
    else:
        block_m, block_n, warps, stages = TILES[form, kind][block_d]
    constants |= {"BLOCK_M": block_m, "BLOCK_N": block_n}
    return constants, {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def vit_attention_fwd(
    q: Tensor,  # [batch, length, heads, dim]
    k: Tensor,  # [batch, length, heads, dim]
    v: Tensor,  # [batch, length, heads, dim]
    key_padding_mask: Tensor | None,  # [batch, length]
    seed: Tensor | None,  # [1]
    scale: float,
    dropout: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:  # [batch, length, heads, dim], [batch, heads, length]
    """Launch the forward."""
    batch, length, heads, _ = q.shape
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, length) if with_lse else (0,), dtype=acc, device=q.device)
    own = {"WITH_LSE": with_lse}
    _launch("fwd", q, k, v, key_padding_mask, seed, scale, dropout, (out, lse), own)
    return out, lse


def vit_attention_bwd(
    q: Tensor,  # [batch, length, heads, dim]
    k: Tensor,  # [batch, length, heads, dim]
    v: Tensor,  # [batch, length, heads, dim]
    out: Tensor,  # [batch, length, heads, dim]
    lse: Tensor,  # [batch, heads, length]
    grad_out: Tensor,  # [batch, length, heads, dim]
    grad_lse: Tensor | None,  # [batch, heads, length]
    key_padding_mask: Tensor | None,  # [batch, length]
    seed: Tensor | None,  # [1]
    scale: float,
    dropout: float,
) -> Tensor:  # [batch, length, 3, heads, dim]
    """Launch the backward, in one program a head or in two passes."""
    batch, length, heads, dim = q.shape
    grad = torch.empty((batch, length, 3, heads, dim), dtype=q.dtype, device=q.device)
    own = {"WITH_GRAD_LSE": grad_lse is not None}
    lse = lse.contiguous()
    grad_lse = lse if grad_lse is None else grad_lse.contiguous()
    tensors = (out.contiguous(), lse, grad_out.contiguous(), grad_lse, grad)
    one_program = length <= ONE_PROGRAM_LENGTH and dim <= 64 and (q.dtype in _HALF or INTERPRETED)
    for form in ("bwd_one",) if one_program else ("bwd_q", "bwd_kv"):
        _launch(form, q, k, v, key_padding_mask, seed, scale, dropout, tensors, own)
    return grad


def _launch(form, q, k, v, key_padding_mask, seed, scale, dropout, tensors, own) -> None:
    batch, length, heads, dim = q.shape
    if not q.numel():
        return
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    tf32 = q.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    constants, options = instance(form, length, dim, q.dtype, tf32)
    threshold = round(dropout * 2**16)
    kept = 2**16 / (2**16 - threshold) if threshold < 2**16 else 0.0
    constants |= own | {"MASKED": key_padding_mask is not None, "DROPPED": seed is not None}
    rows = {"fwd": "BLOCK_M", "bwd_q": "BLOCK_M", "bwd_kv": "BLOCK_N"}.get(form)
    grid = (batch * heads * (triton.cdiv(length, constants[rows]) if rows else 1),)
    hidden = q if key_padding_mask is None else key_padding_mask.view(torch.uint8)
    strides = [t.stride(axis) for t in (q, k, v) for axis in (0, 1, 2)]
    arguments = (q, k, v, hidden, q if seed is None else seed, *tensors, *strides, length, heads, dim)
    KERNELS[form][grid](*arguments, scale, threshold, kept, **constants, **options)
