// SPDX-License-Identifier: MIT
// Rows of a CSR graph, in the blocks of its schedule, split among torch's threads.
#pragma once

#include <algorithm>
#include <atomic>

#include "common/check.h"
#include "common/parallel.h"

namespace advkern {

// Nothing here trusts the offsets or the schedule.
class RowBlocks {
 public:
  RowBlocks(const Tensor& rowptr, const Tensor& schedule, int64_t num_edges)
      : rowptr_(data<const int64_t>(rowptr)),
        bounds_(data<const int64_t>(schedule)),
        num_nodes_(rowptr.numel() - 1),
        num_edges_(num_edges),
        count_(schedule.numel() - 1) {
    check_vector(schedule, "schedule", schedule.numel(), ScalarType::Long, rowptr);
    STD_TORCH_CHECK(rowptr_[0] == 0 && rowptr_[num_nodes_] == num_edges_,  // what lies between, the rows see
                    "advkern: the graph is damaged: rowptr must ascend from 0 to ", num_edges_);
    STD_TORCH_CHECK(count_ >= 0 && bounds_[0] == 0 && bounds_[count_] == num_nodes_ &&
                        std::is_sorted(bounds_, bounds_ + count_ + 1),
                    "advkern: schedule must ascend from row 0 to row ", num_nodes_);
  }

  // Runs rows(begin, end) on every block; an error where one is false. `width`: elements of a row and of an edge.
  template <typename Rows>
  void run(int64_t width, const Rows& rows) const {
    const int64_t elements = (num_nodes_ + num_edges_) * width + 1;
    std::atomic<bool> valid{true};
    parallel_for(0, count_, count_ * kGrainElements / elements + 1, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block)
        if (!rows(bounds_[block], bounds_[block + 1])) valid = false;
    });
    STD_TORCH_CHECK(valid, "advkern: the graph is damaged: col must lie in [0, ", num_nodes_,
                    ") and rowptr must ascend from 0 to ", num_edges_);
  }

  int64_t longest_row(int64_t begin, int64_t end) const {
    int64_t most = 0;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t edges = rowptr_[row + 1] - rowptr_[row];
      if (edges > most && rowptr_[row] >= 0 && rowptr_[row + 1] <= num_edges_) most = edges;
    }
    return most;
  }

 private:
  const int64_t *rowptr_, *bounds_;
  int64_t num_nodes_, num_edges_, count_;
};

}  // namespace advkern
