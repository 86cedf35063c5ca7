// SPDX-License-Identifier: MIT
// out[i] = act(s_i * sum_{e in row i} w_e c_j x[j] + b),  j = col[e].
// A row at a time, its sums in registers over a tile of up to kMaxVecs vectors of features; features of one vector
// go by in batches of rows. The rows that later edges will need are prefetched. log_softmax is one more pass over the
// finished rows; the gradient of an activation is a kernel of its own. Torch-free; included once per instruction set by
// common/for_each_isa.h, after gcn_aggregate_activation.h.
#ifndef ADVKERN_GCN_AGGREGATE_CPU_H
#define ADVKERN_GCN_AGGREGATE_CPU_H
namespace advkern {

template <typename scalar_t, typename index_t>
struct GcnAggregateArgs {
  const int64_t* rowptr;              // [num_nodes + 1]
  const index_t* col;                 // [num_edges]
  const scalar_t* x;                  // [num_nodes, channels]
  const acc_of<scalar_t>* weight;     // [num_edges] or null
  const acc_of<scalar_t>* row_scale;  // [num_nodes] or null
  const acc_of<scalar_t>* col_scale;  // [num_nodes] or null
  const acc_of<scalar_t>* bias;       // [channels] or null
  scalar_t* out;                      // [num_nodes, channels]
  int64_t num_nodes, num_edges, channels, activation;
  bool stream = false;  // out goes past the caches: its rows are whole vectors
};

template <typename scalar_t>
struct GcnActivationBwdArgs {
  const scalar_t* grad;  // [num_nodes, channels]
  const scalar_t* out;   // [num_nodes, channels], of the activation
  scalar_t* result;      // [num_nodes, channels]: the gradient before the activation
  int64_t channels, activation;
  bool stream = false;  // result goes past the caches: its rows are whole vectors
};

template <typename scalar_t, typename index_t>
struct EdgeDotArgs {
  const int64_t* rowptr;  // [num_nodes + 1]
  const index_t* col;     // [num_edges]
  const scalar_t* a;      // [num_nodes, channels], the rows
  const scalar_t* b;      // [num_nodes, channels], the columns
  acc_of<scalar_t>* dot;  // [num_edges]
  int64_t num_nodes, num_edges, channels;
};

}  // namespace advkern
#endif

namespace advkern::ADVKERN_ISA {

#include "common/vec.h"
#include "common/vec_math.h"
#include "common/vec_rows.h"
#include "common/vec_stream.h"

constexpr int kMaxVecs = ADVKERN_VECTOR_BYTES == 64 ? 16 : 8;  // vectors of features a tile holds in registers
constexpr int kBatchRows = 128;  // a batch's sums and starts stay in the first-level cache
constexpr int kBatchEdges = 512;
constexpr int kNarrowAhead = 64;           // edges between a prefetch and its use where a row is a line or two
constexpr int64_t kCachedBytes = 2 << 20;  // of features, which then need no prefetch

template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> relu(Vec<acc_t> v) {
  return v < 0 ? Vec<acc_t>{} : v;  // NaN passes through
}

template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> activate(Vec<acc_t> v, int64_t activation) {
  if (activation == kRelu) return relu<acc_t>(v);
  if (activation == kElu)
    for (int k = 0; k < kLanes<acc_t>; ++k) v[k] = v[k] > 0 ? v[k] : ::expm1(v[k]);
  return v;
}

// out = act(s_i * sum + b), of row i, one vector of features from `first` on.
template <typename scalar_t, typename index_t>
ADVKERN_INLINE void finish(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t row, int64_t first,
                           Vec<acc_of<scalar_t>> sum) {
  const int64_t left = a.channels - first;
  if (a.row_scale) sum *= a.row_scale[row];
  if (a.bias) sum += load_part(a.bias + first, left);
  store_part(a.out + row * a.channels + first, activate<acc_of<scalar_t>>(sum, a.activation), left);
}

// The same for a whole tile, by a call: what keeps the compiler from keeping sums in registers stays out of its loops.
template <typename scalar_t, typename index_t>
__attribute__((noinline)) static void finish_tile(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t row,
                                                  int64_t first, const Vec<acc_of<scalar_t>>* sum, int vecs) {
  for (int k = 0; k < vecs; ++k) finish(a, row, first + k * kLanes<acc_of<scalar_t>>, sum[k]);
}

// Rows [begin, end), features [first, first + kVecs * lanes). False where an id or an offset is out of range.
// The loop over the rows is in here: a call a row costs a third more at 256 channels, where the stores wait for memory.
template <int kVecs, typename scalar_t, typename index_t>
static bool aggregate_tile(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t end, int64_t first) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  static constexpr ScatteredOrder<kVecs> order;
  const scalar_t* const limit = a.x + a.num_nodes * a.channels;
  const bool simple = a.channels - first >= kVecs * lanes && a.activation != kElu;
  bool valid = true;
  for (int64_t row = begin; row < end; ++row) {
    const RowEdges edges = row_edges(a.rowptr, row, a.num_edges);
    valid &= edges.valid;
    Vec<acc_t> sum[kVecs];
#pragma GCC unroll 16
    for (int k = 0; k < kVecs; ++k) sum[k] = Vec<acc_t>{};
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      prefetch(a.x, id_ahead(a.col, e, a.num_edges) * uint64_t(a.channels) + uint64_t(first),
               kVecs * lanes * int64_t(sizeof(scalar_t)));
      const int64_t j = a.col[e];
      if (uint64_t(j) >= uint64_t(a.num_nodes)) {
        valid = false;
        continue;
      }
      acc_t coefficient = a.weight ? a.weight[e] : acc_t(1);
      if (a.col_scale) coefficient *= a.col_scale[j];
      const scalar_t* const source = a.x + j * a.channels + first;
#pragma GCC unroll 16
      for (int n = 0; n < kVecs; ++n) {
        const int k = order.at[n];
        sum[k] += coefficient * (k < kVecs - 1 ? load(source + k * lanes) : load_inside(source + k * lanes, limit));
      }
    }

    if (simple) {
      scalar_t* const target = a.out + row * a.channels + first;
#pragma GCC unroll 16
      for (int k = 0; k < kVecs; ++k) {
        if (a.row_scale) sum[k] *= a.row_scale[row];
        if (a.bias) sum[k] += load(a.bias + first + k * lanes);
        if (a.activation == kRelu) sum[k] = relu<acc_t>(sum[k]);
        put(target + k * lanes, sum[k], a.stream);
      }
    } else {
      Vec<acc_t> total[kVecs];  // a copy: the address of `sum` would keep it in memory
#pragma GCC unroll 16
      for (int k = 0; k < kVecs; ++k) total[k] = sum[k];
      finish_tile(a, row, first, total, kVecs);
    }
  }
  if (a.stream) end_stream();
  return valid;
}

// The tile of min(vecs, kVecs) vectors that starts at feature `first`.
template <int kVecs, typename scalar_t, typename index_t>
ADVKERN_INLINE bool aggregate_vecs(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t end,
                                   int64_t first, int64_t vecs) {
  if constexpr (kVecs > 1)
    if (vecs < kVecs) return aggregate_vecs<kVecs - 1>(a, begin, end, first, vecs);
  return aggregate_tile<kVecs>(a, begin, end, first);
}

// Where the rows of a batch begin among its edges.
template <typename acc_t>
struct RowStarts {
  typedef decltype(Vec<acc_t>{} == Vec<acc_t>{}) mask_t;
  typedef decltype(mask_t{}[0] + 0) bits_t;
  int64_t rows_before[kBatchEdges + 1];  // rows that begin with the edge, the batch's first one left out
  bits_t goes_on[kBatchEdges + 1];       // all ones where the edge is of the row of the edge before it

  // False where the offsets are damaged.
  bool find(const int64_t* rowptr, int64_t rows) {
    const int64_t first = rowptr[0], last = rowptr[rows];
    for (int64_t e = 0; e <= last - first; ++e) rows_before[e] = 0, goes_on[e] = ~bits_t(0);
    goes_on[0] = 0;
    for (int64_t row = 1; row < rows; ++row) {
      if (rowptr[row] < rowptr[row - 1] || rowptr[row] > last) return false;
      ++rows_before[rowptr[row] - first];
      goes_on[rowptr[row] - first] = 0;
    }
    return true;
  }
};

template <typename index_t>
ADVKERN_INLINE bool all_inside(const index_t* col, int64_t count, int64_t num_nodes) {
  index_t least = 0, most = 0;
  for (int64_t e = 0; e < count; ++e) {
    least = col[e] < least ? col[e] : least;
    most = col[e] > most ? col[e] : most;
  }
  return count == 0 || (least >= 0 && int64_t(most) < num_nodes);
}

// So many rows from `row` on that they make a batch; 0 where already one has too many edges, or bad offsets.
template <typename scalar_t, typename index_t>
ADVKERN_INLINE int64_t rows_of_batch(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t row, int64_t end) {
  int64_t rows = end - row < kBatchRows ? end - row : kBatchRows;
  while (rows && uint64_t(a.rowptr[row + rows] - a.rowptr[row]) > uint64_t(kBatchEdges)) rows /= 2;
  return rows && a.rowptr[row] >= 0 && a.rowptr[row + rows] <= a.num_edges ? rows : 0;
}

// A batch of rows of at most one vector of features. A loop a row would mispredict its end, which at a few edges a
// row costs more than the edges. So the edges go by in one stream: each adds to its row's sum, or starts it, and
// stores it; no branch depends on where a row ends. False, and nothing done, where the graph is damaged.
template <bool kWeighted, typename scalar_t, typename index_t>
static bool aggregate_batch(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t rows) {
  using acc_t = acc_of<scalar_t>;
  using mask_t = typename RowStarts<acc_t>::mask_t;
  const int64_t first = a.rowptr[begin], last = a.rowptr[begin + rows];
  RowStarts<acc_t> starts;
  if (!all_inside(a.col + first, last - first, a.num_nodes) || !starts.find(a.rowptr + begin, rows)) return false;

  Vec<acc_t> sums[kBatchRows];  // of rows without edges too
  for (int64_t row = 0; row < rows; ++row) sums[row] = Vec<acc_t>{};
  const scalar_t* const limit = a.x + a.num_nodes * a.channels;
  Vec<acc_t> sum{}, *target = sums;
  for (int64_t e = first; e < last; ++e) {
    prefetch(a.x, id_ahead(a.col, e, a.num_edges, kNarrowAhead) * uint64_t(a.channels),
             a.channels * int64_t(sizeof(scalar_t)));
    const int64_t j = a.col[e];
    target += starts.rows_before[e - first];
    const mask_t goes_on = (mask_t{} + starts.goes_on[e - first]) != 0;
    Vec<acc_t> term = load_inside(a.x + j * a.channels, limit);
    if constexpr (kWeighted) {
      acc_t coefficient = a.weight ? a.weight[e] : acc_t(1);
      if (a.col_scale) coefficient *= a.col_scale[j];
      term *= coefficient;
    }
    sum = goes_on ? sum + term : term;
    *target = sum;
  }
  for (int64_t row = 0; row < rows; ++row) finish(a, begin + row, 0, sums[row]);
  return true;
}

// The same of exactly one vector of features, unweighted, from a matrix that the caches hold: a row's edges go by four
// at once, and those beyond its end read zeros, so a row's length costs a branch every four edges. The sum keeps its
// order.
template <typename scalar_t, typename index_t>
static bool aggregate_fours(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t rows) {
  using acc_t = acc_of<scalar_t>;
  static const scalar_t zeros[kLanes<acc_t>] = {};
  const int64_t first = a.rowptr[begin], last = a.rowptr[begin + rows];
  if (first == last || !all_inside(a.col + first, last - first, a.num_nodes)) return false;
  for (int64_t row = begin; row < begin + rows; ++row)
    if (a.rowptr[row + 1] < a.rowptr[row]) return false;
  for (int64_t row = begin; row < begin + rows; ++row) {
    const int64_t end = a.rowptr[row + 1];
    Vec<acc_t> sum{};
    for (int64_t e = a.rowptr[row]; e < end; e += 4)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int64_t j = a.col[e + k < last ? e + k : last - 1];
        sum += load(e + k < end ? a.x + j * kLanes<acc_t> : zeros);
      }
    finish(a, row, 0, sum);
  }
  return true;
}

template <bool kWeighted, typename scalar_t, typename index_t>
static bool aggregate_in_batches(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t end) {
  const bool fours = !kWeighted && a.channels == kLanes<acc_of<scalar_t>> &&
                     a.num_nodes * a.channels * int64_t(sizeof(scalar_t)) <= kCachedBytes;
  bool valid = true;
  while (begin < end) {
    int64_t rows = rows_of_batch(a, begin, end);
    const bool done = rows && (fours ? aggregate_fours(a, begin, rows) : aggregate_batch<kWeighted>(a, begin, rows));
    if (!done) {
      valid &= aggregate_tile<1>(a, begin, begin + 1, 0);
      rows = 1;
    }
    begin += rows;
  }
  return valid;
}

// Rows [begin, end) of out become the logarithm of their softmax, while the caches still hold them.
template <typename scalar_t>
static void log_softmax_rows(scalar_t* out, int64_t begin, int64_t end, int64_t channels) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  for (int64_t row = begin; row < end; ++row) {
    scalar_t* const values = out + row * channels;
    Vec<acc_t> greatest = Vec<acc_t>{} + acc_t(values[0]), total{};  // of a part of a vector, the rest takes values[0]
    for (int64_t f = 0; f < channels; f += lanes) {
      const Vec<acc_t> v = load_part(values + f, channels - f, values[0]);
      greatest = greatest > v ? greatest : v;
    }
    const acc_t shift = max_lanes<acc_t>(greatest);
    for (int64_t f = 0; f < channels; f += lanes)
      total += exp_or_zero<acc_t>(load_part(values + f, channels - f, scalar_t(-INFINITY)) - shift);
    const acc_t log_sum = acc_t(::log(double(sum_lanes<acc_t>(total))));
    for (int64_t f = 0; f < channels; f += lanes)
      store_part(values + f, load_part(values + f, channels - f) - shift - log_sum, channels - f);
  }
}

template <typename scalar_t, typename index_t>
static bool gcn_aggregate_rows(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  bool valid = true;
  if (0 < a.channels && a.channels <= lanes) {
    const bool weighted = a.weight || a.col_scale;
    valid = weighted ? aggregate_in_batches<true>(a, begin, end) : aggregate_in_batches<false>(a, begin, end);
  } else {
    for (int64_t first = 0; first < a.channels; first += kMaxVecs * lanes)
      valid &= aggregate_vecs<kMaxVecs>(a, begin, end, first, (a.channels - first + lanes - 1) / lanes);
  }
  if (a.activation == kLogSoftmax && a.channels) log_softmax_rows(a.out, begin, end, a.channels);
  return valid;
}

// The gradient before the activation, of `total` = the sum of the row's gradients.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> activate_backward(Vec<acc_t> grad, Vec<acc_t> out, acc_t total, int64_t activation) {
  if (activation == kRelu) return out <= 0 ? Vec<acc_t>{} : grad;  // where out is NaN it passes through
  if (activation == kElu) return grad * (out > 0 ? Vec<acc_t>{} + 1 : out + 1);
  if (activation == kLogSoftmax) return grad - exp_or_zero<acc_t>(out) * total;
  return grad;
}

template <typename scalar_t>
static void activation_bwd_rows(const GcnActivationBwdArgs<scalar_t>& a, int64_t begin, int64_t end) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  for (int64_t row = begin; row < end; ++row) {
    const scalar_t *const grad = a.grad + row * a.channels, *const out = a.out + row * a.channels;
    scalar_t* const result = a.result + row * a.channels;
    Vec<acc_t> total{};
    if (a.activation == kLogSoftmax)
      for (int64_t f = 0; f < a.channels; f += lanes) total += load_part(grad + f, a.channels - f);
    const acc_t sum = sum_lanes<acc_t>(total);
    int64_t f = 0;
    for (; f + lanes <= a.channels; f += lanes)
      put(result + f, activate_backward<acc_t>(load(grad + f), load(out + f), sum, a.activation), a.stream);
    if (const int64_t left = a.channels - f; left > 0)
      store_part(result + f,
                 activate_backward<acc_t>(load_part(grad + f, left), load_part(out + f, left), sum, a.activation),
                 left);
  }
  if (a.stream) end_stream();
}

// dot[e] = <a[i], b[j]> for every stored entry e = (i, j): the derivative by the edge weights.
template <typename scalar_t, typename index_t>
static bool edge_dot_rows(const EdgeDotArgs<scalar_t, index_t>& t, int64_t begin, int64_t end) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t whole = t.channels / lanes * lanes, rest = t.channels - whole;
  bool valid = true;
  for (int64_t row = begin; row < end; ++row) {
    const RowEdges edges = row_edges(t.rowptr, row, t.num_edges);
    valid &= edges.valid;
    const scalar_t* const a = t.a + row * t.channels;
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      prefetch(t.b, id_ahead(t.col, e, t.num_edges) * uint64_t(t.channels), t.channels * int64_t(sizeof(scalar_t)));
      const int64_t j = t.col[e];
      if (uint64_t(j) >= uint64_t(t.num_nodes)) {
        valid = false;
        continue;
      }
      const scalar_t* const b = t.b + j * t.channels;
      Vec<acc_t> sum{};
      for (int64_t f = 0; f < whole; f += lanes) sum += load(a + f) * load(b + f);
      if (rest > 0) sum += load_part(a + whole, rest) * load_part(b + whole, rest);
      t.dot[e] = sum_lanes<acc_t>(sum);
    }
  }
  return valid;
}

}  // namespace advkern::ADVKERN_ISA
