// SPDX-License-Identifier: MIT
// COO to CSR by a stable counting sort on the row: each thread counts its slice of the edges, the counts become
// offsets, each thread scatters its slice. The result does not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/parallel.h"

namespace advkern {
namespace {

constexpr int64_t kSliceEdges = 1 << 15;  // fewer edges are not worth another thread

// Slices of the edges: one a thread, but their counts may not outgrow the graph itself.
int64_t count_slices(int64_t num_nodes, int64_t num_edges) {
  const int64_t by_memory = 2 * num_edges / (num_nodes + 1) + 1;
  const int64_t by_work = num_edges / kSliceEdges + 1;
  return std::min({int64_t(torch::stable::get_num_threads()), by_memory, by_work});
}

template <typename index_t, typename out_t>
class CountingSort {
 public:
  CountingSort(const index_t* row, const index_t* col, int64_t num_nodes, int64_t num_edges)
      : row_(row),
        col_(col),
        num_nodes_(num_nodes),
        num_edges_(num_edges),
        slices_(count_slices(num_nodes, num_edges)),
        offset_(size_t(slices_ * num_nodes)) {}

  // False where an id is out of range.
  bool run(int64_t* rowptr, out_t* col_out, int64_t* perm) {
    if (!count()) return false;
    make_offsets(rowptr);
    scatter(col_out, perm);
    return true;
  }

 private:
  template <typename Body>
  void for_each_slice(const Body& body) {  // body(slice, first edge, last edge)
    parallel_for(0, slices_, 1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s) body(s, num_edges_ * s / slices_, num_edges_ * (s + 1) / slices_);
    });
  }

  bool count() {
    std::atomic<bool> valid{true};
    const uint64_t limit = uint64_t(num_nodes_);
    for_each_slice([&](int64_t s, int64_t begin, int64_t end) {
      int64_t* const counts = offset_.data() + s * num_nodes_;
      for (int64_t e = begin; e < end; ++e) {
        if (uint64_t(row_[e]) >= limit || uint64_t(col_[e]) >= limit) {
          valid = false;
          return;
        }
        ++counts[row_[e]];
      }
    });
    return valid;
  }

  void make_offsets(int64_t* rowptr) {
    int64_t total = 0;
    for (int64_t row = 0; row < num_nodes_; ++row) {
      rowptr[row] = total;
      for (int64_t s = 0; s < slices_; ++s) {
        int64_t& slot = offset_[size_t(s * num_nodes_ + row)];
        const int64_t count = slot;
        slot = total;
        total += count;
      }
    }
    rowptr[num_nodes_] = total;
  }

  void scatter(out_t* col_out, int64_t* perm) {
    for_each_slice([&](int64_t s, int64_t begin, int64_t end) {
      int64_t* const next = offset_.data() + s * num_nodes_;
      for (int64_t e = begin; e < end; ++e) {
        const int64_t slot = next[row_[e]]++;
        col_out[slot] = out_t(col_[e]);
        perm[slot] = e;
      }
    });
  }

  const index_t* row_;
  const index_t* col_;
  int64_t num_nodes_, num_edges_, slices_;
  std::vector<int64_t> offset_;  // [slices, num_nodes]: counts, then the next free slot
};

std::tuple<Tensor, Tensor, Tensor> coo_to_csr_cpu(const Tensor& row, const Tensor& col, int64_t num_nodes,
                                                  bool narrow) {
  check_ids(row, "row", row);
  check_vector(col, "col", row.numel(), row.scalar_type(), row);
  STD_TORCH_CHECK(num_nodes >= 0, "advkern: num_nodes must not be negative, got ", num_nodes);
  Tensor rowptr = torch::stable::new_empty(row, {num_nodes + 1}, ScalarType::Long);
  STD_TORCH_CHECK(!narrow || num_nodes <= std::numeric_limits<int32_t>::max(),
                  "advkern: narrow must be false for more nodes than int32 counts, got num_nodes ", num_nodes);
  Tensor col_out = torch::stable::new_empty(col, {col.numel()}, narrow ? ScalarType::Int : row.scalar_type());
  Tensor perm = torch::stable::new_empty(row, {row.numel()}, ScalarType::Long);
  dispatch_ids(row.scalar_type(), [&](auto index) {
    dispatch_ids(col_out.scalar_type(), [&](auto out) {
      using index_t = decltype(index);
      using out_t = decltype(out);
      CountingSort<index_t, out_t> sort(static_cast<const index_t*>(row.data_ptr()),
                                        static_cast<const index_t*>(col.data_ptr()), num_nodes, row.numel());
      const bool valid = sort.run(static_cast<int64_t*>(rowptr.data_ptr()), static_cast<out_t*>(col_out.data_ptr()),
                                  static_cast<int64_t*>(perm.data_ptr()));
      STD_TORCH_CHECK(valid, "advkern: row and col must lie in [0, ", num_nodes, ")");
    });
  });
  return {rowptr, col_out, perm};
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) { m.impl("coo_to_csr", TORCH_BOX(&advkern::coo_to_csr_cpu)); }
