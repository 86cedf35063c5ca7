// SPDX-License-Identifier: MIT
// CPU glue of gat_attention: check, allocate, pick type and instruction set, split the rows among torch's threads.
#include "common/dispatch.h"
#include "common/fresh.h"
#include "common/isa.h"
#include "common/memory.h"
#include "common/row_blocks.h"

#define ADVKERN_KERNEL "gat_attention/gat_attention_cpu.h"
#include "common/for_each_isa.h"
#include "gat_attention/gat_attention_check.h"

namespace advkern {
namespace {

// Runs rows(begin, end, scratch, edges of the longest row) over all blocks.
template <typename acc_t, typename Rows>
void run_with_scratch(const RowBlocks& blocks, const GatSizes& sizes, const Rows& rows) {
  blocks.run(sizes.heads * sizes.channels, [&](int64_t begin, int64_t end) {
    const int64_t most = blocks.longest_row(begin, end);
    const ThreadScratch<char> scratch(gat_scratch_bytes<acc_t>(most, sizes.heads, sizes.channels));
    return rows(begin, end, scratch.data(), most);
  });
}

GatDropout dropout_of(const std::optional<Tensor>& seed, int64_t threshold) {
  return {uint64_t(threshold), threshold ? uint64_t(*data<const int64_t>(*seed)) : 0};
}

std::tuple<Tensor, Tensor, Tensor> gat_attention_fwd_cpu(const Tensor& rowptr, const Tensor& col,
                                                         const Tensor& schedule, const Tensor& h,
                                                         const Tensor& score_dst, const Tensor& score_src,
                                                         const std::optional<Tensor>& seed,
                                                         const std::optional<Tensor>& bias, double negative_slope,
                                                         int64_t threshold) {
  const GatSizes sizes = check_gat(rowptr, col, h, score_dst, score_src, seed, threshold);
  check_gat_bias(sizes, bias, h);
  const RowBlocks blocks(rowptr, schedule, sizes.num_edges);
  Tensor out = in_huge_pages(torch::stable::empty_like(h));
  Tensor row_max = in_huge_pages(torch::stable::empty_like(score_dst)),
         row_sum = in_huge_pages(torch::stable::empty_like(score_dst));
  const bool stream = past_caches(out, sizes.num_nodes);
  if (stream) map_pages(out);
  dispatch(h.scalar_type(), col.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    using acc_t = acc_of<scalar_t>;
    const GatAttentionFwdArgs<scalar_t, index_t> args{data<const int64_t>(rowptr),
                                                      data<const index_t>(col),
                                                      data<const scalar_t>(h),
                                                      data<const acc_t>(score_dst),
                                                      data<const acc_t>(score_src),
                                                      data_or_null<acc_t>(bias),
                                                      data<scalar_t>(out),
                                                      data<acc_t>(row_max),
                                                      data<acc_t>(row_sum),
                                                      sizes.num_nodes,
                                                      sizes.num_edges,
                                                      sizes.heads,
                                                      sizes.channels,
                                                      acc_t(negative_slope),
                                                      dropout_of(seed, threshold),
                                                      stream};
    run_with_scratch<acc_t>(blocks, sizes, [&](int64_t begin, int64_t end, char* scratch, int64_t most_edges) {
      return ADVKERN_ON_ISA(gat_attention_rows, args, begin, end, scratch, most_edges);
    });
  });
  return {out, row_max, row_sum};
}

std::tuple<Tensor, Tensor, Tensor> gat_attention_bwd_cpu(
    const Tensor& rowptr, const Tensor& schedule, const Tensor& rowptr_t, const Tensor& col_t, const Tensor& schedule_t,
    const Tensor& perm, const Tensor& h, const Tensor& score_dst, const Tensor& score_src,
    const std::optional<Tensor>& seed, const Tensor& out, const Tensor& row_max, const Tensor& row_sum,
    const Tensor& grad, const std::optional<Tensor>& grad_sum, double negative_slope, int64_t threshold) {
  const GatSizes sizes = check_gat(rowptr_t, col_t, h, score_dst, score_src, seed, threshold);
  check_gat_backward(sizes, rowptr, perm, h, score_dst, out, row_max, row_sum, grad, grad_sum);
  const RowBlocks rows(rowptr, schedule, sizes.num_edges), sources(rowptr_t, schedule_t, sizes.num_edges);
  Tensor grad_h = in_huge_pages(torch::stable::empty_like(h));
  Tensor grad_dst = in_huge_pages(torch::stable::empty_like(score_dst));
  Tensor grad_src = in_huge_pages(torch::stable::empty_like(score_dst));
  const Tensor node = in_huge_pages(torch::stable::new_empty(score_dst, {sizes.num_nodes, kNodeValues, sizes.heads}));
  const Tensor grad_score = in_huge_pages(torch::stable::new_empty(score_dst, {sizes.num_edges, sizes.heads}));
  const bool stream = past_caches(grad_h, sizes.num_nodes);
  if (stream) map_pages(grad_h);
  dispatch(h.scalar_type(), col_t.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    using acc_t = acc_of<scalar_t>;
    const GatAttentionBwdArgs<scalar_t, index_t> args{data<const int64_t>(rowptr),
                                                      data<const int64_t>(rowptr_t),
                                                      data<const index_t>(col_t),
                                                      data<const int64_t>(perm),
                                                      data<const scalar_t>(h),
                                                      data<const acc_t>(score_dst),
                                                      data<const acc_t>(score_src),
                                                      data<const scalar_t>(out),
                                                      data<const acc_t>(row_max),
                                                      data<const acc_t>(row_sum),
                                                      data<const scalar_t>(grad),
                                                      data_or_null<acc_t>(grad_sum),
                                                      data<scalar_t>(grad_h),
                                                      data<acc_t>(grad_dst),
                                                      data<acc_t>(grad_src),
                                                      data<acc_t>(node),
                                                      data<acc_t>(grad_score),
                                                      sizes.num_nodes,
                                                      sizes.num_edges,
                                                      sizes.heads,
                                                      sizes.channels,
                                                      acc_t(negative_slope),
                                                      dropout_of(seed, threshold),
                                                      stream};
    run_with_scratch<acc_t>(rows, sizes, [&](int64_t begin, int64_t end, char* scratch, int64_t most_edges) {
      return ADVKERN_ON_ISA(gat_attention_node_rows, args, begin, end, scratch, most_edges);
    });
    run_with_scratch<acc_t>(sources, sizes, [&](int64_t begin, int64_t end, char* scratch, int64_t most_edges) {
      return ADVKERN_ON_ISA(gat_attention_source_rows, args, begin, end, scratch, most_edges);
    });
    run_with_scratch<acc_t>(rows, sizes, [&](int64_t begin, int64_t end, char* scratch, int64_t most_edges) {
      return ADVKERN_ON_ISA(gat_attention_target_rows, args, begin, end, scratch, most_edges);
    });
  });
  return {grad_h, grad_dst, grad_src};
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) {
  m.impl("gat_attention_fwd", TORCH_BOX(&advkern::gat_attention_fwd_cpu));
  m.impl("gat_attention_bwd", TORCH_BOX(&advkern::gat_attention_bwd_cpu));
}
