// SPDX-License-Identifier: MIT
// CUDA glue of gcn_aggregate: check, allocate, pick types, launch on the current stream.
#include "common/cuda.h"
#include "common/dispatch.h"
#include "gcn_aggregate/gcn_aggregate.cuh"
#include "gcn_aggregate/gcn_aggregate_check.h"

namespace advkern {
namespace {

Tensor gcn_aggregate_fwd_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& schedule, const Tensor& x,
                              const std::optional<Tensor>& weight, const std::optional<Tensor>& row_scale,
                              const std::optional<Tensor>& col_scale, const std::optional<Tensor>& bias,
                              int64_t activation) {
  const GraphSizes sizes = check_aggregate(rowptr, col, x, weight, row_scale, col_scale, bias, activation);
  check_matrix(schedule, "schedule", schedule.dim() ? schedule.size(0) : 0, rowptr);
  STD_TORCH_CHECK(schedule.size(1) == 2 && schedule.scalar_type() == ScalarType::Long,
                  "advkern: schedule must hold int64 pairs on a CUDA device, got rows of ", schedule.size(1));

  const OnDeviceOf device(x);
  Tensor out = torch::stable::empty_like(x);
  const ScalarType acc = acc_type(x);
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

Tensor gcn_aggregate_activation_bwd_cuda(const Tensor& grad, const Tensor& out, int64_t activation) {
  check_activation_bwd(grad, out, activation);
  const OnDeviceOf device(grad);
  Tensor result = torch::stable::empty_like(grad);
  dispatch_floats(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const GcnActivationBwdArgs<scalar_t> args{data<const scalar_t>(grad),
                                              data<const scalar_t>(out),
                                              data<scalar_t>(result),
                                              grad.size(0),
                                              grad.size(1),
                                              activation};
    check_cuda(launch_gcn_aggregate_activation_bwd(args, device.stream()), "gcn_aggregate_activation_bwd");
  });
  return result;
}

// The schedule is the aggregation's alone: an edge's product needs no other edge's.
Tensor gcn_aggregate_edge_dot_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& /*schedule*/, const Tensor& a,
                                   const Tensor& b) {
  const GraphSizes sizes = check_edge_dot(rowptr, col, a, b);
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
  m.impl("gcn_aggregate_activation_bwd", TORCH_BOX(&advkern::gcn_aggregate_activation_bwd_cuda));
  m.impl("gcn_aggregate_edge_dot", TORCH_BOX(&advkern::gcn_aggregate_edge_dot_cuda));
}
