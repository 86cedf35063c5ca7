// SPDX-License-Identifier: MIT
// out[i] = act(s_i * sum_{e in row i} w_e c_j x[j] + b),  j = col[e].
// A row at a time, its sums in registers over a tile of up to kMaxVecs vectors of features; the rows that later
// edges will need are prefetched. Torch-free; included once per instruction set by common/for_each_isa.h.
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

constexpr int kMaxVecs = 8;  // vectors of features a tile holds in registers; 16 gain nothing
constexpr int kAhead = 32;   // edges between a prefetch and its use; below ~24 it arrives too late
constexpr int kLineBytes = 64;

// Edges of row i, or an empty range where rowptr cannot be trusted.
struct RowEdges {
  int64_t begin, end;
  bool valid;
};
ADVKERN_INLINE RowEdges row_edges(const int64_t* rowptr, int64_t row, int64_t num_edges) {
  const int64_t begin = rowptr[row], end = rowptr[row + 1];
  if (begin < 0 || begin > end || end > num_edges) return {0, 0, false};
  return {begin, end, true};
}

// A full vector, unless that would read past the end of the whole matrix.
template <typename scalar_t>
ADVKERN_INLINE auto load_inside(const scalar_t* p, const scalar_t* limit) {
  return limit - p >= kLanes<acc_of<scalar_t>> ? load(p) : load_part(p, limit - p);
}

// Brings `bytes` from element `offset` of `base` nearer. The offset may come of a bad id (a prefetch of a wrong
// address is harmless), so the sum is taken in unsigned integers.
template <typename scalar_t>
ADVKERN_INLINE void prefetch(const scalar_t* base, uint64_t offset, int64_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(base) + offset * sizeof(scalar_t);
  for (int64_t line = 0; line < bytes; line += kLineBytes)
    __builtin_prefetch(reinterpret_cast<const char*>(address + uintptr_t(line)));
}

template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> activate(Vec<acc_t> v, int64_t activation) {
  if (activation == 1) return v < 0 ? Vec<acc_t>{} : v;  // relu; NaN passes through
  if (activation == 2)                                   // elu
    for (int k = 0; k < kLanes<acc_t>; ++k) v[k] = v[k] > 0 ? v[k] : ::expm1(v[k]);
  return v;
}

// Row i, features [first, first + kVecs * lanes). False where an id or an offset is out of range.
template <int kVecs, typename scalar_t, typename index_t>
static bool aggregate_tile(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t row, int64_t first) {
  using acc_t = acc_of<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const RowEdges edges = row_edges(a.rowptr, row, a.num_edges);
  const scalar_t* const limit = a.x + a.num_nodes * a.channels;
  bool valid = edges.valid;

  Vec<acc_t> sum[kVecs];
#pragma GCC unroll 8
  for (int k = 0; k < kVecs; ++k) sum[k] = Vec<acc_t>{};
  for (int64_t e = edges.begin; e < edges.end; ++e) {
    const uint64_t ahead = uint64_t(a.col[e + kAhead < a.num_edges ? e + kAhead : a.num_edges - 1]);
    prefetch(a.x, ahead * uint64_t(a.channels) + uint64_t(first), kVecs * lanes * int64_t(sizeof(scalar_t)));
    const int64_t j = a.col[e];
    if (uint64_t(j) >= uint64_t(a.num_nodes)) {
      valid = false;
      continue;
    }
    acc_t coefficient = a.weight ? a.weight[e] : acc_t(1);
    if (a.col_scale) coefficient *= a.col_scale[j];
    const scalar_t* const source = a.x + j * a.channels + first;
#pragma GCC unroll 8
    for (int k = 0; k < kVecs - 1; ++k) sum[k] += coefficient * load(source + k * lanes);
    sum[kVecs - 1] += coefficient * load_inside(source + (kVecs - 1) * lanes, limit);
  }

  scalar_t* const target = a.out + row * a.channels + first;
#pragma GCC unroll 8
  for (int k = 0; k < kVecs; ++k) {
    const int64_t left = a.channels - first - k * lanes;
    if (a.row_scale) sum[k] *= a.row_scale[row];
    if (a.bias) sum[k] += load_part(a.bias + first + k * lanes, left);
    store_part(target + k * lanes, activate<acc_t>(sum[k], a.activation), left);
  }
  return valid;
}

// The tile of min(vecs, kVecs) vectors that starts at feature `first`.
template <int kVecs, typename scalar_t, typename index_t>
ADVKERN_INLINE bool aggregate_vecs(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t row, int64_t first,
                                   int64_t vecs) {
  if constexpr (kVecs > 1)
    if (vecs < kVecs) return aggregate_vecs<kVecs - 1>(a, row, first, vecs);
  return aggregate_tile<kVecs>(a, row, first);
}

template <typename scalar_t, typename index_t>
static bool aggregate_row(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t row) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  bool valid = true;
  for (int64_t first = 0; first < a.channels; first += kMaxVecs * lanes)
    valid &= aggregate_vecs<kMaxVecs>(a, row, first, (a.channels - first + lanes - 1) / lanes);
  return valid;
}

template <typename scalar_t, typename index_t>
static bool gcn_aggregate_rows(const GcnAggregateArgs<scalar_t, index_t>& a, int64_t begin, int64_t end) {
  bool valid = true;
  for (int64_t row = begin; row < end; ++row) valid &= aggregate_row(a, row);
  return valid;
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
      const uint64_t ahead = uint64_t(t.col[e + kAhead < t.num_edges ? e + kAhead : t.num_edges - 1]);
      prefetch(t.b, ahead * uint64_t(t.channels), t.channels * int64_t(sizeof(scalar_t)));
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
