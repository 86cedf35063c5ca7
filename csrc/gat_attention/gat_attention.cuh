// SPDX-License-Identifier: MIT
// out[i] = sum_{e in row i} keep_e alpha_e h[j],  j = col[e],  alpha = softmax over the row of leaky_relu(d_i + s_j).
// Forward: a warp finds the greatest score and the sum of exp of a row, or of a chunk of a long one; then the weight of
// every edge and head, once (exp, and one Philox call for four heads); then the sums of the features. Backward: the
// same sums over the transpose. Rows whose ids or offsets are out of range are NaN; nothing foreign is read.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/csr.cuh"
#include "common/launch.cuh"
#include "common/philox.h"
#include "common/row_tile.cuh"
#include "common/types.h"
#include "common/warp.cuh"

namespace advkern {

constexpr int kGatWarps = 4;
constexpr int kGatThreads = kGatWarps * kWarpSize;
constexpr int kGatMinBlocks = 5;  // a multiprocessor: leaves registers enough for no spills
constexpr int kGatUnroll = 4;     // edges that a group of lanes has under way

template <typename index_t>
struct GatGraph {
  const int64_t* rowptr;  // [num_nodes + 1]
  const index_t* col;     // [num_edges]
  const int64_t* chunks;  // [num_chunks, 2]: row and first edge; unused ones, the last, have row num_nodes
  int64_t num_nodes, num_edges, num_chunks;
};

struct GatDrop {
  const int64_t* seed;  // [1]; not read where threshold is 0
  uint64_t threshold;   // of 2^32
};

template <typename scalar_t, typename index_t>
struct GatAttentionFwdArgs {
  using acc_t = acc_of<scalar_t>;
  GatGraph<index_t> graph;
  const scalar_t* h;                   // [num_nodes, heads, channels]
  const acc_t *score_dst, *score_src;  // [num_nodes, heads]
  const acc_t* bias;                   // [heads, channels] or null
  scalar_t* out;                       // [num_nodes, heads, channels]
  acc_t *row_max, *row_sum;            // [num_nodes, heads]
  acc_t* weight;                       // [num_edges, heads]: scratch
  acc_t* chunk_stats;                  // [num_chunks, 2, heads]: scratch
  acc_t* partial;                      // [num_chunks, gat_partial_width]: scratch
  int64_t heads, channels;
  acc_t negative_slope;
  GatDrop drop;
};

template <typename scalar_t, typename index_t>
struct GatAttentionBwdArgs {
  using acc_t = acc_of<scalar_t>;
  GatGraph<index_t> graph;  // its col is not read
  GatGraph<index_t> transpose;
  const int64_t* perm;                 // [num_edges]: the place in the graph of each edge of the transpose
  const scalar_t* h;                   // [num_nodes, heads, channels]
  const acc_t *score_dst, *score_src;  // [num_nodes, heads]
  const scalar_t* out;                 // [num_nodes, heads, channels]
  const acc_t *row_max, *row_sum;      // [num_nodes, heads]
  const scalar_t* grad;                // [num_nodes, heads, channels]
  const acc_t* grad_sum;               // [num_nodes, heads] or null
  scalar_t* grad_h;                    // [num_nodes, heads, channels]
  acc_t *grad_dst, *grad_src;          // [num_nodes, heads]
  acc_t* delta;                        // [num_nodes, heads]: scratch, and so is all below
  acc_t* weight;                       // [num_edges, heads], in the transpose's order
  acc_t *grad_score, *grad_score_t;    // [num_edges, heads], in the graph's order and in the transpose's
  acc_t* chunk_stats;                  // [chunks of the graph or of the transpose, 2, heads]
  acc_t* partial;                      // [chunks of the transpose, gat_partial_width]
  int64_t heads, channels;
  acc_t negative_slope;
  GatDrop drop;
};

// Channels of all heads that the scratch holds of a chunk: those that a warp sums at a time.
template <typename scalar_t>
int64_t gat_partial_width(int64_t heads, int64_t channels) {
  return int64_t(lanes_of_row<scalar_t>(heads * channels)) * kPack<scalar_t>;
}

// What a warp works on. Chunks come first, so that the longest work does not start last; a long row by itself is not
// valid: it is NaN until its chunks are joined.
struct GatItem {
  int64_t row;  // -1: nothing
  bool is_chunk;
  EdgeRange edges;
};

template <typename index_t>
__device__ GatItem item_of_warp(const GatGraph<index_t>& g) {
  const int64_t item = int64_t(blockIdx.x) * kGatWarps + int(threadIdx.x) / kWarpSize;
  const bool is_chunk = item < g.num_chunks;
  if (item >= g.num_chunks + g.num_nodes) return {-1, false, {0, 0, false}};
  const int64_t row = is_chunk ? g.chunks[2 * item] : item - g.num_chunks;
  if (row < 0 || row >= g.num_nodes) return {-1, false, {0, 0, false}};
  EdgeRange edges = is_chunk ? chunk_edges(g.rowptr, g.chunks, item, g.num_nodes, g.num_edges)
                             : row_edges(g.rowptr, row, g.num_edges);
  if (edges.end - edges.begin > kChunkEdges) edges.valid = false;
  return {row, is_chunk, edges};
}

// leaky_relu(d_i + s_j); NaN for an id out of range.
template <typename scalar_t, typename index_t>
__device__ acc_of<scalar_t> edge_score(const GatAttentionFwdArgs<scalar_t, index_t>& a, int64_t row, int64_t e,
                                       int64_t head) {
  const int64_t column = a.graph.col[e];
  if (uint64_t(column) >= uint64_t(a.graph.num_nodes)) return NAN;
  const acc_of<scalar_t> score = a.score_dst[row * a.heads + head] + a.score_src[column * a.heads + head];
  return score > 0 ? score : score * a.negative_slope;
}

// The lanes of a warp shared among heads: `width` neighbours take a head each, the others other edges of the same.
struct HeadLanes {
  int width, head, slot, slots;

  __device__ explicit HeadLanes(int64_t heads) : width(1) {
    while (width < kWarpSize && width < heads) width *= 2;
    const int lane = int(threadIdx.x) % kWarpSize;
    head = lane % width;
    slot = lane / width;
    slots = kWarpSize / width;
  }
};

// row_max and row_sum of short rows, and the same of chunks; a chunk's greatest score may be -inf.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads) gat_attention_stats_kernel(GatAttentionFwdArgs<scalar_t, index_t> a) {
  using acc_t = acc_of<scalar_t>;
  const GatItem item = item_of_warp(a.graph);
  if (item.row < 0) return;  // the whole warp
  const HeadLanes lanes(a.heads);
  for (int64_t first = 0; first < a.heads; first += lanes.width) {
    const int64_t head = first + lanes.head;
    const bool wanted = head < a.heads && item.edges.valid;
    acc_t greatest = -acc_t(INFINITY), sum = 0;
    for (int64_t e = item.edges.begin + lanes.slot; wanted && e < item.edges.end; e += lanes.slots) {
      const acc_t score = edge_score(a, item.row, e, head);
      greatest = score > greatest ? score : greatest;
    }
    greatest = max_over_lanes(greatest, lanes.width, kWarpSize);
    const acc_t shift = greatest == -acc_t(INFINITY) ? acc_t(0) : greatest;
    for (int64_t e = item.edges.begin + lanes.slot; wanted && e < item.edges.end; e += lanes.slots)
      sum += ::exp(edge_score(a, item.row, e, head) - shift);
    sum = sum_over_lanes(sum, lanes.width, kWarpSize);
    if (lanes.slot != 0 || head >= a.heads) continue;
    if (item.is_chunk) {
      const int64_t k = int64_t(blockIdx.x) * kGatWarps + int(threadIdx.x) / kWarpSize;
      a.chunk_stats[2 * k * a.heads + head] = greatest;
      a.chunk_stats[(2 * k + 1) * a.heads + head] = sum;
    } else {
      a.row_max[item.row * a.heads + head] = item.edges.valid ? shift : acc_t(NAN);
      a.row_sum[item.row * a.heads + head] = item.edges.valid ? sum : acc_t(NAN);
    }
  }
}

// The long rows' statistics, a thread a head of the chunk that begins a row.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads)
    gat_attention_join_stats_kernel(GatAttentionFwdArgs<scalar_t, index_t> a) {
  using acc_t = acc_of<scalar_t>;
  const int64_t thread = int64_t(blockIdx.x) * kGatThreads + int(threadIdx.x);
  const int64_t k = thread / a.heads, head = thread % a.heads;
  if (k >= a.graph.num_chunks) return;
  const GatGraph<index_t>& g = a.graph;
  const int64_t count = count_chunks(g.rowptr, g.chunks, k, g.num_chunks, g.num_nodes, g.num_edges);
  if (count == 0) return;
  acc_t greatest = -acc_t(INFINITY), sum = 0;
  for (int64_t c = k; c < k + count; ++c) {
    const acc_t other = a.chunk_stats[2 * c * a.heads + head];
    greatest = other > greatest ? other : greatest;
  }
  if (greatest == -acc_t(INFINITY)) greatest = 0;
  for (int64_t c = k; c < k + count; ++c) {
    const acc_t part = a.chunk_stats[(2 * c + 1) * a.heads + head], top = a.chunk_stats[2 * c * a.heads + head];
    sum += part == 0 ? acc_t(0) : part * ::exp((top == -acc_t(INFINITY) ? acc_t(0) : top) - greatest);
  }
  a.row_max[g.chunks[2 * k] * a.heads + head] = greatest;
  a.row_sum[g.chunks[2 * k] * a.heads + head] = sum;
}

// What dropout multiplies with for the four heads that share a counter.
template <typename acc_t>
struct KeepFactors {
  acc_t factor[kPhiloxWords];

  __device__ KeepFactors(const GatDrop& drop, int64_t edge, int64_t group) {
    constexpr uint64_t all = uint64_t(1) << 32;
    for (int k = 0; k < kPhiloxWords; ++k) factor[k] = 1;
    if (drop.threshold == 0) return;
    const acc_t scale = drop.threshold < all ? acc_t(double(all) / double(all - drop.threshold)) : acc_t(0);
    const PhiloxWords counter{{uint32_t(edge), uint32_t(uint64_t(edge) >> 32), uint32_t(group), 0}};
    const PhiloxWords words = philox(counter, uint64_t(*drop.seed));
    for (int k = 0; k < kPhiloxWords; ++k) factor[k] = words.word[k] >= drop.threshold ? scale : acc_t(0);
  }
};

// weight[e] = keep_e alpha_e; a lane takes an edge and four heads.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads) gat_attention_weight_kernel(GatAttentionFwdArgs<scalar_t, index_t> a) {
  using acc_t = acc_of<scalar_t>;
  const GatItem item = item_of_warp(a.graph);
  if (item.row < 0 || !item.edges.valid) return;
  const int64_t groups = (a.heads + kPhiloxWords - 1) / kPhiloxWords;
  const int64_t count = (item.edges.end - item.edges.begin) * groups;
  for (int64_t k = int(threadIdx.x) % kWarpSize; k < count; k += kWarpSize) {
    const int64_t e = item.edges.begin + k / groups, group = k % groups;
    const KeepFactors<acc_t> keep(a.drop, e, group);
    for (int word = 0; word < kPhiloxWords; ++word) {
      const int64_t head = group * kPhiloxWords + word, at = item.row * a.heads + head;
      if (head >= a.heads) break;
      const acc_t total = a.row_sum[at];
      const acc_t alpha = total == 0 ? acc_t(0) : ::exp(edge_score(a, item.row, e, head) - a.row_max[at]) / total;
      a.weight[e * a.heads + head] = alpha * keep.factor[word];
    }
  }
}

// Sums of features over rows: out[i] = sum_e weight[e] x[col[e]] + bias, head by head.
template <typename scalar_t, typename index_t>
struct GatSumArgs {
  GatGraph<index_t> graph;
  const acc_of<scalar_t>* weight;  // [num_edges, heads]
  const scalar_t* x;               // [num_nodes, heads, channels]
  const acc_of<scalar_t>* bias;    // [heads, channels] or null
  scalar_t* out;                   // [num_nodes, heads, channels]
  acc_of<scalar_t>* partial;       // [num_chunks, width]
  int64_t heads, channels;
};

// Channels [first, first + width) of all heads beside each other, as gcn_aggregate_fwd_kernel.
template <bool kAligned, typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads, kGatMinBlocks)
    gat_attention_sum_kernel(GatSumArgs<scalar_t, index_t> a, int64_t first, int lanes, int64_t width) {
  using acc_t = acc_of<scalar_t>;
  constexpr int unroll = kAligned ? kGatUnroll : kGatUnroll / 2;  // single loads take more registers
  const GatItem item = item_of_warp(a.graph);
  if (item.row < 0) return;  // the whole warp
  const int64_t row_width = a.heads * a.channels;
  const RowTile<kAligned, scalar_t> tile(first, row_width, lanes);
  acc_t sum[kPack<scalar_t>];
  int head[kPack<scalar_t>];
#pragma unroll
  for (int k = 0; k < kPack<scalar_t>; ++k) {
    sum[k] = item.edges.valid ? 0 : NAN;
    head[k] = tile.has(k) && tile.channel(k) < row_width ? int(tile.channel(k) / a.channels) : 0;
  }
  const int lane = int(threadIdx.x) % kWarpSize, group = lane / lanes, groups = kWarpSize / lanes;
  for (int64_t base = item.edges.begin; item.edges.valid && base < item.edges.end; base += kWarpSize) {
    const int count = item.edges.end - base < kWarpSize ? int(item.edges.end - base) : kWarpSize;
    int64_t mine = lane < count ? int64_t(a.graph.col[base + lane]) : 0;
    if (uint64_t(mine) >= uint64_t(a.graph.num_nodes)) mine = -1;
    for (int begin = 0; begin < count; begin += groups * unroll) {
      Pack<scalar_t> part[unroll];
      bool good[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u) {  // all loads before the first use
        const int slot = begin + u * groups + group;
        const int64_t column = broadcast(mine, slot);
        good[u] = column >= 0;
        part[u] = tile.load(a.x + (good[u] ? column : 0) * row_width, slot < count);
      }
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        const int slot = begin + u * groups + group;
        if (slot >= count) continue;
        const acc_t* const weight = a.weight + (base + slot) * a.heads;
#pragma unroll
        for (int k = 0; k < kPack<scalar_t>; ++k)
          sum[k] += (good[u] ? weight[head[k]] : acc_t(NAN)) * acc_t(part[u].value[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kPack<scalar_t>; ++k) sum[k] = sum_over_lanes(sum[k], lanes, kWarpSize);
  if (lane >= lanes) return;  // the other groups hold the same sums

  if (item.is_chunk) {
    const int64_t chunk = int64_t(blockIdx.x) * kGatWarps + int(threadIdx.x) / kWarpSize;
#pragma unroll
    for (int k = 0; k < kPack<scalar_t>; ++k)
      if (tile.has(k)) a.partial[chunk * width + tile.channel(k) - first] = sum[k];
    return;
  }
  Pack<scalar_t> result;
#pragma unroll
  for (int k = 0; k < kPack<scalar_t>; ++k) {
    const bool biased = a.bias && tile.has(k) && tile.channel(k) < row_width;
    result.value[k] = scalar_t(biased ? sum[k] + a.bias[tile.channel(k)] : sum[k]);
  }
  tile.store(a.out + item.row * row_width, result);
}

// The long rows: a thread adds the chunks' sums of one channel, in order.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads)
    gat_attention_join_kernel(GatSumArgs<scalar_t, index_t> a, int64_t first, int64_t width) {
  const int64_t thread = int64_t(blockIdx.x) * kGatThreads + int(threadIdx.x);
  const int64_t k = thread / width, channel = first + thread % width, row_width = a.heads * a.channels;
  const GatGraph<index_t>& g = a.graph;
  if (k >= g.num_chunks || channel >= row_width) return;
  const int64_t count = count_chunks(g.rowptr, g.chunks, k, g.num_chunks, g.num_nodes, g.num_edges);
  if (count == 0) return;
  acc_of<scalar_t> sum = 0;
#pragma unroll 4
  for (int64_t c = 0; c < count; ++c) sum += a.partial[(k + c) * width + thread % width];
  if (a.bias) sum += a.bias[channel];
  a.out[g.chunks[2 * k] * row_width + channel] = scalar_t(sum);
}

// delta[i] = <grad[i], out[i]> - grad_sum[i] row_sum[i]; a warp takes a node and head.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads) gat_attention_delta_kernel(GatAttentionBwdArgs<scalar_t, index_t> a) {
  using acc_t = acc_of<scalar_t>;
  const int64_t at = int64_t(blockIdx.x) * kGatWarps + int(threadIdx.x) / kWarpSize;
  if (at >= a.graph.num_nodes * a.heads) return;  // the whole warp
  acc_t sum = 0;
  const int lane = int(threadIdx.x) % kWarpSize;
  for (int64_t f = lane; f < a.channels; f += kWarpSize)
    sum += acc_t(a.grad[at * a.channels + f]) * acc_t(a.out[at * a.channels + f]);
  sum = sum_over_lanes(sum, 1, kWarpSize);
  if (lane == 0) a.delta[at] = sum - (a.grad_sum ? a.grad_sum[at] * a.row_sum[at] : acc_t(0));
}

// Of every edge of the transpose, from source j to target i, and every head: its weight, and the gradient of its score,
// alpha (keep <grad_i, h_j> - delta_i). `lanes` lanes take an edge. NaN where an id or the offsets are out of range.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads, kGatMinBlocks)
    gat_attention_score_kernel(GatAttentionBwdArgs<scalar_t, index_t> a, int lanes) {
  using acc_t = acc_of<scalar_t>;
  const GatGraph<index_t>& g = a.transpose;
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t edge = (int64_t(blockIdx.x) * kGatThreads + int(threadIdx.x)) / lanes;
  const bool exists = edge < g.num_edges;
  const int64_t target = exists ? int64_t(g.col[edge]) : -1;
  const int64_t source = exists ? row_of_edge(g.rowptr, g.num_nodes, g.num_edges, edge) : -1;
  const int64_t place = exists ? a.perm[edge] : -1;
  const bool good = source >= 0 && uint64_t(target) < uint64_t(g.num_nodes);
  const bool placed = uint64_t(place) < uint64_t(g.num_edges);
  for (int64_t first = 0; first < a.heads; first += kPhiloxWords) {
    const KeepFactors<acc_t> keep(a.drop, place, first / kPhiloxWords);
    for (int word = 0; word < kPhiloxWords && first + word < a.heads; ++word) {
      const int64_t head = first + word, i = target * a.heads + head, j = source * a.heads + head;
      acc_t dot = 0;
      for (int64_t f = lane % lanes; good && f < a.channels; f += lanes)
        dot += acc_t(a.grad[i * a.channels + f]) * acc_t(a.h[j * a.channels + f]);
      dot = sum_over_lanes(dot, 1, lanes);
      if (lane % lanes != 0 || !exists) continue;
      acc_t weight = NAN, grad = NAN;
      if (good) {
        const acc_t score = a.score_dst[i] + a.score_src[j], slope = score > 0 ? acc_t(1) : a.negative_slope;
        const acc_t alpha = a.row_sum[i] == 0 ? acc_t(0) : ::exp(score * slope - a.row_max[i]) / a.row_sum[i];
        weight = alpha * keep.factor[word];
        grad = (weight * dot - alpha * a.delta[i]) * slope;
      }
      a.weight[edge * a.heads + head] = weight;
      a.grad_score_t[edge * a.heads + head] = grad;
      if (placed) a.grad_score[place * a.heads + head] = grad;
    }
  }
}

// sums[i] = sum of the values of row i's edges; of long rows those of each chunk, into chunk_sums.
template <typename acc_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads)
    gat_attention_row_sum_kernel(GatGraph<index_t> g, const acc_t* values, acc_t* sums, acc_t* chunk_sums,
                                 int64_t heads) {
  const GatItem item = item_of_warp(g);
  if (item.row < 0) return;  // the whole warp
  const HeadLanes lanes(heads);
  for (int64_t first = 0; first < heads; first += lanes.width) {
    const int64_t head = first + lanes.head;
    const bool wanted = head < heads && item.edges.valid;
    acc_t sum = 0;
    for (int64_t e = item.edges.begin + lanes.slot; wanted && e < item.edges.end; e += lanes.slots)
      sum += values[e * heads + head];
    sum = sum_over_lanes(sum, lanes.width, kWarpSize);
    if (!item.edges.valid) sum = NAN;
    if (lanes.slot != 0 || head >= heads) continue;
    const int64_t k = int64_t(blockIdx.x) * kGatWarps + int(threadIdx.x) / kWarpSize;
    (item.is_chunk ? chunk_sums[k * heads + head] : sums[item.row * heads + head]) = sum;
  }
}

template <typename acc_t, typename index_t>
__global__ void __launch_bounds__(kGatThreads)
    gat_attention_join_row_sum_kernel(GatGraph<index_t> g, acc_t* sums, const acc_t* chunk_sums, int64_t heads) {
  const int64_t thread = int64_t(blockIdx.x) * kGatThreads + int(threadIdx.x);
  const int64_t k = thread / heads, head = thread % heads;
  if (k >= g.num_chunks) return;
  const int64_t count = count_chunks(g.rowptr, g.chunks, k, g.num_chunks, g.num_nodes, g.num_edges);
  if (count == 0) return;
  acc_t sum = 0;
  for (int64_t c = k; c < k + count; ++c) sum += chunk_sums[c * heads + head];
  sums[g.chunks[2 * k] * heads + head] = sum;
}

template <typename index_t>
int64_t blocks_of_items(const GatGraph<index_t>& g) {
  return blocks_for(g.num_chunks + g.num_nodes, kGatWarps);
}

// Does nothing for no blocks, which a grid does not take.
template <typename Kernel, typename... Args>
cudaError_t launch_gat(cudaError_t before, Kernel kernel, int64_t blocks, cudaStream_t stream, const Args&... args) {
  if (before != cudaSuccess || blocks == 0) return before;
  return launch_blocks(kernel, blocks, kGatThreads, stream, args...);
}

template <typename scalar_t, typename index_t>
cudaError_t launch_gat_attention_sum(const GatSumArgs<scalar_t, index_t>& a, cudaStream_t stream) {
  const int64_t row_width = a.heads * a.channels, width = gat_partial_width<scalar_t>(a.heads, a.channels);
  const int64_t row_bytes = row_width * int64_t(sizeof(scalar_t));
  const bool aligned = rows_are_aligned(a.x, row_bytes) && rows_are_aligned(a.out, row_bytes);
  const auto kernel =
      aligned ? gat_attention_sum_kernel<true, scalar_t, index_t> : gat_attention_sum_kernel<false, scalar_t, index_t>;
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < row_width; first += width) {
    const int lanes = lanes_of_row<scalar_t>(row_width - first);
    error = launch_gat(error, kernel, blocks_of_items(a.graph), stream, a, first, lanes, width);
    error = launch_gat(error, gat_attention_join_kernel<scalar_t, index_t>,
                       blocks_for(a.graph.num_chunks * width, kGatThreads), stream, a, first, width);
  }
  return error;
}

template <typename acc_t, typename index_t>
cudaError_t launch_gat_attention_row_sum(cudaError_t before, const GatGraph<index_t>& g, const acc_t* values,
                                         acc_t* sums, acc_t* chunk_sums, int64_t heads, cudaStream_t stream) {
  const cudaError_t error = launch_gat(before, gat_attention_row_sum_kernel<acc_t, index_t>, blocks_of_items(g), stream,
                                       g, values, sums, chunk_sums, heads);
  return launch_gat(error, gat_attention_join_row_sum_kernel<acc_t, index_t>,
                    blocks_for(g.num_chunks * heads, kGatThreads), stream, g, sums, chunk_sums, heads);
}

template <typename scalar_t, typename index_t>
cudaError_t launch_gat_attention_fwd(const GatAttentionFwdArgs<scalar_t, index_t>& a, cudaStream_t stream) {
  const int64_t items = blocks_of_items(a.graph);
  cudaError_t error = launch_gat(cudaSuccess, gat_attention_stats_kernel<scalar_t, index_t>, items, stream, a);
  error = launch_gat(error, gat_attention_join_stats_kernel<scalar_t, index_t>,
                     blocks_for(a.graph.num_chunks * a.heads, kGatThreads), stream, a);
  error = launch_gat(error, gat_attention_weight_kernel<scalar_t, index_t>, items, stream, a);
  if (error != cudaSuccess) return error;
  const GatSumArgs<scalar_t, index_t> sum{a.graph, a.weight, a.h, a.bias, a.out, a.partial, a.heads, a.channels};
  return launch_gat_attention_sum(sum, stream);
}

template <typename scalar_t, typename index_t>
cudaError_t launch_gat_attention_bwd(const GatAttentionBwdArgs<scalar_t, index_t>& a, cudaStream_t stream) {
  const GatGraph<index_t>& t = a.transpose;
  int lanes = 1;  // that share an edge in the dot products
  while (lanes < kWarpSize && lanes * 4 <= a.channels) lanes *= 2;
  cudaError_t error = launch_gat(cudaSuccess, gat_attention_delta_kernel<scalar_t, index_t>,
                                 blocks_for(t.num_nodes * a.heads, kGatWarps), stream, a);
  error = launch_gat(error, gat_attention_score_kernel<scalar_t, index_t>, blocks_for(t.num_edges * lanes, kGatThreads),
                     stream, a, lanes);
  error = launch_gat_attention_row_sum(error, t, a.grad_score_t, a.grad_src, a.chunk_stats, a.heads, stream);
  error = launch_gat_attention_row_sum(error, a.graph, a.grad_score, a.grad_dst, a.chunk_stats, a.heads, stream);
  if (error != cudaSuccess) return error;
  const GatSumArgs<scalar_t, index_t> sum{t, a.weight, a.grad, nullptr, a.grad_h, a.partial, a.heads, a.channels};
  return launch_gat_attention_sum(sum, stream);
}

}  // namespace advkern
