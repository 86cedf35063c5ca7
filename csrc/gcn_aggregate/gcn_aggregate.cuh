// SPDX-License-Identifier: MIT
// out[i] = act(s_i * sum_{e in row i} w_e c_j x[j] + b),  j = col[e].
// A warp sums one row, or one chunk of a row of more than kChunkEdges edges; a second pass adds the chunks. log_softmax
// is one more pass over the finished rows.
// Nothing is read outside of the arrays: an id out of range makes its row NaN, and so do offsets that do not ascend
// and a list of chunks that does not fit them. (Telling the host would need a synchronisation.)
#pragma once

#include <cmath>
#include <cstdint>

#include "common/csr.cuh"
#include "common/launch.cuh"
#include "common/row_tile.cuh"
#include "common/types.h"
#include "common/warp.cuh"
#include "gcn_aggregate/gcn_aggregate_activation.h"

namespace advkern {

constexpr int kBlockWarps = 4;
constexpr int kBlockThreads = kBlockWarps * kWarpSize;
constexpr int kMinBlocks = 5;  // a multiprocessor: leaves registers enough for no spills
constexpr int kUnroll = 4;     // edges that a group of lanes has under way
constexpr int kDotUnroll = 2;  // the same, two rows an edge
constexpr int kJoinWarps = 16;
constexpr int kMaxJoinBlocks = 1024;  // some blocks a multiprocessor; each takes every kMaxJoinBlocks-th chunk

template <typename scalar_t, typename index_t>
struct GcnAggregateFwdArgs {
  const int64_t* rowptr;              // [num_nodes + 1]
  const index_t* col;                 // [num_edges]
  const int64_t* chunks;              // [num_chunks, 2]: row and first edge; unused ones, the last, have row num_nodes
  const scalar_t* x;                  // [num_nodes, channels]
  const acc_of<scalar_t>* weight;     // [num_edges] or null
  const acc_of<scalar_t>* row_scale;  // [num_nodes] or null
  const acc_of<scalar_t>* col_scale;  // [num_nodes] or null
  const acc_of<scalar_t>* bias;       // [channels] or null
  scalar_t* out;                      // [num_nodes, channels]
  acc_of<scalar_t>* partial;          // [num_chunks, partial_width]: scratch
  int64_t num_nodes, num_edges, num_chunks, channels, activation;
};

template <typename scalar_t, typename index_t>
struct GcnAggregateEdgeDotArgs {
  const int64_t* rowptr;  // [num_nodes + 1]
  const index_t* col;     // [num_edges]
  const scalar_t* a;      // [num_nodes, channels], the rows
  const scalar_t* b;      // [num_nodes, channels], the columns
  acc_of<scalar_t>* dot;  // [num_edges]
  int64_t num_nodes, num_edges, channels;
};

template <typename scalar_t>
struct GcnActivationBwdArgs {
  const scalar_t* grad;  // [num_nodes, channels]
  const scalar_t* out;   // [num_nodes, channels]: what the activation gave
  scalar_t* result;      // [num_nodes, channels]
  int64_t num_nodes, channels, activation;
};

// Channels that the scratch holds of a chunk: those that a warp sums at a time, at most 4 bytes an edge in all.
template <typename scalar_t>
int64_t partial_width(int64_t channels) {
  return int64_t(lanes_of_row<scalar_t>(channels)) * kPack<scalar_t>;
}

template <typename acc_t>
__device__ acc_t activate(acc_t v, int64_t activation) {
  if (activation == kRelu) return v < 0 ? acc_t(0) : v;  // NaN passes through
  if (activation == kElu) return v > 0 ? v : ::expm1(v);
  return v;
}

// The gradient before the activation, of `total` = the sum of the row's gradients.
template <typename acc_t>
__device__ acc_t activate_backward(acc_t grad, acc_t out, acc_t total, int64_t activation) {
  if (activation == kRelu) return out <= 0 ? acc_t(0) : grad;  // where out is NaN it passes through
  if (activation == kElu) return grad * (out > 0 ? acc_t(1) : out + 1);
  return grad - ::exp(out) * total;
}

// What stands at one edge: the column, and the factor of its features; a bad id's factor is NaN.
template <typename scalar_t, typename index_t>
struct Edge {
  index_t column = 0;
  acc_of<scalar_t> factor = 0;

  __device__ Edge(const GcnAggregateFwdArgs<scalar_t, index_t>& a, int64_t e, bool wanted) {
    if (!wanted) return;
    column = a.col[e];
    if (uint64_t(column) >= uint64_t(a.num_nodes)) {
      column = 0;
      factor = NAN;
      return;
    }
    factor = a.weight ? a.weight[e] : acc_of<scalar_t>(1);
    if (a.col_scale) factor *= a.col_scale[column];
  }
};

// Adds edges [begin, end) into `sum`, alike in every group of `tile.lanes` lanes. Each lane reads one id and factor
// of 32, each group of lanes takes every so-manieth of these edges, and the groups' sums are added in the end.
template <bool kAligned, typename scalar_t, typename index_t>
__device__ void sum_edges(const GcnAggregateFwdArgs<scalar_t, index_t>& a, const RowTile<kAligned, scalar_t>& tile,
                          EdgeRange edges, acc_of<scalar_t> (&sum)[kPack<scalar_t>]) {
  using acc_t = acc_of<scalar_t>;
  const int lane = int(threadIdx.x) % kWarpSize, group = lane / tile.lanes, groups = kWarpSize / tile.lanes;
  for (int64_t base = edges.begin; base < edges.end; base += kWarpSize) {
    const int count = edges.end - base < kWarpSize ? int(edges.end - base) : kWarpSize;
    const Edge<scalar_t, index_t> mine(a, base + lane, lane < count);
    for (int first = 0; first < count; first += groups * kUnroll) {
      Pack<scalar_t> part[kUnroll];
      acc_t factor[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {  // all loads before the first use
        const int slot = first + u * groups + group;
        const int64_t column = broadcast(mine.column, slot);
        factor[u] = broadcast(mine.factor, slot);
        part[u] = tile.load(a.x + column * a.channels, slot < count);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const bool wanted = first + u * groups + group < count;
#pragma unroll
        for (int k = 0; k < kPack<scalar_t>; ++k) sum[k] += (wanted ? factor[u] : acc_t(0)) * acc_t(part[u].value[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kPack<scalar_t>; ++k) sum[k] = sum_over_lanes(sum[k], tile.lanes, kWarpSize);
}

template <typename scalar_t, typename index_t>
__device__ scalar_t finish(const GcnAggregateFwdArgs<scalar_t, index_t>& a, int64_t row, int64_t channel,
                           acc_of<scalar_t> sum) {
  if (a.row_scale) sum *= a.row_scale[row];
  if (a.bias) sum += a.bias[channel];
  return scalar_t(activate(sum, a.activation));
}

// Channels [first, first + width) of every row. Chunks come first, so that the longest work does not start last.
template <bool kAligned, typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kBlockThreads, kMinBlocks)
    gcn_aggregate_fwd_kernel(GcnAggregateFwdArgs<scalar_t, index_t> a, int64_t first, int lanes, int64_t width) {
  const int64_t item = int64_t(blockIdx.x) * kBlockWarps + int(threadIdx.x) / kWarpSize;
  const bool is_chunk = item < a.num_chunks;
  const int64_t row = is_chunk ? a.chunks[2 * item] : item - a.num_chunks;
  if (row == a.num_nodes || item >= a.num_chunks + a.num_nodes) return;  // the whole warp

  EdgeRange edges = is_chunk ? chunk_edges(a.rowptr, a.chunks, item, a.num_nodes, a.num_edges)
                             : row_edges(a.rowptr, row, a.num_edges);
  if (edges.end - edges.begin > kChunkEdges) edges.valid = false;  // a long row is NaN until its chunks are added

  const RowTile<kAligned, scalar_t> tile(first, a.channels, lanes);
  acc_of<scalar_t> sum[kPack<scalar_t>];
#pragma unroll
  for (int k = 0; k < kPack<scalar_t>; ++k) sum[k] = edges.valid ? 0 : NAN;
  if (edges.valid) sum_edges(a, tile, edges, sum);
  if (int(threadIdx.x) % kWarpSize >= lanes) return;  // the other groups hold the same sums

  if (is_chunk) {
#pragma unroll
    for (int k = 0; k < kPack<scalar_t>; ++k)
      if (tile.has(k)) a.partial[item * width + tile.channel(k) - first] = sum[k];
    return;
  }
  Pack<scalar_t> result;
#pragma unroll
  for (int k = 0; k < kPack<scalar_t>; ++k)
    if (tile.has(k)) result.value[k] = finish(a, row, tile.channel(k), sum[k]);
  tile.store(a.out + row * a.channels, result);
}

// The long rows. A block takes 32 channels of a row: each of its warps adds every kJoinWarps-th chunk, and the first
// one adds their sums in order.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kJoinWarps* kWarpSize)
    gcn_aggregate_join_kernel(GcnAggregateFwdArgs<scalar_t, index_t> a, int64_t first, int64_t width) {
  using acc_t = acc_of<scalar_t>;
  acc_t* const sums = shared_memory<acc_t>();  // [kJoinWarps, kWarpSize]
  const int thread = int(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int64_t offset = int64_t(blockIdx.y) * kWarpSize + lane, channel = first + offset;
  const bool inside = offset < width && channel < a.channels;
  for (int64_t k = blockIdx.x; k < a.num_chunks && a.chunks[2 * k] != a.num_nodes; k += gridDim.x) {
    const int64_t count = inside ? count_chunks(a.rowptr, a.chunks, k, a.num_chunks, a.num_nodes, a.num_edges) : 0;
    acc_t sum = 0;
#pragma unroll 4
    for (int64_t c = warp; c < count; c += kJoinWarps) sum += a.partial[(k + c) * width + offset];
    sums[thread] = sum;
    __syncthreads();
    if (warp == 0 && count > 0) {
      for (int w = 1; w < kJoinWarps; ++w) sum += sums[w * kWarpSize + lane];
      const int64_t row = a.chunks[2 * k];
      a.out[row * a.channels + channel] = finish(a, row, channel, sum);
    }
    __syncthreads();
  }
}

// Rows of out become the logarithm of their softmax; a warp takes one.
template <typename scalar_t>
__global__ void __launch_bounds__(kBlockThreads)
    gcn_aggregate_log_softmax_kernel(scalar_t* out, int64_t num_nodes, int64_t channels) {
  using acc_t = acc_of<scalar_t>;
  const int64_t row = int64_t(blockIdx.x) * kBlockWarps + int(threadIdx.x) / kWarpSize;
  if (row >= num_nodes) return;  // the whole warp
  scalar_t* const values = out + row * channels;
  const int lane = int(threadIdx.x) % kWarpSize;
  acc_t greatest = -INFINITY, sum = 0;
  for (int64_t channel = lane; channel < channels; channel += kWarpSize) {
    const acc_t value = acc_t(values[channel]);
    greatest = value > greatest ? value : greatest;
  }
  greatest = max_over_lanes(greatest, 1, kWarpSize);
  for (int64_t channel = lane; channel < channels; channel += kWarpSize)
    sum += ::exp(acc_t(values[channel]) - greatest);
  const acc_t log_sum = ::log(sum_over_lanes(sum, 1, kWarpSize));
  for (int64_t channel = lane; channel < channels; channel += kWarpSize)
    values[channel] = scalar_t(acc_t(values[channel]) - greatest - log_sum);
}

// An activation's gradient. Some lanes take a row.
template <bool kAligned, typename scalar_t>
__global__ void __launch_bounds__(kBlockThreads)
    gcn_aggregate_activation_bwd_kernel(GcnActivationBwdArgs<scalar_t> a, int lanes) {
  using acc_t = acc_of<scalar_t>;
  const int64_t row = (int64_t(blockIdx.x) * kBlockThreads + int(threadIdx.x)) / lanes, step = lanes * kPack<scalar_t>;
  const bool wanted = row < a.num_nodes;
  const int64_t start = wanted ? row * a.channels : 0;
  acc_t total = 0;
  if (a.activation == kLogSoftmax) {
    for (int64_t channel = 0; channel < a.channels; channel += step) {
      const Pack<scalar_t> grad = RowTile<kAligned, scalar_t>(channel, a.channels, lanes).load(a.grad + start, wanted);
#pragma unroll
      for (int k = 0; k < kPack<scalar_t>; ++k) total += acc_t(grad.value[k]);
    }
    total = sum_over_lanes(total, 1, lanes);
  }
  if (!wanted) return;
  for (int64_t channel = 0; channel < a.channels; channel += step) {
    const RowTile<kAligned, scalar_t> tile(channel, a.channels, lanes);
    Pack<scalar_t> grad = tile.load(a.grad + start, true);
    const Pack<scalar_t> out = tile.load(a.out + start, true);
#pragma unroll
    for (int k = 0; k < kPack<scalar_t>; ++k)
      grad.value[k] = scalar_t(activate_backward(acc_t(grad.value[k]), acc_t(out.value[k]), total, a.activation));
    tile.store(a.result + start, grad);
  }
}

// dot[e] = <a[i], b[j]> for every stored entry e = (i, j): the derivative by the edge weights; NaN where an id or the
// offsets are out of range. A warp takes 32 edges, whatever rows they lie in, some lanes an edge.
template <bool kAligned, typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kBlockThreads, kMinBlocks)
    gcn_aggregate_edge_dot_kernel(GcnAggregateEdgeDotArgs<scalar_t, index_t> t, int lanes) {
  using acc_t = acc_of<scalar_t>;
  const int64_t base = int64_t(blockIdx.x) * kBlockThreads + int(threadIdx.x) / kWarpSize * kWarpSize;
  if (base >= t.num_edges) return;  // the whole warp
  const int count = t.num_edges - base < kWarpSize ? int(t.num_edges - base) : kWarpSize;
  const int lane = int(threadIdx.x) % kWarpSize, group = lane / lanes, groups = kWarpSize / lanes;

  int64_t my_row = -1;
  index_t my_column = 0;
  if (lane < count) {
    my_column = t.col[base + lane];
    if (uint64_t(my_column) < uint64_t(t.num_nodes))
      my_row = row_of_edge(t.rowptr, t.num_nodes, t.num_edges, base + lane);
  }

  for (int first = 0; first < count; first += groups * kDotUnroll) {
    acc_t dot[kDotUnroll];
    const scalar_t *a[kDotUnroll], *b[kDotUnroll];
    bool wanted[kDotUnroll];
#pragma unroll
    for (int u = 0; u < kDotUnroll; ++u) {
      const int slot = first + u * groups + group;
      const int64_t row = broadcast(my_row, slot), column = broadcast(my_column, slot);
      wanted[u] = slot < count && row >= 0;
      dot[u] = wanted[u] ? acc_t(0) : acc_t(NAN);
      a[u] = t.a + (wanted[u] ? row * t.channels : 0);
      b[u] = t.b + (wanted[u] ? column * t.channels : 0);
    }
#pragma unroll 1
    for (int64_t channel = 0; channel < t.channels; channel += int64_t(lanes) * kPack<scalar_t>) {
      const RowTile<kAligned, scalar_t> tile(channel, t.channels, lanes);
      Pack<scalar_t> left[kDotUnroll], right[kDotUnroll];
#pragma unroll
      for (int u = 0; u < kDotUnroll; ++u) {  // all loads before the first use
        left[u] = tile.load(a[u], wanted[u]);
        right[u] = tile.load(b[u], wanted[u]);
      }
#pragma unroll
      for (int u = 0; u < kDotUnroll; ++u)
#pragma unroll
        for (int k = 0; k < kPack<scalar_t>; ++k) dot[u] += acc_t(left[u].value[k]) * acc_t(right[u].value[k]);
    }
#pragma unroll
    for (int u = 0; u < kDotUnroll; ++u) {
      const int slot = first + u * groups + group;
      const acc_t total = sum_over_lanes(dot[u], 1, lanes);
      if (lane % lanes == 0 && slot < count) t.dot[base + slot] = total;
    }
  }
}

// Wide rows go by parts, so that the scratch stays small and the part of x that a pass reads stays in the cache.
template <typename scalar_t, typename index_t>
cudaError_t launch_gcn_aggregate_fwd(const GcnAggregateFwdArgs<scalar_t, index_t>& a, cudaStream_t stream) {
  const int64_t row_bytes = a.channels * int64_t(sizeof(scalar_t)), width = partial_width<scalar_t>(a.channels);
  const bool aligned = rows_are_aligned(a.x, row_bytes) && rows_are_aligned(a.out, row_bytes);
  const auto kernel =
      aligned ? gcn_aggregate_fwd_kernel<true, scalar_t, index_t> : gcn_aggregate_fwd_kernel<false, scalar_t, index_t>;
  const int64_t blocks = blocks_for(a.num_chunks + a.num_nodes, kBlockWarps);
  const int64_t join_blocks = a.num_chunks < kMaxJoinBlocks ? a.num_chunks : kMaxJoinBlocks;
  for (int64_t first = 0; first < a.channels && blocks > 0; first += width) {
    const int lanes = lanes_of_row<scalar_t>(a.channels - first);
    cudaError_t error = launch_blocks(kernel, blocks, kBlockThreads, stream, a, first, lanes, width);
    if (error == cudaSuccess && join_blocks > 0)
      error = launch(gcn_aggregate_join_kernel<scalar_t, index_t>,
                     dim3(unsigned(join_blocks), unsigned(blocks_for(width, kWarpSize))), dim3(kJoinWarps * kWarpSize),
                     sizeof(acc_of<scalar_t>) * kJoinWarps * kWarpSize, stream, a, first, width);
    if (error != cudaSuccess) return error;
  }
  if (a.activation != kLogSoftmax || a.num_nodes == 0 || a.channels == 0) return cudaSuccess;
  return launch_blocks(gcn_aggregate_log_softmax_kernel<scalar_t>, blocks_for(a.num_nodes, kBlockWarps), kBlockThreads,
                       stream, a.out, a.num_nodes, a.channels);
}

template <typename scalar_t>
cudaError_t launch_gcn_aggregate_activation_bwd(const GcnActivationBwdArgs<scalar_t>& a, cudaStream_t stream) {
  if (a.num_nodes == 0 || a.channels == 0) return cudaSuccess;
  const int64_t row_bytes = a.channels * int64_t(sizeof(scalar_t));
  const bool aligned = rows_are_aligned(a.grad, row_bytes) && rows_are_aligned(a.out, row_bytes) &&
                       rows_are_aligned(a.result, row_bytes);
  const auto kernel = aligned ? gcn_aggregate_activation_bwd_kernel<true, scalar_t>
                              : gcn_aggregate_activation_bwd_kernel<false, scalar_t>;
  const int lanes = lanes_of_row<scalar_t>(a.channels);
  return launch_blocks(kernel, blocks_for(a.num_nodes, kBlockThreads / lanes), kBlockThreads, stream, a, lanes);
}

template <typename scalar_t, typename index_t>
cudaError_t launch_gcn_aggregate_edge_dot(const GcnAggregateEdgeDotArgs<scalar_t, index_t>& t, cudaStream_t stream) {
  if (t.num_edges == 0) return cudaSuccess;
  const int64_t row_bytes = t.channels * int64_t(sizeof(scalar_t));
  const bool aligned = rows_are_aligned(t.a, row_bytes) && rows_are_aligned(t.b, row_bytes);
  const auto kernel = aligned ? gcn_aggregate_edge_dot_kernel<true, scalar_t, index_t>
                              : gcn_aggregate_edge_dot_kernel<false, scalar_t, index_t>;
  return launch_blocks(kernel, blocks_for(t.num_edges, kBlockThreads), kBlockThreads, stream, t,
                       lanes_of_row<scalar_t>(t.channels));
}

}  // namespace advkern
