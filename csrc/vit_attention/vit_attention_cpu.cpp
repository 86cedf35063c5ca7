// SPDX-License-Identifier: MIT
// CPU glue of vit_attention: check, allocate, pick type and instruction set, split the heads among torch's threads.
#include <tuple>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/fresh.h"
#include "common/isa.h"
#include "common/memory.h"
#include "common/parallel.h"

#define ADVKERN_KERNEL "vit_attention/vit_attention_cpu.h"
#include "common/for_each_isa.h"

namespace advkern {
namespace {

using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kGrainProducts = 1 << 18;  // multiplications below which a second thread costs more than it saves
void check_heads(const Tensor& t, const char* name, const Tensor& like) {
  STD_TORCH_CHECK(t.dim() == 4 && like.dim() == 4 && t.size(0) == like.size(0) && t.size(1) == like.size(1) &&
                      t.size(2) == like.size(2) && t.size(3) == like.size(3),
                  "advkern: ", name, " must be [batch, length, heads, dim] of q's sizes");
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type() && t.device() == like.device(), "advkern: ", name,
                  " must have q's type and device");
}

void check_rows(const Tensor& t, const char* name, const Tensor& q) {
  STD_TORCH_CHECK(t.dim() == 3 && t.is_contiguous() && t.size(0) == q.size(0) && t.size(1) == q.size(2) &&
                      t.size(2) == q.size(1) && t.scalar_type() == acc_type(q) && t.device() == q.device(),
                  "advkern: ", name, " must be a contiguous [batch, heads, length] in the type of sums");
}

// The kernels want neighbouring elements of a head in neighbouring places; every other stride is free.
Tensor with_unit_stride(const Tensor& t) { return t.stride(3) == 1 ? t : torch::stable::contiguous(t); }

template <typename scalar_t>
HeadsView<scalar_t> heads_view(const Tensor& t) {
  return {static_cast<scalar_t*>(t.data_ptr()), t.stride(0), t.stride(1), t.stride(2)};
}

// Part `index` of a packed [batch, length, 3, heads, dim].
template <typename scalar_t>
HeadsView<scalar_t> packed_view(const Tensor& t, int64_t index) {
  return {static_cast<scalar_t*>(t.data_ptr()) + index * t.stride(2), t.stride(0), t.stride(1), t.stride(3)};
}

template <typename scalar_t>
VitAttentionArgs<scalar_t> arguments(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& hidden,
                                     const OptionalTensor& seed, double scale, double dropout) {
  using acc_t = acc_of<scalar_t>;
  check_heads(q, "q", q);
  check_heads(k, "k", q);
  check_heads(v, "v", q);
  if (hidden)
    STD_TORCH_CHECK(hidden->dim() == 2 && hidden->is_contiguous() && hidden->scalar_type() == ScalarType::Bool &&
                        hidden->size(0) == q.size(0) && hidden->size(1) == q.size(1) && hidden->device() == q.device(),
                    "advkern: key_padding_mask must be a contiguous bool [batch, length]");
  if (seed) check_vector(*seed, "seed", 1, ScalarType::Long, q);
  STD_TORCH_CHECK(0 <= dropout && dropout <= 1, "advkern: dropout must lie in [0, 1], got ", dropout);
  constexpr int64_t kNumbers = 1 << 16;  // of the 16 random bits of a weight
  const int64_t dropped = int64_t(std::nearbyint(dropout * double(kNumbers))), kept = kNumbers - dropped;
  return {heads_view<const scalar_t>(q),
          heads_view<const scalar_t>(k),
          heads_view<const scalar_t>(v),
          data_or_null<bool>(hidden),
          q.size(0),
          q.size(1),
          q.size(2),
          q.size(3),
          acc_t(scale),
          dropped > 0 ? data_or_null<int64_t>(seed) : nullptr,
          int32_t(dropped),
          kept > 0 ? acc_t(double(kNumbers) / double(kept)) : acc_t(0)};
}

std::tuple<Tensor, Tensor> vit_attention_fwd_cpu(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                                                 const OptionalTensor& key_padding_mask, const OptionalTensor& seed,
                                                 double scale, double dropout, bool with_lse) {
  const Tensor q = with_unit_stride(q_in), k = with_unit_stride(k_in), v = with_unit_stride(v_in);
  const int64_t batch = q.size(0), length = q.size(1), heads = q.size(2), dim = q.size(3);
  Tensor out = in_huge_pages(torch::stable::new_empty(q, {batch, length, heads, dim}));
  Tensor lse = with_lse ? torch::stable::new_empty(q, {batch, heads, length}, acc_type(q))
                        : torch::stable::new_empty(q, {0}, acc_type(q));
  dispatch_floats(q.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using acc_t = acc_of<scalar_t>;
    const auto args = arguments<scalar_t>(q, k, v, key_padding_mask, seed, scale, dropout);
    const VitAttentionOut<scalar_t> result{heads_view<scalar_t>(out), with_lse ? data<acc_t>(lse) : nullptr};
    const int64_t blocks = (length + kVitQueryBlock - 1) / kVitQueryBlock;
    const int64_t scratch = ADVKERN_ON_ISA(vit_attention_fwd_scratch, args);
    const int64_t grain = kGrainProducts / (kVitQueryBlock * length * dim + 1) + 1;
    parallel_for(0, batch * heads * blocks, grain, [&](int64_t first, int64_t last) {
      const ThreadScratch<acc_t> own(scratch);
      ADVKERN_ON_ISA(vit_attention_fwd_blocks, args, result, first, last, own.data());
    });
  });
  return {out, lse};
}

Tensor vit_attention_bwd_cpu(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& out_in,
                             const Tensor& lse_in, const Tensor& grad_out_in, const OptionalTensor& grad_lse_in,
                             const OptionalTensor& key_padding_mask, const OptionalTensor& seed, double scale,
                             double dropout) {
  const Tensor q = with_unit_stride(q_in), k = with_unit_stride(k_in), v = with_unit_stride(v_in);
  const Tensor out = with_unit_stride(out_in), grad_out = with_unit_stride(grad_out_in);
  const Tensor lse = torch::stable::contiguous(lse_in);
  const OptionalTensor grad_lse = grad_lse_in ? OptionalTensor(torch::stable::contiguous(*grad_lse_in)) : std::nullopt;
  check_heads(out, "out", q);
  check_heads(grad_out, "grad_out", q);
  check_rows(lse, "lse", q);
  if (grad_lse) check_rows(*grad_lse, "grad_lse", q);
  const int64_t batch = q.size(0), length = q.size(1), heads = q.size(2), dim = q.size(3);
  Tensor grad = in_huge_pages(torch::stable::new_empty(q, {batch, length, 3, heads, dim}));
  dispatch_floats(q.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using acc_t = acc_of<scalar_t>;
    const auto args = arguments<scalar_t>(q, k, v, key_padding_mask, seed, scale, dropout);
    const VitAttentionGrads<scalar_t> grads{heads_view<const scalar_t>(out), heads_view<const scalar_t>(grad_out),
                                            data<const acc_t>(lse),          data_or_null<acc_t>(grad_lse),
                                            packed_view<scalar_t>(grad, 0),  packed_view<scalar_t>(grad, 1),
                                            packed_view<scalar_t>(grad, 2)};
    const int64_t scratch = ADVKERN_ON_ISA(vit_attention_bwd_scratch, args);
    const int64_t grain = kGrainProducts / (length * length * dim + 1) + 1;
    parallel_for(0, batch * heads, grain, [&](int64_t first, int64_t last) {
      const ThreadScratch<acc_t> own(scratch);
      ADVKERN_ON_ISA(vit_attention_bwd_heads, args, grads, first, last, own.data());
    });
  });
  return grad;
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) {
  m.impl("vit_attention_fwd", TORCH_BOX(&advkern::vit_attention_fwd_cpu));
  m.impl("vit_attention_bwd", TORCH_BOX(&advkern::vit_attention_bwd_cpu));
}
