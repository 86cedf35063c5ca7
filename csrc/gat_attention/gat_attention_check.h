// SPDX-License-Identifier: MIT
// What both glue files of gat_attention check again.
#pragma once

#include "common/check.h"

namespace advkern {

struct GatSizes {
  int64_t num_nodes, num_edges, heads, channels;
};

inline void check_like(const Tensor& t, const char* name, const Tensor& like) {
  bool same = t.dim() == like.dim() && t.is_contiguous() && t.scalar_type() == like.scalar_type();
  for (int64_t d = 0; same && d < t.dim(); ++d) same = t.size(d) == like.size(d);
  STD_TORCH_CHECK(same && t.device() == like.device(), "advkern: ", name,
                  " must be contiguous, and of the shape, type and device of its like");
}

inline GatSizes check_gat(const Tensor& rowptr, const Tensor& col, const Tensor& h, const Tensor& score_dst,
                          const Tensor& score_src, const std::optional<Tensor>& seed, int64_t threshold) {
  STD_TORCH_CHECK(rowptr.numel() >= 1, "advkern: rowptr must have num_nodes + 1 entries, got none");
  STD_TORCH_CHECK(h.dim() == 3 && h.is_contiguous() && h.size(0) == rowptr.numel() - 1 && h.size(1) > 0,
                  "advkern: h must be contiguous, of ", rowptr.numel() - 1, " nodes, heads and channels, got ", h.dim(),
                  " dimensions");
  const GatSizes sizes{h.size(0), col.numel(), h.size(1), h.size(2)};
  check_vector(rowptr, "rowptr", sizes.num_nodes + 1, ScalarType::Long, rowptr);
  check_ids(col, "col", rowptr);
  STD_TORCH_CHECK(h.device() == rowptr.device(), "advkern: h must be on the device of the others");
  check_matrix(score_dst, "score_dst", sizes.num_nodes, rowptr);
  STD_TORCH_CHECK(score_dst.size(1) == sizes.heads && score_dst.scalar_type() == acc_type(h),
                  "advkern: score_dst must have ", sizes.heads, " heads and type ", acc_type(h), ", got ",
                  score_dst.size(1), " and ", score_dst.scalar_type());
  check_like(score_src, "score_src", score_dst);
  STD_TORCH_CHECK(0 <= threshold && threshold <= int64_t(1) << 32, "advkern: threshold must lie in [0, 2^32], got ",
                  threshold);
  STD_TORCH_CHECK(threshold == 0 || seed.has_value(), "advkern: seed must be given where threshold is not 0");
  if (seed) check_vector(*seed, "seed", 1, ScalarType::Long, rowptr);
  return sizes;
}

inline void check_gat_bias(const GatSizes& sizes, const std::optional<Tensor>& bias, const Tensor& h) {
  if (bias) check_vector(*bias, "bias", sizes.heads * sizes.channels, acc_type(h), h);
}

inline void check_gat_backward(const GatSizes& sizes, const Tensor& rowptr, const Tensor& perm, const Tensor& h,
                               const Tensor& score_dst, const Tensor& out, const Tensor& row_max, const Tensor& row_sum,
                               const Tensor& grad, const std::optional<Tensor>& grad_sum) {
  check_vector(rowptr, "rowptr", sizes.num_nodes + 1, ScalarType::Long, h);
  check_vector(perm, "perm", sizes.num_edges, ScalarType::Long, h);
  check_like(out, "out", h);
  check_like(grad, "grad", h);
  check_like(row_max, "row_max", score_dst);
  check_like(row_sum, "row_sum", score_dst);
  if (grad_sum) check_like(*grad_sum, "grad_sum", score_dst);
}

}  // namespace advkern
