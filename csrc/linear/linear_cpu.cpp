// SPDX-License-Identifier: MIT
// CPU glue of linear: check, allocate, pick type and instruction set, split the rows among torch's threads.
#include "common/check.h"
#include "common/dispatch.h"
#include "common/fresh.h"
#include "common/isa.h"
#include "common/memory.h"
#include "common/parallel.h"

#define ADVKERN_KERNEL "linear/linear_cpu.h"
#include "common/for_each_isa.h"

namespace advkern {
namespace {

constexpr int64_t kGrainProducts = 1 << 18;  // multiplications below which a second thread costs more than it saves

int64_t grain(int64_t products) { return kGrainProducts / (products + 1) + 1; }

void check_like(const Tensor& t, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type() && t.device() == x.device(), "advkern: ", name,
                  " must have x's type and device");
}

Tensor linear_fwd_cpu(const Tensor& x, const Tensor& weight_in, const std::optional<Tensor>& bias) {
  STD_TORCH_CHECK(weight_in.dim() == 2 && x.dim() == 2 && weight_in.size(1) == x.size(1),
                  "advkern: weight must be [out, in] of x's [rows, in]");
  check_matrix(x, "x", x.size(0), x);
  check_like(weight_in, "weight", x);
  const bool usable = weight_in.stride(0) == 1 || weight_in.stride(1) == 1;
  const Tensor weight = usable ? weight_in : torch::stable::contiguous(weight_in);
  const int64_t rows = x.size(0), in = x.size(1), out = weight.size(0);
  if (bias) check_vector(*bias, "bias", out, x.scalar_type(), x);
  Tensor y = in_huge_pages(torch::stable::new_empty(x, {rows, out}));
  dispatch_floats(x.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using acc_t = acc_of<scalar_t>;
    const LinearArgs<scalar_t> args{data<const scalar_t>(x),
                                    data<const scalar_t>(weight),
                                    weight.stride(0),
                                    weight.stride(1),
                                    data_or_null<scalar_t>(bias),
                                    rows,
                                    in,
                                    out,
                                    data<scalar_t>(y)};
    const ThreadScratch<acc_t> packed(ADVKERN_ON_ISA(linear_packed_size, args));
    const int64_t panels = ADVKERN_ON_ISA(linear_panels, args), scratch = ADVKERN_ON_ISA(linear_fwd_scratch, args);
    parallel_for(0, panels, grain(in * out / (panels + 1)),
                 [&](int64_t first, int64_t last) { ADVKERN_ON_ISA(linear_pack, args, first, last, packed.data()); });
    parallel_for(0, rows, grain(in * out), [&](int64_t first, int64_t last) {
      const ThreadScratch<acc_t> own(scratch);
      ADVKERN_ON_ISA(linear_fwd_rows, args, packed.data(), first, last, own.data());
    });
  });
  return y;
}

Tensor linear_bwd_weight_cpu(const Tensor& grad, const Tensor& x) {
  check_matrix(grad, "grad", grad.dim() ? grad.size(0) : 0, grad);
  check_matrix(x, "x", grad.size(0), grad);
  check_like(grad, "grad", x);
  const int64_t rows = x.size(0), in = x.size(1), out = grad.size(1);
  Tensor grad_weight = in_huge_pages(torch::stable::new_empty(x, {out, in}));
  dispatch_floats(x.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using acc_t = acc_of<scalar_t>;
    const LinearWeightArgs<scalar_t> args{data<const scalar_t>(grad), data<const scalar_t>(x), rows, in, out,
                                          data<scalar_t>(grad_weight)};
    const int64_t slices = linear_slices(args), tasks = slices * linear_blocks(args);
    const bool in_place = ADVKERN_ON_ISA(linear_sums_are_result, args);
    const ThreadScratch<acc_t> own_sums(in_place ? 0 : ADVKERN_ON_ISA(linear_sums_size, args));
    acc_t* const sums = in_place ? reinterpret_cast<acc_t*>(args.grad_weight) : own_sums.data();
    const int64_t scratch = ADVKERN_ON_ISA(linear_bwd_weight_scratch, args);
    parallel_for(0, tasks, grain(rows * in * out / (tasks + 1)), [&](int64_t first, int64_t last) {
      const ThreadScratch<acc_t> own(scratch);
      ADVKERN_ON_ISA(linear_bwd_weight_tasks, args, first, last, sums, own.data());
    });
    if (in_place) return;
    parallel_for(0, out, grain(slices * in),
                 [&](int64_t first, int64_t last) { ADVKERN_ON_ISA(linear_bwd_weight_rows, args, first, last, sums); });
  });
  return grad_weight;
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) {
  m.impl("linear_fwd", TORCH_BOX(&advkern::linear_fwd_cpu));
  m.impl("linear_bwd_weight", TORCH_BOX(&advkern::linear_bwd_weight_cpu));
}
