// SPDX-License-Identifier: MIT
// out[i] = sum_{e in row i} keep_e alpha_e h[j],  j = col[e],  alpha = softmax over the row of leaky_relu(d_i + s_j),
// all heads of a row at a time: first the scores of its edges into a scratch of the row, vectors across heads, then
// exp, then the features, their sums in registers. The backward does the same over the transpose, with one gather of
// the gradient. Torch-free; included once per instruction set by common/for_each_isa.h.
#ifndef ADVKERN_GAT_ATTENTION_CPU_H
#define ADVKERN_GAT_ATTENTION_CPU_H
namespace advkern {

struct GatDropout {
  uint64_t threshold;  // of 2^32; 0: nothing is dropped
  uint64_t seed;
};

template <typename scalar_t, typename index_t>
struct GatAttentionFwdArgs {
  const int64_t* rowptr;               // [num_nodes + 1]
  const index_t* col;                  // [num_edges]
  const scalar_t* h;                   // [num_nodes, heads, channels]
  const acc_of<scalar_t>* score_dst;   // [num_nodes, heads]
  const acc_of<scalar_t>* score_src;   // [num_nodes, heads]
  const acc_of<scalar_t>* bias;        // [heads, channels] or null
  scalar_t* out;                       // [num_nodes, heads, channels]
  acc_of<scalar_t>*row_max, *row_sum;  // [num_nodes, heads]
  int64_t num_nodes, num_edges, heads, channels;
  acc_of<scalar_t> negative_slope;
  GatDropout dropout;
  bool stream = false;  // out goes past the caches: its rows are whole vectors
};

constexpr int kNodeValues = 4;  // of a node and head, beside each other for the backward's gather

template <typename scalar_t, typename index_t>
struct GatAttentionBwdArgs {
  const int64_t *rowptr, *rowptr_t;              // [num_nodes + 1], of the graph and of its transpose
  const index_t* col_t;                          // [num_edges], of the transpose
  const int64_t* perm;                           // [num_edges]: the place in the graph of each edge of the transpose
  const scalar_t* h;                             // [num_nodes, heads, channels]
  const acc_of<scalar_t>*score_dst, *score_src;  // [num_nodes, heads]
  const scalar_t* out;                           // [num_nodes, heads, channels]
  const acc_of<scalar_t>*row_max, *row_sum;      // [num_nodes, heads]
  const scalar_t* grad;                          // [num_nodes, heads, channels]
  const acc_of<scalar_t>* grad_sum;              // [num_nodes, heads] or null
  scalar_t* grad_h;                              // [num_nodes, heads, channels]
  acc_of<scalar_t>*grad_dst, *grad_src;          // [num_nodes, heads]
  acc_of<scalar_t>* node;        // [num_nodes, kNodeValues, heads]: score_dst, row_max, 1 / row_sum, delta
  acc_of<scalar_t>* grad_score;  // [num_edges, heads]
  int64_t num_nodes, num_edges, heads, channels;
  acc_of<scalar_t> negative_slope;
  GatDropout dropout;
  bool stream = false;  // grad_h goes past the caches: its rows are whole vectors
};

constexpr int64_t kMostLanes = 16;

// Bytes of scratch in which any instruction set can work on rows of up to `edges` edges.
template <typename acc_t>
int64_t gat_scratch_bytes(int64_t edges, int64_t heads, int64_t channels) {
  const int64_t stride = heads + kMostLanes, channels_and_more = heads * channels + kMostLanes;
  const int64_t of_a_row = 3 * ((edges + 1) * stride + 2 * kMostLanes);
  return edges * int64_t(sizeof(int64_t)) + of_a_row * int64_t(sizeof(acc_t)) +
         2 * channels_and_more * int64_t(sizeof(int64_t));
}

}  // namespace advkern
#endif

namespace advkern::ADVKERN_ISA {

#include "common/vec.h"
#include "common/vec_math.h"
#include "common/vec_philox.h"
#include "common/vec_rows.h"
#include "common/vec_shuffle.h"
#include "common/vec_stream.h"

constexpr int kMaxVecs = 8;       // vectors of features that a tile holds in registers
constexpr int kScoresAhead = 64;  // edges between the prefetch of scores and their use

// How the heads of an edge lie in the scratch: those of several edges in one vector where that comes out even, else
// padded to whole vectors; and to which of them each vector of a row of features belongs.
template <typename acc_t>
struct GatScratch {
  static constexpr int lanes = kLanes<acc_t>;
  int64_t heads, width, stride, vecs;
  bool one_head;               // no vector of features has channels of two heads
  int64_t* ids;                // [edges]
  acc_t *weight, *kept, *dot;  // [edges, stride], and some lanes more
  int64_t* first_head;         // [vecs]
  LaneNumbers<acc_t>* head;    // [vecs]: of each lane, beyond the first

  GatScratch(char* memory, int64_t edges, int64_t heads, int64_t channels)
      : heads(heads),
        width(heads * channels),
        stride(lanes % heads == 0 ? heads : (heads + lanes - 1) / lanes * lanes),
        vecs((width + lanes - 1) / lanes),
        one_head(channels % lanes == 0) {
    const int64_t size = (edges + 1) * stride + 2 * lanes;
    head = reinterpret_cast<LaneNumbers<acc_t>*>(memory);
    first_head = reinterpret_cast<int64_t*>(head + vecs);
    ids = first_head + vecs;
    weight = reinterpret_cast<acc_t*>(ids + edges);
    kept = weight + size;
    dot = kept + size;
    for (int64_t v = 0; v < vecs; ++v) {
      first_head[v] = v * lanes / channels;
      for (int k = 0; k < lanes; ++k) {
        const int64_t channel = v * lanes + k;
        head[v][k] = channel < width ? channel / channels - first_head[v] : 0;
      }
    }
  }

  // Vectors of a row's scratch that hold heads [block * lanes, ...), and the distance between them.
  int64_t vecs_of_block(int64_t edges) const { return stride < lanes ? (edges * stride + lanes - 1) / lanes : edges; }
  int64_t step() const { return stride < lanes ? lanes : stride; }
};

// The heads of one edge or node that share a vector. Where a row ends within one, what follows is read too, if the
// matrix goes on, and never used.
template <int kHeads, typename acc_t>
ADVKERN_INLINE ShortVec<acc_t, kHeads> load_heads(const acc_t* p, const acc_t* limit) {
  if constexpr (kHeads == kLanes<acc_t>) {
    return load_inside(p, limit);
  } else {
    ShortVec<acc_t, kHeads> v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
}

template <int kHeads, typename acc_t>
ADVKERN_INLINE void store_heads(acc_t* p, ShortVec<acc_t, kHeads> v, int64_t left) {
  if constexpr (kHeads == kLanes<acc_t>)
    store_part(p, v, left);
  else
    __builtin_memcpy(p, &v, sizeof(v));
}

// The ids of a row's edges, 0 for one out of range; false where there is one. What later edges will need of x and of
// the scores is prefetched here, all of it: memory then works while the softmax is computed, not after.
template <typename scalar_t, typename index_t, typename acc_t>
ADVKERN_INLINE bool read_ids(const index_t* col, RowEdges edges, int64_t num_nodes, int64_t num_edges,
                             const acc_t* scores, int64_t scores_width, const scalar_t* x, const GatScratch<acc_t>& s) {
  bool valid = edges.valid;
  for (int64_t e = edges.begin; e < edges.end; ++e) {
    const uint64_t later = id_ahead(col, e, num_edges, kScoresAhead);
    prefetch(scores, later * uint64_t(scores_width), scores_width * int64_t(sizeof(acc_t)));
    prefetch(x, id_ahead(col, e, num_edges) * uint64_t(s.width), s.width * int64_t(sizeof(scalar_t)));
    const int64_t id = col[e];
    const bool inside = uint64_t(id) < uint64_t(num_nodes);
    s.ids[e - edges.begin] = inside ? id : 0;
    valid &= inside;
  }
  return valid;
}

// kept = weight * keep for the edges of a row, whose places in the graph are place(k).
template <typename acc_t, typename Place>
ADVKERN_INLINE void drop(const GatScratch<acc_t>& s, const GatDropout& dropout, int64_t edges, acc_t* kept,
                         const Place& place) {
  constexpr uint64_t all = uint64_t(1) << 32;
  constexpr int most_words = kPhiloxWords * kPhiloxCounters;
  const acc_t scale = dropout.threshold < all ? acc_t(double(all) / double(all - dropout.threshold)) : acc_t(0);
  const auto keep = [&](uint32_t word, acc_t weight) { return word >= dropout.threshold ? weight * scale : acc_t(0); };
  const int64_t groups = (s.heads + kPhiloxWords - 1) / kPhiloxWords, counters = edges * groups;
  const bool even = s.heads % kPhiloxWords == 0 && s.stride == s.heads;  // then words lie as weights do
  int64_t edge = 0, group = 0;
  for (int64_t first = 0; first < counters; first += kPhiloxCounters) {
    uint64_t counter[3][kPhiloxCounters];
    int64_t at[kPhiloxCounters];
    const int count = counters - first < kPhiloxCounters ? int(counters - first) : kPhiloxCounters;
    for (int k = 0; k < kPhiloxCounters; ++k) {
      const uint64_t number = uint64_t(place(edge));
      counter[0][k] = number & 0xffffffffu;
      counter[1][k] = number >> 32;
      counter[2][k] = uint64_t(group);
      at[k] = edge * s.stride + group * kPhiloxWords;
      if (++group == groups) {
        group = 0;
        if (edge + 1 < edges) ++edge;
      }
    }
    u64_vec c[3];
    __builtin_memcpy(c, counter, sizeof(c));
    uint32_t words[most_words];
    philox(c[0], c[1], c[2], u64_vec{}, dropout.seed, words);
    if (even && count == kPhiloxCounters) {
      const int64_t begin = first * kPhiloxWords;
      for (int k = 0; k < most_words; ++k) kept[begin + k] = keep(words[k], s.weight[begin + k]);
      continue;
    }
    for (int k = 0; k < count; ++k) {
      const int64_t left = s.heads - (first + k) % groups * kPhiloxWords;
      for (int word = 0; word < kPhiloxWords && word < left; ++word)
        kept[at[k] + word] = keep(words[kPhiloxWords * k + word], s.weight[at[k] + word]);
    }
  }
}

// Where the sum of a row goes.
template <typename scalar_t>
struct SumTarget {
  scalar_t* row;
  const acc_of<scalar_t>* bias;  // of all channels, or null
  bool stream;
};

// Vectors [first, first + kVecs) of target = sum_k weight[k] x[ids[k]] + bias.
template <int kVecs, bool kOneHead, typename scalar_t, typename acc_t>
static void sum_tile(const GatScratch<acc_t>& s, const acc_t* weight, int64_t edges, const scalar_t* x,
                     const scalar_t* limit, int64_t first, const SumTarget<scalar_t>& target) {
  constexpr int lanes = kLanes<acc_t>;
  static constexpr ScatteredOrder<kVecs> order;
  Vec<acc_t> sum[kVecs];
  LaneNumbers<acc_t> head[kVecs];
#pragma GCC unroll 8
  for (int v = 0; v < kVecs; ++v) {
    sum[v] = Vec<acc_t>{};
    if constexpr (!kOneHead) head[v] = s.head[first + v];
  }
  for (int64_t k = 0; k < edges; ++k) {
    const scalar_t* const source = x + s.ids[k] * s.width + first * lanes;
    const acc_t* const factors = weight + k * s.stride;
#pragma GCC unroll 8
    for (int n = 0; n < kVecs; ++n) {
      const int v = order.at[n];
      const Vec<acc_t> part = v < kVecs - 1 ? load(source + v * lanes) : load_inside(source + v * lanes, limit);
      const acc_t* const factor = factors + s.first_head[first + v];
      if constexpr (kOneHead)
        sum[v] += *factor * part;
      else
        sum[v] += permute<acc_t>(load(factor), head[v]) * part;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVecs; ++v) {
    const int64_t at = (first + v) * lanes, left = s.width - at;
    if (target.bias) sum[v] += load_inside(target.bias + at, target.bias + s.width);
    if (left >= lanes)
      put(target.row + at, sum[v], target.stream);
    else
      store_part(target.row + at, sum[v], left);
  }
}

// The tile of min(vecs, kVecs) vectors that starts at vector `first`.
template <int kVecs, bool kOneHead, typename scalar_t, typename acc_t>
ADVKERN_INLINE void sum_vecs(const GatScratch<acc_t>& s, const acc_t* weight, int64_t edges, const scalar_t* x,
                             const scalar_t* limit, int64_t first, const SumTarget<scalar_t>& target) {
  if constexpr (kVecs > 1)
    if (s.vecs - first < kVecs) return sum_vecs<kVecs - 1, kOneHead>(s, weight, edges, x, limit, first, target);
  sum_tile<kVecs, kOneHead>(s, weight, edges, x, limit, first, target);
}

template <typename scalar_t, typename acc_t>
ADVKERN_INLINE void sum_row(const GatScratch<acc_t>& s, const acc_t* weight, int64_t edges, const scalar_t* x,
                            const scalar_t* limit, const SumTarget<scalar_t>& target) {
  for (int64_t first = 0; first < s.vecs; first += kMaxVecs)
    if (s.one_head)
      sum_vecs<kMaxVecs, true>(s, weight, edges, x, limit, first, target);
    else
      sum_vecs<kMaxVecs, false>(s, weight, edges, x, limit, first, target);
}

template <typename vec_t, typename acc_t>
ADVKERN_INLINE vec_t leaky_relu(vec_t v, acc_t negative_slope) {
  return v > 0 ? v : v * negative_slope;
}

// A row's attention into s.weight, kHeads heads a vector; its greatest scores and sums of exp are kept.
template <int kHeads, typename scalar_t, typename index_t, typename acc_t>
ADVKERN_INLINE void softmax_row(const GatAttentionFwdArgs<scalar_t, index_t>& a, const GatScratch<acc_t>& s,
                                int64_t row, int64_t edges) {
  constexpr int lanes = kLanes<acc_t>;
  const acc_t* const limit_dst = a.score_dst + a.num_nodes * a.heads;
  const acc_t* const limit_src = a.score_src + a.num_nodes * a.heads;
  for (int64_t first = 0; first < a.heads; first += lanes) {
    acc_t* const weight = s.weight + first;
    const auto dst = load_heads<kHeads>(a.score_dst + row * a.heads + first, limit_dst);
    auto greatest = ShortVec<acc_t, kHeads>{} - acc_t(INFINITY);
    for (int64_t k = 0; k < edges; ++k) {
      const auto src = load_heads<kHeads>(a.score_src + s.ids[k] * a.heads + first, limit_src);
      const auto score = leaky_relu(dst + src, a.negative_slope);
      __builtin_memcpy(weight + k * s.stride, &score, sizeof(score));
      greatest = greatest > score ? greatest : score;
    }
    greatest = greatest == -acc_t(INFINITY) ? ShortVec<acc_t, kHeads>{} : greatest;
    if constexpr (kHeads < lanes) store(weight + edges * kHeads, Vec<acc_t>{} - acc_t(INFINITY));

    const Vec<acc_t> shift = repeat<kHeads, acc_t>(greatest);
    Vec<acc_t> total{};
    const int64_t vecs = s.vecs_of_block(edges), step = s.step();
    for (int64_t v = 0; v < vecs; ++v) {
      const Vec<acc_t> value = exp_or_zero<acc_t>(load(weight + v * step) - shift);
      store(weight + v * step, value);
      total += value;
    }
    const auto sum = fold<kHeads, acc_t>(total);
    store_heads<kHeads>(a.row_max + row * a.heads + first, greatest, a.heads - first);
    store_heads<kHeads>(a.row_sum + row * a.heads + first, sum, a.heads - first);
    const Vec<acc_t> factor = repeat<kHeads, acc_t>(sum == 0 ? sum : 1 / sum);
    for (int64_t v = 0; v < vecs; ++v) store(weight + v * step, load(weight + v * step) * factor);
  }
}

template <int kHeads, typename scalar_t, typename index_t>
static bool attend_row(const GatAttentionFwdArgs<scalar_t, index_t>& a, const GatScratch<acc_of<scalar_t>>& s,
                       int64_t row) {
  const RowEdges edges = row_edges(a.rowptr, row, a.num_edges);
  const int64_t count = edges.end - edges.begin;
  const bool valid = read_ids(a.col, edges, a.num_nodes, a.num_edges, a.score_src, a.heads, a.h, s);
  softmax_row<kHeads>(a, s, row, count);
  if (a.dropout.threshold) drop(s, a.dropout, count, s.weight, [&](int64_t k) { return edges.begin + k; });
  const SumTarget<scalar_t> target{a.out + row * s.width, a.bias, a.stream};
  sum_row(s, s.weight, count, a.h, a.h + a.num_nodes * s.width, target);
  return valid;
}

// Calls function(heads) with the number of heads that share a vector in the scratch, as a type.
template <int kHeads>
struct HeadCount {
  static constexpr int value = kHeads;
};
template <int kHeads, typename Function>
ADVKERN_INLINE bool on_heads(int64_t stride, const Function& function) {
  if constexpr (kHeads > 1)
    if (stride < kHeads) return on_heads<kHeads / 2>(stride, function);
  return function(HeadCount<kHeads>{});
}

template <typename scalar_t, typename index_t>
static bool gat_attention_rows(const GatAttentionFwdArgs<scalar_t, index_t>& a, int64_t begin, int64_t end,
                               char* scratch, int64_t most_edges) {
  using acc_t = acc_of<scalar_t>;
  const GatScratch<acc_t> s(scratch, most_edges, a.heads, a.channels);
  return on_heads<kLanes<acc_t>>(s.stride, [&](auto heads) {
    bool valid = true;
    for (int64_t row = begin; row < end; ++row) valid &= attend_row<decltype(heads)::value>(a, s, row);
    if (a.stream) end_stream();
    return valid;
  });
}

// The sums of every kSegment neighbours out of `count` vectors, at most kSegment; zeros after them.
template <int kSegment, typename acc_t>
ADVKERN_INLINE Vec<acc_t> sum_segments(const Vec<acc_t>* part, int64_t count) {
  if constexpr (kSegment == 1) {
    return *part;
  } else {
    constexpr int64_t half = kSegment / 2;
    const Vec<acc_t> left = sum_segments<kSegment / 2, acc_t>(part, count < half ? count : half);
    const Vec<acc_t> right = count > half ? sum_segments<kSegment / 2, acc_t>(part + half, count - half) : Vec<acc_t>{};
    return add_neighbours<acc_t>(left, right);
  }
}

// <a, b> of one head, its channels still apart, in one vector.
template <typename scalar_t>
ADVKERN_INLINE auto head_products(const scalar_t* a, const scalar_t* b, int64_t channels) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vec<acc_t> sum{};
  int64_t f = 0;
  for (; f + lanes <= channels; f += lanes) sum += load(a + f) * load(b + f);
  if (f < channels) sum += load_part(a + f, channels - f) * load_part(b + f, channels - f);
  return sum;
}

// dot[head] = <a[head], b[head]> for every head of two nodes; kSegment lanes hold what is to be added for one head.
template <int kSegment, typename scalar_t>
static void dot_segments(const scalar_t* a, const scalar_t* b, const scalar_t* limit_a, const scalar_t* limit_b,
                         int64_t heads, int64_t channels, acc_of<scalar_t>* dot) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const bool side_by_side = channels == kSegment && kSegment < lanes;
  const int64_t vecs = side_by_side ? (heads * channels + lanes - 1) / lanes : heads;
  for (int64_t first = 0; first < vecs; first += kSegment, dot += lanes) {
    Vec<acc_t> part[kSegment];
    const int64_t count = vecs - first < kSegment ? vecs - first : kSegment;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = (first + k) * (side_by_side ? lanes : channels);
      part[k] = side_by_side ? load_inside(a + at, limit_a) * load_inside(b + at, limit_b)
                             : head_products(a + at, b + at, channels);
    }
    store(dot, sum_segments<kSegment, acc_t>(part, count));
  }
}

template <int kSegment, typename scalar_t>
ADVKERN_INLINE void dot_heads(const scalar_t* a, const scalar_t* b, const scalar_t* limit_a, const scalar_t* limit_b,
                              int64_t heads, int64_t channels, acc_of<scalar_t>* dot) {
  if constexpr (kSegment > 1) {
    const bool power = channels > 0 && (channels & (channels - 1)) == 0;
    if (power && channels < kSegment) return dot_heads<kSegment / 2>(a, b, limit_a, limit_b, heads, channels, dot);
  }
  dot_segments<kSegment>(a, b, limit_a, limit_b, heads, channels, dot);
}

// What the backward gathers of node i, with delta = <grad, out> - grad_sum row_sum.
template <typename scalar_t, typename index_t>
static bool gat_attention_node_rows(const GatAttentionBwdArgs<scalar_t, index_t>& a, int64_t begin, int64_t end,
                                    char* scratch, int64_t most_edges) {
  using acc_t = acc_of<scalar_t>;
  const GatScratch<acc_t> s(scratch, most_edges, a.heads, a.channels);
  const int64_t all = a.num_nodes * s.width;
  for (int64_t i = begin; i < end; ++i) {
    dot_heads<kLanes<acc_t>>(a.grad + i * s.width, a.out + i * s.width, a.grad + all, a.out + all, a.heads, a.channels,
                             s.dot);
    acc_t* const node = a.node + i * kNodeValues * a.heads;
    for (int64_t head = 0; head < a.heads; ++head) {
      const int64_t at = i * a.heads + head;
      node[head] = a.score_dst[at];
      node[a.heads + head] = a.row_max[at];
      node[2 * a.heads + head] = a.row_sum[at] == 0 ? acc_t(0) : 1 / a.row_sum[at];
      node[3 * a.heads + head] = s.dot[head] - (a.grad_sum ? a.grad_sum[at] * a.row_sum[at] : acc_t(0));
    }
  }
  return true;
}

// exp(score - row_max) of every edge of source j into s.weight.
template <int kHeads, typename scalar_t, typename index_t, typename acc_t>
ADVKERN_INLINE void source_weights(const GatAttentionBwdArgs<scalar_t, index_t>& a, const GatScratch<acc_t>& s,
                                   int64_t j, int64_t edges) {
  constexpr int lanes = kLanes<acc_t>;
  const acc_t* const limit = a.node + a.num_nodes * kNodeValues * a.heads;
  for (int64_t first = 0; first < a.heads; first += lanes) {
    acc_t* const weight = s.weight + first;
    const auto src = load_heads<kHeads>(a.score_src + j * a.heads + first, a.score_src + a.num_nodes * a.heads);
    for (int64_t k = 0; k < edges; ++k) {
      const acc_t* const node = a.node + s.ids[k] * kNodeValues * a.heads + first;
      const auto score = leaky_relu(load_heads<kHeads>(node, limit) + src, a.negative_slope);
      const ShortVec<acc_t, kHeads> shifted = score - load_heads<kHeads>(node + a.heads, limit);
      __builtin_memcpy(weight + k * s.stride, &shifted, sizeof(shifted));
    }
    const int64_t vecs = s.vecs_of_block(edges), step = s.step();
    for (int64_t v = 0; v < vecs; ++v) store(weight + v * step, exp_or_zero<acc_t>(load(weight + v * step)));
  }
}

// The gradients of the scores of source j's edges, of which s.dot holds <grad_i, h_j>; their attention goes to s.kept.
template <int kHeads, typename scalar_t, typename index_t, typename acc_t>
ADVKERN_INLINE bool source_scores(const GatAttentionBwdArgs<scalar_t, index_t>& a, const GatScratch<acc_t>& s,
                                  int64_t j, RowEdges edges) {
  const acc_t* const limit = a.node + a.num_nodes * kNodeValues * a.heads;
  const acc_t* const unkept = a.dropout.threshold ? s.kept : s.weight;
  const int64_t count = edges.end - edges.begin;
  bool valid = true;
  for (int64_t first = 0; first < a.heads; first += kLanes<acc_t>) {
    const int64_t left = a.heads - first;
    const auto src = load_heads<kHeads>(a.score_src + j * a.heads + first, a.score_src + a.num_nodes * a.heads);
    ShortVec<acc_t, kHeads> total{};
    for (int64_t k = 0; k < count; ++k) {
      const acc_t* const node = a.node + s.ids[k] * kNodeValues * a.heads + first;
      const int64_t at = k * s.stride + first, place = a.perm[edges.begin + k];
      ShortVec<acc_t, kHeads> weight, kept, dot;
      __builtin_memcpy(&weight, s.weight + at, sizeof(weight));
      __builtin_memcpy(&kept, unkept + at, sizeof(kept));
      __builtin_memcpy(&dot, s.dot + at, sizeof(dot));
      const auto inverse = load_heads<kHeads>(node + 2 * a.heads, limit);
      kept *= inverse;
      ShortVec<acc_t, kHeads> grad = kept * dot - weight * inverse * load_heads<kHeads>(node + 3 * a.heads, limit);
      grad = load_heads<kHeads>(node, limit) + src > 0 ? grad : grad * a.negative_slope;
      __builtin_memcpy(s.kept + at, &kept, sizeof(kept));
      total += grad;
      const bool inside = uint64_t(place) < uint64_t(a.num_edges);
      if (inside) store_heads<kHeads>(a.grad_score + place * a.heads + first, grad, left);
      valid &= inside;
    }
    store_heads<kHeads>(a.grad_src + j * a.heads + first, total, left);
  }
  return valid;
}

template <int kHeads, typename scalar_t, typename index_t>
static bool source_row(const GatAttentionBwdArgs<scalar_t, index_t>& a, const GatScratch<acc_of<scalar_t>>& s,
                       int64_t j) {
  const RowEdges edges = row_edges(a.rowptr_t, j, a.num_edges);
  const int64_t count = edges.end - edges.begin, all = a.num_nodes * s.width;
  bool valid = read_ids(a.col_t, edges, a.num_nodes, a.num_edges, a.node, kNodeValues * a.heads, a.grad, s);
  for (int64_t e = edges.begin; e < edges.end; ++e) {
    const uint64_t later = id_ahead(a.perm, e, a.num_edges, kScoresAhead);
    __builtin_prefetch(a.grad_score + later * uint64_t(a.heads), kWrite, kSecondLevel);
  }
  source_weights<kHeads>(a, s, j, count);
  if (a.dropout.threshold) drop(s, a.dropout, count, s.kept, [&](int64_t k) { return a.perm[edges.begin + k]; });
  for (int64_t k = 0; k < count; ++k) {
    dot_heads<kLanes<acc_of<scalar_t>>>(a.grad + s.ids[k] * s.width, a.h + j * s.width, a.grad + all, a.h + all,
                                        a.heads, a.channels, s.dot + k * s.stride);
  }
  valid &= source_scores<kHeads>(a, s, j, edges);
  sum_row(s, s.kept, count, a.grad, a.grad + all, SumTarget<scalar_t>{a.grad_h + j * s.width, nullptr, a.stream});
  return valid;
}

// grad_h and grad_src of sources [begin, end), and the gradients of their edges' scores.
template <typename scalar_t, typename index_t>
static bool gat_attention_source_rows(const GatAttentionBwdArgs<scalar_t, index_t>& a, int64_t begin, int64_t end,
                                      char* scratch, int64_t most_edges) {
  using acc_t = acc_of<scalar_t>;
  const GatScratch<acc_t> s(scratch, most_edges, a.heads, a.channels);
  return on_heads<kLanes<acc_t>>(s.stride, [&](auto heads) {
    bool valid = true;
    for (int64_t j = begin; j < end; ++j) valid &= source_row<decltype(heads)::value>(a, s, j);
    if (a.stream) end_stream();
    return valid;
  });
}

// grad_dst[i]: the sum over the row of the gradients of its scores.
template <typename scalar_t, typename index_t>
static bool gat_attention_target_rows(const GatAttentionBwdArgs<scalar_t, index_t>& a, int64_t begin, int64_t end,
                                      char*, int64_t) {
  using acc_t = acc_of<scalar_t>;
  const int64_t stride = kLanes<acc_t> % a.heads == 0 ? a.heads : kLanes<acc_t>;
  return on_heads<kLanes<acc_t>>(stride, [&](auto heads) {
    constexpr int count = decltype(heads)::value;
    const acc_t* const limit = a.grad_score + a.num_edges * a.heads;
    bool valid = true;
    for (int64_t i = begin; i < end; ++i) {
      const RowEdges edges = row_edges(a.rowptr, i, a.num_edges);
      valid &= edges.valid;
      for (int64_t first = 0; first < a.heads; first += kLanes<acc_t>) {
        ShortVec<acc_t, count> total{};
        for (int64_t e = edges.begin; e < edges.end; ++e)
          total += load_heads<count>(a.grad_score + e * a.heads + first, limit);
        store_heads<count>(a.grad_dst + i * a.heads + first, total, a.heads - first);
      }
    }
    return valid;
  });
}

}  // namespace advkern::ADVKERN_ISA
