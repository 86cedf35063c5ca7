// SPDX-License-Identifier: MIT
// out[i] = sum_j softmax_j(scale <q[i], k[j]>) v[j], a head at a time, and its gradient by recomputation.
// K transposed and V are packed once a head; then a block of queries meets a chunk of keys: products in register
// tiles, softmax by rows over the chunk, online across chunks. Torch-free; included once per instruction set.
#ifndef ADVKERN_VIT_ATTENTION_CPU_H
#define ADVKERN_VIT_ATTENTION_CPU_H
namespace advkern {

// A tensor [batch, length, heads, dim] by its strides; that of dim is 1.
template <typename scalar_t>
struct HeadsView {
  scalar_t* data;
  int64_t batch, row, head;
  scalar_t* at(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};

template <typename scalar_t>
struct VitAttentionArgs {
  HeadsView<const scalar_t> q, k, v;
  const bool* hidden;  // [batch, length] keys to ignore, or null
  int64_t batch, length, heads, dim;
  acc_of<scalar_t> scale;
  const int64_t* seed;    // of the dropout, or null for none
  int32_t dropped;        // a weight is dropped whose random 16 bits are below it
  acc_of<scalar_t> kept;  // the factor of the others
};

template <typename scalar_t>
struct VitAttentionOut {
  HeadsView<scalar_t> out;
  acc_of<scalar_t>* lse;  // [batch, heads, length] or null
};

template <typename scalar_t>
struct VitAttentionGrads {
  HeadsView<const scalar_t> out, grad_out;
  const acc_of<scalar_t>* lse;       // [batch, heads, length]
  const acc_of<scalar_t>* grad_lse;  // [batch, heads, length] or null
  HeadsView<scalar_t> grad_q, grad_k, grad_v;
};

constexpr int64_t kVitQueryBlock = 48;  // queries that meet a chunk together
constexpr int64_t kVitKeyChunk = 640;   // keys whose scores are held for them: ViT's usual lengths need one chunk

}  // namespace advkern
#endif

namespace advkern::ADVKERN_ISA {

#include "common/vec.h"

#include "common/tile.h"

#include "common/pack.h"
#include "common/vec_math.h"
#include "common/vec_philox.h"
#include "common/vec_rows.h"

// 0 for a key that counts, -inf for one that is hidden or padding.
template <typename acc_t>
static void pack_bias(const bool* hidden, int64_t length, acc_t* bias) {
  for (int64_t j = 0; j < padded<acc_t>(length); ++j)
    bias[j] = j >= length || (hidden && hidden[j]) ? -acc_t(INFINITY) : acc_t(0);
}

// The factors of dropout of a row's keys [first, first + span): 0 or a.kept.
template <typename scalar_t, typename acc_t>
static void keep_row(const VitAttentionArgs<scalar_t>& a, int64_t head, int64_t query, int64_t first, int64_t span,
                     acc_t* factor) {
  constexpr int64_t kKeys = 8;  // of a counter
  uint32_t words[kVitKeyChunk / kKeys * kPhiloxWords];
  for (int64_t key = 0; key < span; key += kKeys * kPhiloxCounters) {
    u64_vec counter;
    for (int k = 0; k < kPhiloxCounters; ++k) counter[k] = uint64_t((first + key) / kKeys + k);
    philox(counter, u64_vec{} + uint64_t(query), u64_vec{} + uint64_t(head), u64_vec{}, uint64_t(*a.seed),
           words + key / kKeys * kPhiloxWords);
  }
  constexpr int lanes = kLanes<acc_t>;
  typedef uint16_t half_words __attribute__((vector_size(2 * lanes)));
  using int_vec = decltype(Vec<acc_t>{} < Vec<acc_t>{});
  for (int64_t j = 0; j < span; j += lanes) {
    half_words random;  // in memory the lower half of a word comes first, as the keys do
    __builtin_memcpy(&random, reinterpret_cast<const uint16_t*>(words) + j, sizeof(random));
    const auto kept = __builtin_convertvector(random, int_vec) >= int_vec{} + a.dropped;
    store(factor + j, kept ? Vec<acc_t>{} + a.kept : Vec<acc_t>{});
  }
}

// c[row, key] = init + <a[row], key of the panels>: a block of rows by the keys [first, last) of a head.
template <typename acc_t>
static void by_panels(const acc_t* a, int64_t a_row, int64_t rows, const acc_t* panels, int64_t dim, int64_t keys,
                      int64_t first, int64_t last, const acc_t* init, acc_t* c, int64_t c_row) {
  for (int64_t panel = first; panel < last; panel += kPanel<acc_t>) {
    const int64_t width = keys - panel < kPanel<acc_t> ? keys - panel : kPanel<acc_t>;
    product(Product<acc_t>{a, a_row, 1, panels + panel * dim, width, init + panel, 0, c + (panel - first), c_row, dim},
            rows, width / kLanes<acc_t>);
  }
}

// Carves the scratch of one thread; with a null base it only counts.
template <typename acc_t>
struct Scratch {
  acc_t* base;
  int64_t used = 0;
  acc_t* take(int64_t count) {
    acc_t* const place = base ? base + used : nullptr;
    used += (count + 15) / 16 * 16;
    return place;
  }
};

template <typename acc_t>
struct ForwardScratch {
  Scratch<acc_t> scratch;
  acc_t *keys_t, *values, *bias;     // of a head
  acc_t *q, *scores, *out, *factor;  // of a block of queries
  acc_t most[kVitQueryBlock], sum[kVitQueryBlock];
  ForwardScratch(acc_t* base, int64_t length, int64_t dim) : scratch{base} {
    const int64_t keys = padded<acc_t>(length), width = padded<acc_t>(dim);
    keys_t = scratch.take(keys * dim);
    values = scratch.take(keys * width);
    bias = scratch.take(keys);
    q = scratch.take(kVitQueryBlock * width);
    scores = scratch.take(kVitQueryBlock * (keys < kVitKeyChunk ? keys : kVitKeyChunk));
    out = scratch.take(kVitQueryBlock * width);
    factor = scratch.take(kVitKeyChunk);
  }
};

// Turns a row of scores into exp(score - max so far); returns what earlier sums of the row must be multiplied by.
template <typename acc_t>
static acc_t softmax_row(acc_t* row, int64_t keys, acc_t& most, acc_t& sum) {
  constexpr int lanes = kLanes<acc_t>;
  Vec<acc_t> top = load(row);
  for (int64_t j = lanes; j < keys; j += lanes) {
    const Vec<acc_t> next = load(row + j);
    top = next > top ? next : top;
  }
  const acc_t before = most, here = max_lanes<acc_t>(top);
  most = here > before ? here : before;
  const acc_t shift = most == -acc_t(INFINITY) ? acc_t(0) : most;  // a row without keys: exp(-inf - 0) = 0
  Vec<acc_t> total{};
  for (int64_t j = 0; j < keys; j += lanes) {
    const Vec<acc_t> p = exp_or_zero<acc_t>(load(row + j) - shift);
    store(row + j, p);
    total += p;
  }
  const acc_t correction = before == -acc_t(INFINITY) ? acc_t(0) : acc_t(::exp(before - shift));
  sum = sum * correction + sum_lanes<acc_t>(total);
  return correction;
}

template <typename acc_t>
ADVKERN_INLINE void multiply(acc_t* row, int64_t width, acc_t factor) {
  for (int64_t d = 0; d < width; d += kLanes<acc_t>) store(row + d, factor * load(row + d));
}

template <int kFor, typename scalar_t>
ADVKERN_INLINE void fetch(const HeadsView<scalar_t>& t, int64_t b, int64_t h, int64_t row, int64_t dim) {
  prefetch<kFor, kFirstLevel>(t.at(b, h), uint64_t(row * t.row), dim * int64_t(sizeof(scalar_t)));
}

// Fetches, while a row of a block is turned into weights, what the row's place needs later: where it is written, the
// query of the next block, and of the next head's rows key and value. Rows of a head lie apart, so that no prefetcher
// finds them.
template <typename scalar_t>
static void fetch_later(const VitAttentionArgs<scalar_t>& a, const VitAttentionOut<scalar_t>& o, int64_t b, int64_t h,
                        int64_t row) {
  const int64_t head = b * a.heads + h + 1, next_b = head / a.heads, next_h = head % a.heads;
  const bool more = next_b < a.batch;
  const int64_t query = row + kVitQueryBlock;
  fetch<kWrite>(o.out, b, h, row, a.dim);
  if (query < a.length)
    fetch<kRead>(a.q, b, h, query, a.dim);
  else if (more)
    fetch<kRead>(a.q, next_b, next_h, row % kVitQueryBlock, a.dim);
  if (!more) return;
  fetch<kRead>(a.k, next_b, next_h, row, a.dim);
  fetch<kRead>(a.v, next_b, next_h, row, a.dim);
}

// Queries [first, first + rows) of a head whose keys and values are packed.
template <typename scalar_t, typename acc_t>
static void forward_block(const VitAttentionArgs<scalar_t>& a, const VitAttentionOut<scalar_t>& o, int64_t b, int64_t h,
                          int64_t first, int64_t rows, ForwardScratch<acc_t>& s) {
  constexpr int lanes = kLanes<acc_t>;
  const int64_t keys = padded<acc_t>(a.length), width = padded<acc_t>(a.dim);
  pack_rows(a.q.at(b, h) + first * a.q.row, a.q.row, rows, a.dim, a.scale, s.q);
  clear(s.out, s.out + rows * width);
  for (int64_t r = 0; r < rows; ++r) {
    s.most[r] = -acc_t(INFINITY);
    s.sum[r] = 0;
  }
  for (int64_t chunk = 0; chunk < keys; chunk += kVitKeyChunk) {
    const int64_t last = chunk + kVitKeyChunk < keys ? chunk + kVitKeyChunk : keys, span = last - chunk;
    by_panels(s.q, width, rows, s.keys_t, a.dim, keys, chunk, last, s.bias, s.scores, span);
    for (int64_t r = 0; r < rows; ++r) {
      acc_t* const row = s.scores + r * span;
      if (chunk == 0) fetch_later(a, o, b, h, first + r);
      const acc_t correction = softmax_row(row, span, s.most[r], s.sum[r]);
      if (chunk > 0) multiply(s.out + r * width, width, correction);
      if (!a.seed) continue;
      keep_row(a, b * a.heads + h, first + r, chunk, span, s.factor);
      for (int64_t j = 0; j < span; j += lanes) store(row + j, load(row + j) * load(s.factor + j));
    }
    const int64_t real = a.length - chunk < span ? a.length - chunk : span;  // the others' weights are 0
    product(Product<acc_t>{s.scores, span, 1, s.values + chunk * width, width, s.out, width, s.out, width, real}, rows,
            width / lanes);
  }
  scalar_t* const out = o.out.at(b, h) + first * o.out.row;
  for (int64_t r = 0; r < rows; ++r) {
    const acc_t factor = s.sum[r] > 0 || s.sum[r] != s.sum[r] ? 1 / s.sum[r] : acc_t(0);
    unpack_rows(s.out + r * width, factor, 1, a.dim, out + r * o.out.row, o.out.row);
    if (o.lse) o.lse[(b * a.heads + h) * a.length + first + r] = s.most[r] + acc_t(::log(s.sum[r]));
  }
}

template <typename scalar_t>
static int64_t vit_attention_fwd_scratch(const VitAttentionArgs<scalar_t>& a) {
  return ForwardScratch<acc_of<scalar_t>>(nullptr, a.length, a.dim).scratch.used;
}

// Blocks [begin, end) of queries, counted through all heads of the batch.
template <typename scalar_t>
static void vit_attention_fwd_blocks(const VitAttentionArgs<scalar_t>& a, const VitAttentionOut<scalar_t>& o,
                                     int64_t begin, int64_t end, acc_of<scalar_t>* scratch) {
  using acc_t = acc_of<scalar_t>;
  ForwardScratch<acc_t> s(scratch, a.length, a.dim);
  const int64_t blocks = (a.length + kVitQueryBlock - 1) / kVitQueryBlock;
  int64_t packed = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / blocks, first = task % blocks * kVitQueryBlock;
    const int64_t b = head / a.heads, h = head % a.heads;
    if (head != packed) {
      pack_transposed(a.k.at(b, h), a.k.row, a.length, a.dim, s.keys_t);
      pack_head(a.v.at(b, h), a.v.row, a.length, a.dim, s.values);
      pack_bias(a.hidden ? a.hidden + b * a.length : nullptr, a.length, s.bias);
      packed = head;
    }
    const int64_t rows = a.length - first < kVitQueryBlock ? a.length - first : kVitQueryBlock;
    forward_block(a, o, b, h, first, rows, s);
  }
}

template <typename acc_t>
struct BackwardScratch {
  Scratch<acc_t> scratch;
  acc_t *keys_t, *values_t, *keys, *bias, *zeros, *grad_keys, *grad_values;  // of a head
  acc_t *q, *grad_out, *grad_q, *weights, *grad_scores, *factor;             // of a block of queries
  acc_t shift[kVitQueryBlock], delta[kVitQueryBlock];
  BackwardScratch(acc_t* base, int64_t length, int64_t dim) : scratch{base} {
    const int64_t padded_keys = padded<acc_t>(length), width = padded<acc_t>(dim);
    const int64_t chunk = padded_keys < kVitKeyChunk ? padded_keys : kVitKeyChunk;
    for (acc_t** panels : {&keys_t, &values_t}) *panels = scratch.take(padded_keys * dim);
    for (acc_t** rows : {&keys, &grad_keys, &grad_values}) *rows = scratch.take(padded_keys * width);
    for (acc_t** line : {&bias, &zeros}) *line = scratch.take(padded_keys);
    for (acc_t** rows : {&q, &grad_out, &grad_q}) *rows = scratch.take(kVitQueryBlock * width);
    for (acc_t** tile : {&weights, &grad_scores}) *tile = scratch.take(kVitQueryBlock * chunk);
    factor = scratch.take(kVitKeyChunk);
  }
};

// Packs queries [first, first + rows): q and grad_out, and by row the shift of its scores and the sum that the
// softmax's derivative subtracts, delta = <grad_out, out> - grad_lse.
template <typename scalar_t, typename acc_t>
static void pack_queries(const VitAttentionArgs<scalar_t>& a, const VitAttentionGrads<scalar_t>& g, int64_t b,
                         int64_t h, int64_t first, int64_t rows, BackwardScratch<acc_t>& s) {
  constexpr int lanes = kLanes<acc_t>;
  const int64_t width = padded<acc_t>(a.dim), line = (b * a.heads + h) * a.length + first;
  pack_rows(a.q.at(b, h) + first * a.q.row, a.q.row, rows, a.dim, a.scale, s.q);
  pack_rows(g.grad_out.at(b, h) + first * g.grad_out.row, g.grad_out.row, rows, a.dim, acc_t(1), s.grad_out);
  clear(s.grad_q, s.grad_q + rows * width);
  for (int64_t r = 0; r < rows; ++r) {
    const scalar_t* const out = g.out.at(b, h) + (first + r) * g.out.row;
    Vec<acc_t> dot{};
    for (int64_t d = 0; d < width; d += lanes)
      dot += load(s.grad_out + r * width + d) * (a.dim - d >= lanes ? load(out + d) : load_part(out + d, a.dim - d));
    const acc_t lse = g.lse[line + r];
    s.shift[r] = lse == -acc_t(INFINITY) ? acc_t(0) : lse;  // a row without keys: exp(-inf - 0) = 0
    s.delta[r] = sum_lanes<acc_t>(dot) - (g.grad_lse ? g.grad_lse[line + r] : acc_t(0));
  }
}

// A row of scores becomes weights as dropout leaves them, a row of the weights' gradient that of the scores.
template <typename scalar_t, typename acc_t>
static void derive_row(const VitAttentionArgs<scalar_t>& a, int64_t head, int64_t query, int64_t first, int64_t span,
                       acc_t* weights, acc_t* grad, acc_t shift, acc_t delta, acc_t* factor) {
  constexpr int lanes = kLanes<acc_t>;
  if (a.seed) keep_row(a, head, query, first, span, factor);
  for (int64_t j = 0; j < span; j += lanes) {
    const Vec<acc_t> p = exp_or_zero<acc_t>(load(weights + j) - shift);
    const Vec<acc_t> left = a.seed ? p * load(factor + j) : p;
    store(weights + j, left);
    store(grad + j, left * load(grad + j) - p * delta);
  }
}

// Queries [first, first + rows) of a packed head: their own gradient, and what they add to those of keys and values.
template <typename scalar_t, typename acc_t>
static void backward_block(const VitAttentionArgs<scalar_t>& a, const VitAttentionGrads<scalar_t>& g, int64_t b,
                           int64_t h, int64_t first, int64_t rows, BackwardScratch<acc_t>& s) {
  constexpr int lanes = kLanes<acc_t>;
  const int64_t keys = padded<acc_t>(a.length), width = padded<acc_t>(a.dim);
  pack_queries(a, g, b, h, first, rows, s);
  for (int64_t chunk = 0; chunk < keys; chunk += kVitKeyChunk) {
    const int64_t last = chunk + kVitKeyChunk < keys ? chunk + kVitKeyChunk : keys, span = last - chunk;
    by_panels(s.q, width, rows, s.keys_t, a.dim, keys, chunk, last, s.bias, s.weights, span);
    by_panels(s.grad_out, width, rows, s.values_t, a.dim, keys, chunk, last, s.zeros, s.grad_scores, span);
    for (int64_t r = 0; r < rows; ++r)
      derive_row(a, b * a.heads + h, first + r, chunk, span, s.weights + r * span, s.grad_scores + r * span, s.shift[r],
                 s.delta[r], s.factor);
    const auto add = [&](const acc_t* by, int64_t by_row, int64_t by_step, const acc_t* what, acc_t* to, int64_t count,
                         int64_t steps) {  // to += by what
      product(Product<acc_t>{by, by_row, by_step, what, width, to, width, to, width, steps}, count, width / lanes);
    };
    const int64_t real = a.length - chunk < span ? a.length - chunk : span;
    add(s.grad_scores, span, 1, s.keys + chunk * width, s.grad_q, rows, real);
    add(s.grad_scores, 1, span, s.q, s.grad_keys + chunk * width, real, rows);
    add(s.weights, 1, span, s.grad_out, s.grad_values + chunk * width, real, rows);
  }
  unpack_rows(s.grad_q, a.scale, rows, a.dim, g.grad_q.at(b, h) + first * g.grad_q.row, g.grad_q.row);
}

template <typename scalar_t>
static int64_t vit_attention_bwd_scratch(const VitAttentionArgs<scalar_t>& a) {
  return BackwardScratch<acc_of<scalar_t>>(nullptr, a.length, a.dim).scratch.used;
}

// Heads [begin, end), counted through the batch. A head's queries go in order: the sums over them always round alike.
template <typename scalar_t>
static void vit_attention_bwd_heads(const VitAttentionArgs<scalar_t>& a, const VitAttentionGrads<scalar_t>& g,
                                    int64_t begin, int64_t end, acc_of<scalar_t>* scratch) {
  using acc_t = acc_of<scalar_t>;
  BackwardScratch<acc_t> s(scratch, a.length, a.dim);
  const int64_t keys = padded<acc_t>(a.length), width = padded<acc_t>(a.dim);
  clear(s.zeros, s.zeros + keys);
  for (int64_t head = begin; head < end; ++head) {
    const int64_t b = head / a.heads, h = head % a.heads;
    pack_transposed(a.k.at(b, h), a.k.row, a.length, a.dim, s.keys_t);
    pack_transposed(a.v.at(b, h), a.v.row, a.length, a.dim, s.values_t);
    pack_head(a.k.at(b, h), a.k.row, a.length, a.dim, s.keys);
    pack_bias(a.hidden ? a.hidden + b * a.length : nullptr, a.length, s.bias);
    clear(s.grad_keys, s.grad_keys + keys * width);
    clear(s.grad_values, s.grad_values + keys * width);
    for (int64_t first = 0; first < a.length; first += kVitQueryBlock)
      backward_block(a, g, b, h, first, a.length - first < kVitQueryBlock ? a.length - first : kVitQueryBlock, s);
    unpack_rows(s.grad_keys, acc_t(1), a.length, a.dim, g.grad_k.at(b, h), g.grad_k.row);
    unpack_rows(s.grad_values, acc_t(1), a.length, a.dim, g.grad_v.at(b, h), g.grad_v.row);
  }
}

}  // namespace advkern::ADVKERN_ISA
