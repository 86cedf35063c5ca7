// SPDX-License-Identifier: MIT
// The CUDA kernels of gcn_aggregate under the emulator, for tests/ops/emulated.py: every array is copied between
// guard pages, the kernel runs, the result is copied back. Each function returns a message, empty where all was well.
#include "emulated.h"
#include "gcn_aggregate/gcn_aggregate.cuh"

namespace {

using namespace advkern;

struct Sizes {
  int64_t num_nodes, num_edges, num_chunks, channels;
};

}  // namespace

extern "C" {

const char* gcn_aggregate_fwd(int scalar, int index, const Sizes* sizes, const void* rowptr, const void* col,
                              const void* chunks, const void* x, const void* weight, const void* row_scale,
                              const void* col_scale, const void* bias, int64_t activation, void* out) {
  const Sizes s = *sizes;
  return message_of(dispatch(scalar, index, [&](auto scalar_value, auto index_value) {
    using scalar_t = decltype(scalar_value);
    using index_t = decltype(index_value);
    using acc_t = acc_of<scalar_t>;
    const Input<int64_t> offsets(rowptr, s.num_nodes + 1), list(chunks, 2 * s.num_chunks);
    const Input<index_t> ids(col, s.num_edges);
    const Input<scalar_t> features(x, s.num_nodes * s.channels);
    const Input<acc_t> w(weight, s.num_edges), r(row_scale, s.num_nodes), c(col_scale, s.num_nodes),
        b(bias, s.channels);
    const GuardedArray<scalar_t> result(size_t(s.num_nodes * s.channels), Input<scalar_t>::at_end());
    const GuardedArray<acc_t> partial(size_t(s.num_chunks * partial_width<scalar_t>(s.channels)),
                                      Input<acc_t>::at_end());
    const GcnAggregateFwdArgs<scalar_t, index_t> args{
        offsets,        ids,         list,        features,     w,          r,         c, b, result.data(),
        partial.data(), s.num_nodes, s.num_edges, s.num_chunks, s.channels, activation};
    const cudaError_t error = launch_gcn_aggregate_fwd(args, nullptr);
    copy_out(out, result, s.num_nodes * s.channels);
    return error;
  }));
}

const char* gcn_aggregate_activation_bwd(int scalar, int64_t num_nodes, int64_t channels, int64_t activation,
                                         const void* grad, const void* out, void* result) {
  return message_of(dispatch(scalar, 'i', [&](auto scalar_value, auto) {
    using scalar_t = decltype(scalar_value);
    const int64_t count = num_nodes * channels;
    const Input<scalar_t> g(grad, count), y(out, count);
    const GuardedArray<scalar_t> before(size_t(count), Input<scalar_t>::at_end());
    const GcnActivationBwdArgs<scalar_t> args{g, y, before.data(), num_nodes, channels, activation};
    const cudaError_t error = launch_gcn_aggregate_activation_bwd(args, nullptr);
    copy_out(result, before, count);
    return error;
  }));
}

const char* gcn_aggregate_edge_dot(int scalar, int index, const Sizes* sizes, const void* rowptr, const void* col,
                                   const void* a, const void* b, void* dot) {
  const Sizes s = *sizes;
  return message_of(dispatch(scalar, index, [&](auto scalar_value, auto index_value) {
    using scalar_t = decltype(scalar_value);
    using index_t = decltype(index_value);
    const Input<int64_t> offsets(rowptr, s.num_nodes + 1);
    const Input<index_t> ids(col, s.num_edges);
    const Input<scalar_t> rows(a, s.num_nodes * s.channels), columns(b, s.num_nodes * s.channels);
    const GuardedArray<acc_of<scalar_t>> result(size_t(s.num_edges), Input<scalar_t>::at_end());
    const GcnAggregateEdgeDotArgs<scalar_t, index_t> args{offsets,       ids,         rows,        columns,
                                                          result.data(), s.num_nodes, s.num_edges, s.channels};
    const cudaError_t error = launch_gcn_aggregate_edge_dot(args, nullptr);
    copy_out(dot, result, s.num_edges);
    return error;
  }));
}
}
