// SPDX-License-Identifier: MIT
// CUDA glue of gcn_aggregate: check, allocate, pick types, launch on the current stream.
#include "common/cuda.h"
#include "common/dispatch.h"
#include "gcn_aggregate/gcn_aggregate.cuh"

namespace advkern {
namespace {

Tensor gcn_aggregate_fwd_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& schedule, const Tensor& x,
                              const std::optional<Tensor>& weight, const std::optional<Tensor>& row_scale,
                              const std::optional<Tensor>& col_scale, const std::optional<Tensor>& bias,
                              int64_t activation) {
  const GraphSizes sizes = check_graph(rowptr, col, x);
  const ScalarType acc = acc_type(x);
  check_matrix(schedule, "schedule", schedule.dim() ? schedule.size(0) : 0, rowptr);
  STD_TORCH_CHECK(schedule.size(1) == 2 && schedule.scalar_type() == ScalarType::Long,
                  "advkern: schedule must hold int64 pairs on a CUDA device, got rows of ", schedule.size(1));
  if (weight) check_vector(*weight, "weight", sizes.num_edges, acc, rowptr);
  if (row_scale) check_vector(*row_scale, "row_scale", sizes.num_nodes, acc, rowptr);
  if (col_scale) check_vector(*col_scale, "col_scale", sizes.num_nodes, acc, rowptr);
  if (bias) check_vector(*bias, "bias", sizes.channels, acc, rowptr);
  STD_TORCH_CHECK(kNone <= activation && activation <= kLogSoftmax, "advkern: activation must lie in [", kNone, ", ",
                  kLogSoftmax, "], got ", activation);

  const OnDeviceOf device(x);
  Tensor out = torch::stable::empty_like(x);
  dispatch(x.scalar_type(), col.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    using acc_t = acc_of<scalar_t>;
    const int64_t num_chunks = schedule.size(0);
    const Tensor partial = torch::stable::new_empty(x, {num_chunks, partial_width<scalar_t>(sizes.channels)}, acc);
    const GcnAggregateFwdArgs<scalar_t, index_t> args{data<const int64_t>(rowptr),
                                                      data<const index_t>(col),
                                                      data<const int64_t>(schedule),
                                                      data<const scalar_t>(x),
                                                      data_or_null<acc_t>(weight),
                                                      data_or_null<acc_t>(row_scale),
                                                      data_or_null<acc_t>(col_scale),
                                                      data_or_null<acc_t>(bias),
                                                      data<scalar_t>(out),
                                                      data<acc_t>(partial),
                                                      sizes.num_nodes,
                                                      sizes.num_edges,
                                                      num_chunks,
                                                      sizes.channels,
                                                      activation};
    check_cuda(launch_gcn_aggregate_fwd(args, device.stream()), "gcn_aggregate_fwd");
  });
  return out;
}

// The schedule is the aggregation's alone: an edge's product needs no other edge's.
Tensor gcn_aggregate_edge_dot_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& /*schedule*/, const Tensor& a,
                                   const Tensor& b) {
  const GraphSizes sizes = check_graph(rowptr, col, a);
  check_matrix(b, "b", sizes.num_nodes, rowptr);
  STD_TORCH_CHECK(b.size(1) == sizes.channels && b.scalar_type() == a.scalar_type(),
                  "advkern: b must have a's channels and type");
  const OnDeviceOf device(a);
  Tensor dot = torch::stable::new_empty(a, {sizes.num_edges}, acc_type(a));
  dispatch(a.scalar_type(), col.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    const GcnAggregateEdgeDotArgs<scalar_t, index_t> args{
        data<const int64_t>(rowptr), data<const index_t>(col), data<const scalar_t>(a), data<const scalar_t>(b),
        data<acc_of<scalar_t>>(dot), sizes.num_nodes,          sizes.num_edges,         sizes.channels};
    check_cuda(launch_gcn_aggregate_edge_dot(args, device.stream()), "gcn_aggregate_edge_dot");
  });
  return dot;
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CUDA, m) {
  m.impl("gcn_aggregate_fwd", TORCH_BOX(&advkern::gcn_aggregate_fwd_cuda));
  m.impl("gcn_aggregate_edge_dot", TORCH_BOX(&advkern::gcn_aggregate_edge_dot_cuda));
}
