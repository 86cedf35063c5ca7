// SPDX-License-Identifier: MIT
// CUDA glue of gat_attention: check, allocate, pick types, launch on the current stream.
#include "common/cuda.h"
#include "common/dispatch.h"
#include "gat_attention/gat_attention.cuh"
#include "gat_attention/gat_attention_check.h"

namespace advkern {
namespace {

int64_t chunks_in(const Tensor& schedule, const Tensor& rowptr) {
  check_matrix(schedule, "schedule", schedule.dim() ? schedule.size(0) : 0, rowptr);
  STD_TORCH_CHECK(schedule.size(1) == 2 && schedule.scalar_type() == ScalarType::Long,
                  "advkern: schedule must hold int64 pairs on a CUDA device, got rows of ", schedule.size(1));
  return schedule.size(0);
}

template <typename index_t>
GatGraph<index_t> graph_of(const Tensor& rowptr, const Tensor* col, const Tensor& schedule, const GatSizes& sizes) {
  return {data<const int64_t>(rowptr),
          col ? data<const index_t>(*col) : nullptr,
          data<const int64_t>(schedule),
          sizes.num_nodes,
          sizes.num_edges,
          chunks_in(schedule, rowptr)};
}

GatDrop drop_of(const std::optional<Tensor>& seed, int64_t threshold) {
  return {data_or_null<int64_t>(seed), uint64_t(threshold)};
}

std::tuple<Tensor, Tensor, Tensor> gat_attention_fwd_cuda(const Tensor& rowptr, const Tensor& col,
                                                          const Tensor& schedule, const Tensor& h,
                                                          const Tensor& score_dst, const Tensor& score_src,
                                                          const std::optional<Tensor>& seed,
                                                          const std::optional<Tensor>& bias, double negative_slope,
                                                          int64_t threshold) {
  const GatSizes sizes = check_gat(rowptr, col, h, score_dst, score_src, seed, threshold);
  check_gat_bias(sizes, bias, h);
  const OnDeviceOf device(h);
  Tensor out = torch::stable::empty_like(h);
  Tensor row_max = torch::stable::empty_like(score_dst), row_sum = torch::stable::empty_like(score_dst);
  const int64_t chunks = chunks_in(schedule, rowptr);
  const Tensor weight = torch::stable::new_empty(score_dst, {sizes.num_edges, sizes.heads});
  const Tensor chunk_stats = torch::stable::new_empty(score_dst, {chunks, 2, sizes.heads});
  dispatch(h.scalar_type(), col.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    using acc_t = acc_of<scalar_t>;
    const int64_t width = gat_partial_width<scalar_t>(sizes.heads, sizes.channels);
    const Tensor partial = torch::stable::new_empty(score_dst, {chunks, width});
    const GatAttentionFwdArgs<scalar_t, index_t> args{graph_of<index_t>(rowptr, &col, schedule, sizes),
                                                      data<const scalar_t>(h),
                                                      data<const acc_t>(score_dst),
                                                      data<const acc_t>(score_src),
                                                      data_or_null<acc_t>(bias),
                                                      data<scalar_t>(out),
                                                      data<acc_t>(row_max),
                                                      data<acc_t>(row_sum),
                                                      data<acc_t>(weight),
                                                      data<acc_t>(chunk_stats),
                                                      data<acc_t>(partial),
                                                      sizes.heads,
                                                      sizes.channels,
                                                      acc_t(negative_slope),
                                                      drop_of(seed, threshold)};
    check_cuda(launch_gat_attention_fwd(args, device.stream()), "gat_attention_fwd");
  });
  return {out, row_max, row_sum};
}

std::tuple<Tensor, Tensor, Tensor> gat_attention_bwd_cuda(
    const Tensor& rowptr, const Tensor& schedule, const Tensor& rowptr_t, const Tensor& col_t, const Tensor& schedule_t,
    const Tensor& perm, const Tensor& h, const Tensor& score_dst, const Tensor& score_src,
    const std::optional<Tensor>& seed, const Tensor& out, const Tensor& row_max, const Tensor& row_sum,
    const Tensor& grad, const std::optional<Tensor>& grad_sum, double negative_slope, int64_t threshold) {
  const GatSizes sizes = check_gat(rowptr_t, col_t, h, score_dst, score_src, seed, threshold);
  check_gat_backward(sizes, rowptr, perm, h, score_dst, out, row_max, row_sum, grad, grad_sum);
  const OnDeviceOf device(h);
  Tensor grad_h = torch::stable::empty_like(h);
  Tensor grad_dst = torch::stable::empty_like(score_dst), grad_src = torch::stable::empty_like(score_dst);
  const auto of_edges = [&] { return torch::stable::new_empty(score_dst, {sizes.num_edges, sizes.heads}); };
  const Tensor weight = of_edges(), grad_score = of_edges(), grad_score_t = of_edges();
  const Tensor delta = torch::stable::empty_like(score_dst);
  const int64_t chunks = chunks_in(schedule, rowptr), chunks_t = chunks_in(schedule_t, rowptr_t);
  const Tensor chunk_stats = torch::stable::new_empty(score_dst, {chunks > chunks_t ? chunks : chunks_t, sizes.heads});
  dispatch(h.scalar_type(), col_t.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    using acc_t = acc_of<scalar_t>;
    const int64_t width = gat_partial_width<scalar_t>(sizes.heads, sizes.channels);
    const Tensor partial = torch::stable::new_empty(score_dst, {chunks_t, width});
    const GatAttentionBwdArgs<scalar_t, index_t> args{graph_of<index_t>(rowptr, nullptr, schedule, sizes),
                                                      graph_of<index_t>(rowptr_t, &col_t, schedule_t, sizes),
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
                                                      data<acc_t>(delta),
                                                      data<acc_t>(weight),
                                                      data<acc_t>(grad_score),
                                                      data<acc_t>(grad_score_t),
                                                      data<acc_t>(chunk_stats),
                                                      data<acc_t>(partial),
                                                      sizes.heads,
                                                      sizes.channels,
                                                      acc_t(negative_slope),
                                                      drop_of(seed, threshold)};
    check_cuda(launch_gat_attention_bwd(args, device.stream()), "gat_attention_bwd");
  });
  return {grad_h, grad_dst, grad_src};
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CUDA, m) {
  m.impl("gat_attention_fwd", TORCH_BOX(&advkern::gat_attention_fwd_cuda));
  m.impl("gat_attention_bwd", TORCH_BOX(&advkern::gat_attention_bwd_cuda));
}
