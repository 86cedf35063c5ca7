// SPDX-License-Identifier: MIT
// CPU glue of gcn_aggregate: check, allocate, pick type and instruction set, split the rows among torch's threads.
#include "common/dispatch.h"
#include "common/fresh.h"
#include "common/isa.h"
#include "common/row_blocks.h"
#include "gcn_aggregate/gcn_aggregate_check.h"

#define ADVKERN_KERNEL "gcn_aggregate/gcn_aggregate_cpu.h"
#include "common/for_each_isa.h"

namespace advkern {
namespace {

// Whether the kernel stores whole tiles right from its registers: rows of one vector go by in batches, ELU calls a
// function, log_softmax reads the finished rows once more.
bool stored_once(const Tensor& x, int64_t activation) {
  return activation <= kRelu && x.size(1) * int64_t(x.element_size()) > kMostVectorBytes;
}

Tensor gcn_aggregate_fwd_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& schedule, const Tensor& x,
                             const std::optional<Tensor>& weight, const std::optional<Tensor>& row_scale,
                             const std::optional<Tensor>& col_scale, const std::optional<Tensor>& bias,
                             int64_t activation) {
  const GraphSizes sizes = check_aggregate(rowptr, col, x, weight, row_scale, col_scale, bias, activation);
  const RowBlocks blocks(rowptr, schedule, sizes.num_edges);

  Tensor out = in_huge_pages(torch::stable::empty_like(x));
  const bool stream = stored_once(x, activation) && past_caches(out, sizes.num_nodes);
  if (stream) map_pages(out);
  dispatch(x.scalar_type(), col.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    using acc_t = acc_of<scalar_t>;
    const GcnAggregateArgs<scalar_t, index_t> args{data<const int64_t>(rowptr),
                                                   data<const index_t>(col),
                                                   data<const scalar_t>(x),
                                                   data_or_null<acc_t>(weight),
                                                   data_or_null<acc_t>(row_scale),
                                                   data_or_null<acc_t>(col_scale),
                                                   data_or_null<acc_t>(bias),
                                                   data<scalar_t>(out),
                                                   sizes.num_nodes,
                                                   sizes.num_edges,
                                                   sizes.channels,
                                                   activation,
                                                   stream};
    blocks.run(sizes.channels,
               [&](int64_t begin, int64_t end) { return ADVKERN_ON_ISA(gcn_aggregate_rows, args, begin, end); });
  });
  return out;
}

Tensor gcn_aggregate_activation_bwd_cpu(const Tensor& grad, const Tensor& out, int64_t activation) {
  check_activation_bwd(grad, out, activation);
  Tensor result = in_huge_pages(torch::stable::empty_like(grad));
  const int64_t rows = grad.size(0), channels = grad.size(1);
  const bool stream = past_caches(result, rows);
  if (stream) map_pages(result);
  dispatch_floats(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const GcnActivationBwdArgs<scalar_t> args{
        data<const scalar_t>(grad), data<const scalar_t>(out), data<scalar_t>(result), channels, activation, stream};
    parallel_for(0, rows, kGrainElements / (channels + 1) + 1,
                 [&](int64_t begin, int64_t end) { ADVKERN_ON_ISA(activation_bwd_rows, args, begin, end); });
  });
  return result;
}

Tensor gcn_aggregate_edge_dot_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& schedule, const Tensor& a,
                                  const Tensor& b) {
  const GraphSizes sizes = check_edge_dot(rowptr, col, a, b);
  const RowBlocks blocks(rowptr, schedule, sizes.num_edges);
  Tensor dot = torch::stable::new_empty(a, {sizes.num_edges}, acc_type(a));
  dispatch(a.scalar_type(), col.scalar_type(), [&](auto scalar, auto index) {
    using scalar_t = decltype(scalar);
    using index_t = decltype(index);
    const EdgeDotArgs<scalar_t, index_t> args{
        data<const int64_t>(rowptr), data<const index_t>(col), data<const scalar_t>(a), data<const scalar_t>(b),
        data<acc_of<scalar_t>>(dot), sizes.num_nodes,          sizes.num_edges,         sizes.channels};
    blocks.run(sizes.channels,
               [&](int64_t begin, int64_t end) { return ADVKERN_ON_ISA(edge_dot_rows, args, begin, end); });
  });
  return dot;
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) {
  m.impl("gcn_aggregate_fwd", TORCH_BOX(&advkern::gcn_aggregate_fwd_cpu));
  m.impl("gcn_aggregate_activation_bwd", TORCH_BOX(&advkern::gcn_aggregate_activation_bwd_cpu));
  m.impl("gcn_aggregate_edge_dot", TORCH_BOX(&advkern::gcn_aggregate_edge_dot_cpu));
}
