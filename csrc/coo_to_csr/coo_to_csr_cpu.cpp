// SPDX-License-Identifier: MIT
// CPU glue of coo_to_csr: check, allocate, pick types, split the edges among torch's threads.
#include "coo_to_csr/coo_to_csr_cpu.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>

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

template <typename Body>
void for_each_slice(int64_t slices, const Body& body) {
  parallel_for(0, slices, 1, [&](int64_t first, int64_t last) {
    for (int64_t slice = first; slice < last; ++slice) body(slice);
  });
}

std::tuple<Tensor, Tensor, Tensor> coo_to_csr_cpu(const Tensor& row, const Tensor& col, int64_t num_nodes,
                                                  bool narrow) {
  check_ids(row, "row", row);
  check_vector(col, "col", row.numel(), row.scalar_type(), row);
  STD_TORCH_CHECK(num_nodes >= 0, "advkern: num_nodes must not be negative, got ", num_nodes);
  STD_TORCH_CHECK(!narrow || num_nodes <= std::numeric_limits<int32_t>::max(),
                  "advkern: narrow must be false for more nodes than int32 counts, got num_nodes ", num_nodes);
  const int64_t num_edges = row.numel(), slices = count_slices(num_nodes, num_edges);
  Tensor rowptr = torch::stable::new_empty(row, {num_nodes + 1}, ScalarType::Long);
  Tensor col_out = torch::stable::new_empty(col, {num_edges}, narrow ? ScalarType::Int : row.scalar_type());
  Tensor perm = torch::stable::new_empty(row, {num_edges}, ScalarType::Long);
  dispatch_ids(row.scalar_type(), [&](auto index) {
    dispatch_ids(col_out.scalar_type(), [&](auto out) {
      using index_t = decltype(index);
      using out_t = decltype(out);
      CooToCsr<index_t, out_t> sort(data<const index_t>(row), data<const index_t>(col), num_nodes, num_edges, slices);
      std::atomic<bool> valid{true};
      for_each_slice(slices, [&](int64_t slice) {
        if (!sort.count(slice)) valid = false;
      });
      STD_TORCH_CHECK(valid, "advkern: row and col must lie in [0, ", num_nodes, ")");
      sort.make_offsets(data<int64_t>(rowptr));
      for_each_slice(slices, [&](int64_t slice) { sort.scatter(slice, data<out_t>(col_out), data<int64_t>(perm)); });
    });
  });
  return {rowptr, col_out, perm};
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) { m.impl("coo_to_csr", TORCH_BOX(&advkern::coo_to_csr_cpu)); }
