// SPDX-License-Identifier: MIT
// CUDA glue of rk4: check, allocate, pick types, launch on the current stream.
#include "common/cuda.h"

#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "rk4/rk4.cuh"
#include "rk4/rk4_check.h"

namespace advkern {
namespace {

// The list of saves in the device's memory; the copy from here needs no synchronisation.
Tensor on_device(const std::vector<int64_t>& values, const Tensor& like, cudaStream_t stream) {
  Tensor out = torch::stable::new_empty(like, {int64_t(values.size())}, ScalarType::Long);
  if (!values.empty())
    check_cuda(
        cudaMemcpyAsync(out.data_ptr(), values.data(), values.size() * sizeof(int64_t), cudaMemcpyHostToDevice, stream),
        "rk4: copy of save_at");
  return out;
}

template <typename acc_t>
Rk4Problem<acc_t> problem_of(const Rk4Tensors& t, const Tensor& save_at, const std::vector<double>& tableau,
                             int64_t every, const Rk4Sizes& sizes) {
  Rk4Problem<acc_t> p{data<const acc_t>(t.weight1),
                      data<const acc_t>(t.bias1),
                      data<const acc_t>(t.weight2),
                      data<const acc_t>(t.bias2),
                      data<const acc_t>(t.h),
                      data<const int64_t>(save_at),
                      sizes.samples,
                      sizes.dim,
                      sizes.hidden,
                      sizes.steps,
                      save_at.numel(),
                      every,
                      sizes.h_per_sample,
                      sizes.stages,
                      {}};
  fill_tableau(tableau, sizes.stages, p.tableau);
  return p;
}

template <typename Function>
void dispatch_type(const Tensor& y, const Function& function) {
  if (y.scalar_type() == ScalarType::Double) return function(double{});
  function(float{});  // check_rk4 let nothing else through
}

std::tuple<Tensor, Tensor> rk4_fwd_cuda(const Tensor& y, const Tensor& weight1, const Tensor& bias1,
                                        const Tensor& weight2, const Tensor& bias2, const Tensor& h,
                                        const std::vector<int64_t>& save_at, const std::vector<double>& tableau,
                                        int64_t every) {
  const Rk4Tensors tensors{y, weight1, bias1, weight2, bias2, h};
  const Rk4Sizes sizes = check_rk4(tensors, save_at, tableau);
  const OnDeviceOf device(y);
  const int64_t kept = every > 0 ? (sizes.steps + every - 1) / every : 0;
  Tensor out = torch::stable::new_empty(y, {int64_t(save_at.size()), sizes.samples, sizes.dim});
  Tensor checkpoints = torch::stable::new_empty(y, {kept, sizes.samples, sizes.dim});
  const Tensor saves = on_device(save_at, y, device.stream());
  dispatch_type(y, [&](auto scalar) {
    using acc_t = decltype(scalar);
    const auto p = problem_of<acc_t>(tensors, saves, tableau, every, sizes);
    const bool fits = rk4_fits_shared(p);
    const Tensor scratch = torch::stable::new_empty(y, {fits ? 0 : p.blocks(), p.forward_scratch()});
    const Rk4FwdArgs<acc_t> args{p, data<const acc_t>(y), data<acc_t>(out), data<acc_t>(checkpoints),
                                 fits ? nullptr : data<acc_t>(scratch)};
    check_cuda(launch_rk4_fwd(args, device.stream()), "rk4_fwd");
  });
  return {out, checkpoints};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rk4_bwd_cuda(
    const Tensor& grad, const Tensor& checkpoints, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
    const Tensor& bias2, const Tensor& h, const std::vector<int64_t>& save_at, const std::vector<double>& tableau,
    int64_t every) {
  STD_TORCH_CHECK(grad.dim() == 3 && grad.is_contiguous() && grad.size(0) == int64_t(save_at.size()),
                  "advkern: grad must be contiguous, [saves, samples, dim]");
  Tensor grad_y = torch::stable::new_empty(grad, {grad.size(1), grad.size(2)});
  const Rk4Tensors tensors{grad_y, weight1, bias1, weight2, bias2, h};
  const Rk4Sizes sizes = check_rk4(tensors, save_at, tableau);
  STD_TORCH_CHECK(every > 0 && checkpoints.is_contiguous() && checkpoints.scalar_type() == grad.scalar_type() &&
                      checkpoints.numel() == (sizes.steps + every - 1) / every * sizes.samples * sizes.dim,
                  "advkern: checkpoints must be those that the forward kept");
  const OnDeviceOf device(grad);
  Tensor grad_w1 = torch::stable::empty_like(weight1), grad_b1 = torch::stable::empty_like(bias1);
  Tensor grad_w2 = torch::stable::empty_like(weight2), grad_b2 = torch::stable::empty_like(bias2);
  Tensor grad_h = torch::stable::empty_like(h);
  const Tensor saves = on_device(save_at, grad, device.stream());
  dispatch_type(grad, [&](auto scalar) {
    using acc_t = decltype(scalar);
    const auto p = problem_of<acc_t>(tensors, saves, tableau, every, sizes);
    const Tensor scratch = torch::stable::new_empty(grad, {p.blocks(), p.backward_scratch()});
    const Tensor sums = torch::stable::new_empty(grad, {p.blocks(), p.sums()});
    const Rk4BwdArgs<acc_t> args{
        p,
        data<const acc_t>(grad),
        data<const acc_t>(checkpoints),
        data<acc_t>(grad_y),
        sizes.h_per_sample ? data<acc_t>(grad_h) : nullptr,
        data<acc_t>(scratch),
        data<acc_t>(sums),
        {data<acc_t>(grad_w1), data<acc_t>(grad_w2), data<acc_t>(grad_b1), data<acc_t>(grad_b2), data<acc_t>(grad_h)}};
    check_cuda(launch_rk4_bwd(args, device.stream()), "rk4_bwd");
  });
  return {grad_y, grad_w1, grad_b1, grad_w2, grad_b2, grad_h};
}

template <typename scalar_t>
Rk4CombineArgs<scalar_t> combine_args(const Tensor& y, const std::vector<const Tensor*>& k,
                                      const std::vector<double>& factor) {
  Rk4CombineArgs<scalar_t> args{data<const scalar_t>(y), {}, {}, y.numel(), int(factor.size())};
  for (size_t j = 0; j < k.size(); ++j) args.k[j] = data<const scalar_t>(*k[j]);
  for (size_t j = 0; j < factor.size(); ++j) args.factor[j] = acc_of<scalar_t>(factor[j]);
  return args;
}

Tensor rk4_combine_cuda(const Tensor& y, const std::vector<double>& factor, const Tensor& k1,
                        const std::optional<Tensor>& k2, const std::optional<Tensor>& k3,
                        const std::optional<Tensor>& k4) {
  const auto stages = check_stages(y, factor, k1, k2, k3, k4);
  const OnDeviceOf device(y);
  Tensor out = torch::stable::empty_like(y);
  dispatch_floats(y.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const auto args = combine_args<scalar_t>(y, stages, factor);
    check_cuda(launch_rk4_combine(args, data<scalar_t>(out), device.stream()), "rk4_combine");
  });
  return out;
}

Tensor rk4_scale_cuda(const Tensor& grad, const std::vector<double>& factor) {
  STD_TORCH_CHECK(grad.is_contiguous() && !factor.empty() && int64_t(factor.size()) <= kMostStages,
                  "advkern: grad must be contiguous and factor hold 1 to ", kMostStages, " numbers");
  const OnDeviceOf device(grad);
  std::vector<int64_t> shape{int64_t(factor.size())};
  for (int64_t d = 0; d < grad.dim(); ++d) shape.push_back(grad.size(d));
  Tensor out = torch::stable::new_empty(grad, shape);
  dispatch_floats(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const auto args = combine_args<scalar_t>(grad, {}, factor);
    check_cuda(launch_rk4_scale(args, data<scalar_t>(out), device.stream()), "rk4_scale");
  });
  return out;
}

Tensor rk4_dot_cuda(const Tensor& grad, const std::vector<double>& factor, const Tensor& k1,
                    const std::optional<Tensor>& k2, const std::optional<Tensor>& k3, const std::optional<Tensor>& k4) {
  const auto stages = check_stages(grad, factor, k1, k2, k3, k4);
  const OnDeviceOf device(grad);
  Tensor out = torch::stable::new_zeros(grad, {}, ScalarType::Double);
  const Tensor partial = torch::stable::new_empty(grad, {rk4_dot_blocks(grad.numel())}, ScalarType::Double);
  if (grad.numel() == 0) return out;
  dispatch_floats(grad.scalar_type(), [&](auto scalar) {
    const auto args = combine_args<decltype(scalar)>(grad, stages, factor);
    check_cuda(launch_rk4_dot(args, data<double>(partial), data<double>(out), device.stream()), "rk4_dot");
  });
  return out;
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CUDA, m) {
  m.impl("rk4_fwd", TORCH_BOX(&advkern::rk4_fwd_cuda));
  m.impl("rk4_bwd", TORCH_BOX(&advkern::rk4_bwd_cuda));
  m.impl("rk4_combine", TORCH_BOX(&advkern::rk4_combine_cuda));
  m.impl("rk4_scale", TORCH_BOX(&advkern::rk4_scale_cuda));
  m.impl("rk4_dot", TORCH_BOX(&advkern::rk4_dot_cuda));
}
