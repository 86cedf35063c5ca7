// SPDX-License-Identifier: MIT
// rowptr, col[perm], perm with perm the stable order of the edges by row.
// A counting sort: the edges are cut into slices, each slice counts its rows, the counts become offsets, each slice
// scatters its edges. count and scatter may run on all slices at once; the result is the same for any number of them.
// Torch-free; no vectors in it, so it is compiled once, for every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace advkern {

template <typename index_t, typename out_t>
class CooToCsr {
 public:
  CooToCsr(const index_t* row,  // [num_edges]
           const index_t* col,  // [num_edges]
           int64_t num_nodes, int64_t num_edges, int64_t slices)
      : row_(row),
        col_(col),
        num_nodes_(num_nodes),
        num_edges_(num_edges),
        slices_(slices),
        offset_(std::size_t(slices * num_nodes)) {}

  // False where an id is out of range.
  bool count(int64_t slice) {
    const uint64_t limit = uint64_t(num_nodes_);
    int64_t* const counts = offset_.data() + slice * num_nodes_;
    for (int64_t e = first(slice); e < first(slice + 1); ++e) {
      if (uint64_t(row_[e]) >= limit || uint64_t(col_[e]) >= limit) return false;
      ++counts[row_[e]];
    }
    return true;
  }

  void make_offsets(int64_t* rowptr) {  // [num_nodes + 1]
    int64_t total = 0;
    for (int64_t row = 0; row < num_nodes_; ++row) {
      rowptr[row] = total;
      for (int64_t s = 0; s < slices_; ++s) {
        int64_t& slot = offset_[std::size_t(s * num_nodes_ + row)];
        const int64_t count = slot;
        slot = total;
        total += count;
      }
    }
    rowptr[num_nodes_] = total;
  }

  void scatter(int64_t slice, out_t* col_out, int64_t* perm) {  // both [num_edges]
    int64_t* const next = offset_.data() + slice * num_nodes_;
    for (int64_t e = first(slice); e < first(slice + 1); ++e) {
      const int64_t slot = next[row_[e]]++;
      col_out[slot] = out_t(col_[e]);
      perm[slot] = e;
    }
  }

 private:
  int64_t first(int64_t slice) const { return num_edges_ * slice / slices_; }

  const index_t* row_;
  const index_t* col_;
  int64_t num_nodes_, num_edges_, slices_;
  std::vector<int64_t> offset_;  // [slices, num_nodes]: counts, then the next free slot
};

}  // namespace advkern
