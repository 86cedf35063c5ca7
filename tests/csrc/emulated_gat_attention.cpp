// SPDX-License-Identifier: MIT
// The CUDA kernels of gat_attention under the emulator, for tests/ops/emulated.py: every array is copied between guard
// pages, the kernels run, the results are copied back. Each function returns a message, empty where all was well.
#include "emulated.h"
#include "gat_attention/gat_attention.cuh"

namespace {

using namespace advkern;

struct Sizes {
  int64_t num_nodes, num_edges, num_chunks, num_chunks_t, heads, channels, threshold;
  double negative_slope;
};

template <typename T>
GuardedArray<T> scratch(int64_t count) {
  return GuardedArray<T>(size_t(count), Input<T>::at_end());
}

}  // namespace

extern "C" {

const char* gat_attention_fwd(int scalar, int index, const Sizes* sizes, const void* rowptr, const void* col,
                              const void* chunks, const void* h, const void* score_dst, const void* score_src,
                              const void* seed, const void* bias, void* out, void* row_max, void* row_sum) {
  const Sizes s = *sizes;
  return message_of(dispatch(scalar, index, [&](auto scalar_value, auto index_value) {
    using scalar_t = decltype(scalar_value);
    using index_t = decltype(index_value);
    using acc_t = acc_of<scalar_t>;
    const int64_t of_nodes = s.num_nodes * s.heads, features = of_nodes * s.channels;
    const Input<int64_t> offsets(rowptr, s.num_nodes + 1), list(chunks, 2 * s.num_chunks), drawn(seed, 1);
    const Input<index_t> ids(col, s.num_edges);
    const Input<scalar_t> x(h, features);
    const Input<acc_t> dst(score_dst, of_nodes), src(score_src, of_nodes), added(bias, s.heads * s.channels);
    const auto result = scratch<scalar_t>(features);
    const auto greatest = scratch<acc_t>(of_nodes), sum = scratch<acc_t>(of_nodes);
    const auto weight = scratch<acc_t>(s.num_edges * s.heads), stats = scratch<acc_t>(s.num_chunks * 2 * s.heads);
    const auto partial = scratch<acc_t>(s.num_chunks * gat_partial_width<scalar_t>(s.heads, s.channels));
    const GatAttentionFwdArgs<scalar_t, index_t> args{{offsets, ids, list, s.num_nodes, s.num_edges, s.num_chunks},
                                                      x,
                                                      dst,
                                                      src,
                                                      added,
                                                      result.data(),
                                                      greatest.data(),
                                                      sum.data(),
                                                      weight.data(),
                                                      stats.data(),
                                                      partial.data(),
                                                      s.heads,
                                                      s.channels,
                                                      acc_t(s.negative_slope),
                                                      {drawn, uint64_t(s.threshold)}};
    const cudaError_t error = launch_gat_attention_fwd(args, nullptr);
    copy_out(out, result, features);
    copy_out(row_max, greatest, of_nodes);
    copy_out(row_sum, sum, of_nodes);
    return error;
  }));
}

const char* gat_attention_bwd(int scalar, int index, const Sizes* sizes, const void* rowptr, const void* chunks,
                              const void* rowptr_t, const void* col_t, const void* chunks_t, const void* perm,
                              const void* h, const void* score_dst, const void* score_src, const void* seed,
                              const void* out, const void* row_max, const void* row_sum, const void* grad,
                              const void* grad_sum, void* grad_h, void* grad_dst, void* grad_src) {
  const Sizes s = *sizes;
  return message_of(dispatch(scalar, index, [&](auto scalar_value, auto index_value) {
    using scalar_t = decltype(scalar_value);
    using index_t = decltype(index_value);
    using acc_t = acc_of<scalar_t>;
    const int64_t of_nodes = s.num_nodes * s.heads, of_edges = s.num_edges * s.heads;
    const int64_t features = of_nodes * s.channels;
    const int64_t most_chunks = s.num_chunks > s.num_chunks_t ? s.num_chunks : s.num_chunks_t;
    const Input<int64_t> offsets(rowptr, s.num_nodes + 1), list(chunks, 2 * s.num_chunks);
    const Input<int64_t> offsets_t(rowptr_t, s.num_nodes + 1), list_t(chunks_t, 2 * s.num_chunks_t);
    const Input<int64_t> order(perm, s.num_edges), drawn(seed, 1);
    const Input<index_t> ids_t(col_t, s.num_edges);
    const Input<scalar_t> x(h, features), y(out, features), g(grad, features);
    const Input<acc_t> dst(score_dst, of_nodes), src(score_src, of_nodes), greatest(row_max, of_nodes),
        sum(row_sum, of_nodes), g_sum(grad_sum, of_nodes);
    const auto result = scratch<scalar_t>(features);
    const auto result_dst = scratch<acc_t>(of_nodes), result_src = scratch<acc_t>(of_nodes);
    const auto delta = scratch<acc_t>(of_nodes), weight = scratch<acc_t>(of_edges);
    const auto grad_score = scratch<acc_t>(of_edges), grad_score_t = scratch<acc_t>(of_edges);
    const auto stats = scratch<acc_t>(most_chunks * s.heads);
    const auto partial = scratch<acc_t>(s.num_chunks_t * gat_partial_width<scalar_t>(s.heads, s.channels));
    const GatAttentionBwdArgs<scalar_t, index_t> args{
        {offsets, nullptr, list, s.num_nodes, s.num_edges, s.num_chunks},
        {offsets_t, ids_t, list_t, s.num_nodes, s.num_edges, s.num_chunks_t},
        order,
        x,
        dst,
        src,
        y,
        greatest,
        sum,
        g,
        g_sum,
        result.data(),
        result_dst.data(),
        result_src.data(),
        delta.data(),
        weight.data(),
        grad_score.data(),
        grad_score_t.data(),
        stats.data(),
        partial.data(),
        s.heads,
        s.channels,
        acc_t(s.negative_slope),
        {drawn, uint64_t(s.threshold)}};
    const cudaError_t error = launch_gat_attention_bwd(args, nullptr);
    copy_out(grad_h, result, features);
    copy_out(grad_dst, result_dst, of_nodes);
    copy_out(grad_src, result_src, of_nodes);
    return error;
  }));
}
}
