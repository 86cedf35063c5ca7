// SPDX-License-Identifier: MIT
// Rows of a CSR graph as work for warps: a row each, or a chunk of one of more than kChunkEdges edges. Nothing here
// trusts the offsets or the list of chunks.
#pragma once

#include <climits>
#include <cstdint>

#include "common/launch.cuh"
#include "common/warp.cuh"

namespace advkern {

constexpr int64_t kChunkEdges = 256;  // as in advkern/graph.py

struct EdgeRange {
  int64_t begin, end;
  bool valid;
};

__device__ inline EdgeRange row_edges(const int64_t* rowptr, int64_t row, int64_t num_edges) {
  const int64_t begin = rowptr[row], end = rowptr[row + 1];
  return {begin, end, 0 <= begin && begin <= end && end <= num_edges};
}

// The edges of chunk `k`: not valid where they are no chunk of the row that the list names.
__device__ inline EdgeRange chunk_edges(const int64_t* rowptr, const int64_t* chunks, int64_t k, int64_t num_nodes,
                                        int64_t num_edges) {
  const int64_t row = chunks[2 * k], begin = chunks[2 * k + 1];
  if (row < 0 || row >= num_nodes) return {0, 0, false};
  const EdgeRange edges = row_edges(rowptr, row, num_edges);
  const int64_t end = edges.end - begin > kChunkEdges ? begin + kChunkEdges : edges.end;
  const bool inside = edges.begin <= begin && begin < edges.end && (begin - edges.begin) % kChunkEdges == 0;
  return {begin, end, edges.valid && inside};
}

// The number of chunks of the row whose first chunk is the k-th, or 0 where the list is not that row's.
__device__ inline int64_t count_chunks(const int64_t* rowptr, const int64_t* chunks, int64_t k, int64_t num_chunks,
                                       int64_t num_nodes, int64_t num_edges) {
  const int64_t row = chunks[2 * k];
  if (row < 0 || row >= num_nodes) return 0;
  const EdgeRange edges = row_edges(rowptr, row, num_edges);
  const int64_t length = edges.end - edges.begin, count = (length + kChunkEdges - 1) / kChunkEdges;
  if (!edges.valid || length <= kChunkEdges || count > num_chunks - k) return 0;
  const int64_t* const last = chunks + 2 * (k + count - 1);
  const bool complete = last[0] == row && last[1] == edges.begin + (count - 1) * kChunkEdges;
  return complete && chunks[2 * k + 1] == edges.begin ? count : 0;
}

// The row that owns edge `e`, or -1.
__device__ inline int64_t row_of_edge(const int64_t* rowptr, int64_t num_nodes, int64_t num_edges, int64_t e) {
  int64_t row = 0;
  for (int64_t end = num_nodes; row + 1 < end;) {
    const int64_t middle = row + (end - row) / 2;
    (rowptr[middle] <= e ? row : end) = middle;
  }
  if (num_nodes == 0) return -1;
  const EdgeRange edges = row_edges(rowptr, row, num_edges);
  return edges.valid && edges.begin <= e && e < edges.end ? row : -1;
}

inline int64_t blocks_for(int64_t threads, int64_t block) { return (threads + block - 1) / block; }

// Launches kernel(args...) with blocks on the long axis, of which a grid takes 2^31 - 1.
template <typename Kernel, typename... Args>
cudaError_t launch_blocks(Kernel kernel, int64_t blocks, int block_threads, cudaStream_t stream, const Args&... args) {
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  return launch(kernel, dim3(unsigned(blocks)), dim3(unsigned(block_threads)), 0, stream, args...);
}

}  // namespace advkern
