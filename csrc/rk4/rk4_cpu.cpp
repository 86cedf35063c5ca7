// SPDX-License-Identifier: MIT
// CPU glue of rk4: check, allocate, pick type and instruction set, split the samples among torch's threads.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/fresh.h"
#include "common/isa.h"
#include "common/memory.h"
#include "common/parallel.h"

#define ADVKERN_KERNEL "rk4/rk4_cpu.h"
#include "common/for_each_isa.h"
#include "rk4/rk4_check.h"

namespace advkern {
namespace {

constexpr int64_t kGrainWork = 1 << 16;    // multiplications below which a second thread costs more than it saves
constexpr int64_t kMaxGroups = 64;         // whose sums are added in order: more than there are threads, mostly
constexpr int64_t kMaxSums = 16 << 20;     // scalars of all groups' sums, where fewer groups do not go below 8
constexpr int64_t kStreamBytes = 8 << 20;  // of a state: no cache that a core has to itself keeps it until it is read
constexpr int64_t kDotChunk = 1 << 14;     // elements of a partial sum, whatever the threads

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

// Zeros, on a boundary of 64 bytes.
template <typename acc_t>
std::unique_ptr<acc_t[], FreeDeleter> zeros(int64_t count) {
  const size_t bytes = (size_t(count) * sizeof(acc_t) + 63) / 64 * 64;
  void* const data = std::aligned_alloc(64, bytes ? bytes : 64);
  STD_TORCH_CHECK(data != nullptr, "advkern: out of memory: rk4 needs ", bytes, " bytes of scratch");
  advise_huge_pages(data, bytes);
  std::memset(data, 0, bytes);
  return std::unique_ptr<acc_t[], FreeDeleter>(static_cast<acc_t*>(data));
}

// A call's arguments as the kernel takes them, with the packed weights that they point to.
template <typename acc_t>
struct Call {
  Rk4Problem<acc_t> p;
  std::unique_ptr<acc_t[], FreeDeleter> packed;
  acc_t *weight1_t, *weight2_t;

  Call(const Rk4Tensors& t, const std::vector<int64_t>& save_at, const std::vector<double>& tableau, int64_t every,
       const Rk4Sizes& sizes) {
    const int64_t count = sizes.hidden * sizes.dim;
    packed = zeros<acc_t>(5 * count);
    acc_t *const weight1 = packed.get(), *const weight2 = weight1 + count;
    weight1_t = weight2 + count;
    weight2_t = weight1_t + count;
    acc_t* const units2 = weight2_t + count;
    const acc_t *const w1 = data<const acc_t>(t.weight1), *const w2 = data<const acc_t>(t.weight2);
    ADVKERN_ON_ISA(rk4_pack, w1, sizes.hidden, sizes.dim, false, weight1);
    ADVKERN_ON_ISA(rk4_pack, w2, sizes.dim, sizes.hidden, false, weight2);
    ADVKERN_ON_ISA(rk4_pack, w1, sizes.dim, sizes.hidden, true, weight1_t);
    ADVKERN_ON_ISA(rk4_pack, w2, sizes.hidden, sizes.dim, true, weight2_t);
    for (int64_t i = 0; i < sizes.hidden; ++i)
      for (int64_t d = 0; d < sizes.dim; ++d) units2[i * sizes.dim + d] = w2[d * sizes.hidden + i];
    p = {weight1,
         data<const acc_t>(t.bias1),
         weight2,
         data<const acc_t>(t.bias2),
         w1,
         units2,
         data<const acc_t>(t.h),
         save_at.data(),
         sizes.samples,
         sizes.dim,
         sizes.hidden,
         sizes.steps,
         int64_t(save_at.size()),
         every,
         sizes.h_per_sample,
         sizes.stages,
         {}};
    fill_tableau(tableau, sizes.stages, p.tableau);
  }

  int64_t block_samples() const { return ADVKERN_ON_ISA(rk4_block_samples<acc_t>); }
  int64_t blocks() const { return (p.samples + block_samples() - 1) / block_samples(); }
  int64_t grain(int64_t blocks_each) const {
    const int64_t work = blocks_each * block_samples() * (p.steps + 1) * p.stages * (p.dim + 8) * p.hidden;
    return kGrainWork / work + 1;
  }
};

template <typename Function>
void dispatch_type(const Tensor& y, const Function& function) {
  if (y.scalar_type() == ScalarType::Double) return function(double{});
  STD_TORCH_CHECK(y.scalar_type() == ScalarType::Float, "advkern: y must be float32 or float64, got ", y.scalar_type());
  function(float{});
}

std::tuple<Tensor, Tensor> rk4_fwd_cpu(const Tensor& y, const Tensor& weight1, const Tensor& bias1,
                                       const Tensor& weight2, const Tensor& bias2, const Tensor& h,
                                       const std::vector<int64_t>& save_at, const std::vector<double>& tableau,
                                       int64_t every) {
  const Rk4Tensors tensors{y, weight1, bias1, weight2, bias2, h};
  const Rk4Sizes sizes = check_rk4(tensors, save_at, tableau);
  const int64_t kept = every > 0 ? (sizes.steps + every - 1) / every : 0;
  Tensor out = in_huge_pages(torch::stable::new_empty(y, {int64_t(save_at.size()), sizes.samples, sizes.dim}));
  Tensor checkpoints = in_huge_pages(torch::stable::new_empty(y, {kept, sizes.samples, sizes.dim}));
  dispatch_type(y, [&](auto scalar) {
    using acc_t = decltype(scalar);
    const Call<acc_t> call(tensors, save_at, tableau, every, sizes);
    const Rk4Forward<acc_t> io{data<const acc_t>(y), data<acc_t>(out), data<acc_t>(checkpoints)};
    parallel_for(0, call.blocks(), call.grain(1), [&](int64_t begin, int64_t end) {
      const auto scratch = zeros<acc_t>(ADVKERN_ON_ISA(rk4_scratch, call.p, false));
      ADVKERN_ON_ISA(rk4_forward_blocks, call.p, io, begin, end, scratch.get());
    });
  });
  return {out, checkpoints};
}

// Each group of blocks has sums of its own, whatever the threads, and these are added in order.
template <typename acc_t>
struct GroupSums {
  int64_t groups, lanes, padded, matrix, size;
  bool h_shared, small;
  std::unique_ptr<acc_t[], FreeDeleter> data;

  explicit GroupSums(const Call<acc_t>& call) {
    const Rk4Problem<acc_t>& p = call.p;
    lanes = ADVKERN_ON_ISA(rk4_lanes<acc_t>);
    padded = ADVKERN_ON_ISA(rk4_padded<acc_t>, p.dim);
    small = ADVKERN_ON_ISA(rk4_is_small, p.dim);
    matrix = p.hidden * (small ? p.dim * lanes : padded);
    h_shared = !p.h_per_sample;
    size = 2 * matrix + (p.hidden + p.dim + (h_shared ? p.steps : 0)) * lanes;
    const int64_t affordable = kMaxSums / size > 8 ? kMaxSums / size : 8;
    groups = affordable < kMaxGroups ? affordable : kMaxGroups;
    if (call.blocks() < groups) groups = call.blocks();
    data = zeros<acc_t>(groups * size);
  }

  Rk4Sums<acc_t> of(int64_t group, const Rk4Problem<acc_t>& p) const {
    acc_t* const start = data.get() + group * size;
    acc_t* const bias1 = start + 2 * matrix;
    acc_t* const bias2 = bias1 + p.hidden * lanes;
    return {start, start + matrix, bias1, bias2, bias2 + p.dim * lanes};
  }

  // The sum over the groups, and of few dimensions over the lanes, of one weight's gradient.
  acc_t weight(int64_t which, int64_t unit, int64_t dim, int64_t d) const {
    acc_t sum = 0;
    const acc_t* const first = data.get() + which * matrix;
    if (small) {
      ADVKERN_ON_ISA(rk4_sum_lanes, first + (unit * dim + d) * lanes, groups, size, 1, &sum);
    } else {
      for (int64_t g = 0; g < groups; ++g) sum += first[g * size + unit * padded + d];
    }
    return sum;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rk4_bwd_cpu(
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
  Tensor grad_w1 = torch::stable::empty_like(weight1), grad_b1 = torch::stable::empty_like(bias1);
  Tensor grad_w2 = torch::stable::empty_like(weight2), grad_b2 = torch::stable::empty_like(bias2);
  Tensor grad_h = torch::stable::empty_like(h);
  dispatch_type(grad, [&](auto scalar) {
    using acc_t = decltype(scalar);
    const Call<acc_t> call(tensors, save_at, tableau, every, sizes);
    const Rk4Problem<acc_t>& p = call.p;
    const GroupSums<acc_t> sums(call);
    const Rk4Backward<acc_t> io{data<const acc_t>(grad), data<const acc_t>(checkpoints),
                                call.weight1_t,          call.weight2_t,
                                data<acc_t>(grad_y),     sizes.h_per_sample ? data<acc_t>(grad_h) : nullptr};
    const int64_t blocks = call.blocks(), groups = sums.groups;
    parallel_for(0, groups, call.grain(4 * (blocks / (groups + 1) + 1)), [&](int64_t begin, int64_t end) {
      const auto scratch = zeros<acc_t>(ADVKERN_ON_ISA(rk4_scratch, p, true));
      for (int64_t g = begin; g < end; ++g)
        ADVKERN_ON_ISA(rk4_backward_blocks, p, io, sums.of(g, p), g * blocks / groups, (g + 1) * blocks / groups,
                       scratch.get());
    });

    for (int64_t i = 0; i < p.hidden; ++i)
      for (int64_t d = 0; d < p.dim; ++d) {
        data<acc_t>(grad_w1)[i * p.dim + d] = sums.weight(0, i, p.dim, d);
        data<acc_t>(grad_w2)[d * p.hidden + i] = sums.weight(1, i, p.dim, d);
      }
    const Rk4Sums<acc_t> first = sums.of(0, p);
    ADVKERN_ON_ISA(rk4_sum_lanes, first.bias1, groups, sums.size, p.hidden, data<acc_t>(grad_b1));
    ADVKERN_ON_ISA(rk4_sum_lanes, first.bias2, groups, sums.size, p.dim, data<acc_t>(grad_b2));
    if (sums.h_shared) ADVKERN_ON_ISA(rk4_sum_lanes, first.h, groups, sums.size, p.steps, data<acc_t>(grad_h));
  });
  return {grad_y, grad_w1, grad_b1, grad_w2, grad_b2, grad_h};
}

template <typename scalar_t>
Rk4CombineArgs<scalar_t> combine_args(const Tensor& y, const std::vector<const Tensor*>& k,
                                      const std::vector<double>& factor) {
  Rk4CombineArgs<scalar_t> args{data<const scalar_t>(y), {}, {}, nullptr, int(k.size()), false};
  for (size_t j = 0; j < k.size(); ++j) {
    args.k[j] = data<const scalar_t>(*k[j]);
    args.factor[j] = acc_of<scalar_t>(factor[j]);
  }
  return args;
}

Tensor rk4_combine_cpu(const Tensor& y, const std::vector<double>& factor, const Tensor& k1,
                       const std::optional<Tensor>& k2, const std::optional<Tensor>& k3,
                       const std::optional<Tensor>& k4) {
  const auto stages = check_stages(y, factor, k1, k2, k3, k4);
  Tensor out = in_huge_pages(torch::stable::empty_like(y));
  const int64_t element = y.element_size();
  const bool stream = y.numel() * element >= kStreamBytes && element >= kLeastStreamed;
  if (stream) map_pages(out);
  dispatch_floats(y.scalar_type(), [&](auto scalar) {
    auto args = combine_args<decltype(scalar)>(y, stages, factor);
    args.out = data<decltype(scalar)>(out);
    args.stream = stream;
    parallel_for(0, y.numel(), kGrainElements,
                 [&](int64_t begin, int64_t end) { ADVKERN_ON_ISA(rk4_combine, args, begin, end); });
  });
  return out;
}

Tensor rk4_scale_cpu(const Tensor& grad, const std::vector<double>& factor) {
  STD_TORCH_CHECK(grad.is_contiguous() && !factor.empty() && int64_t(factor.size()) <= kMostStages,
                  "advkern: grad must be contiguous and factor hold 1 to ", kMostStages, " numbers");
  std::vector<int64_t> shape{int64_t(factor.size())};
  for (int64_t d = 0; d < grad.dim(); ++d) shape.push_back(grad.size(d));
  Tensor out = in_huge_pages(torch::stable::new_empty(grad, shape));
  dispatch_floats(grad.scalar_type(), [&](auto scalar) {
    using scalar_t = decltype(scalar);
    Rk4ScaleArgs<scalar_t> args{data<const scalar_t>(grad), {}, data<scalar_t>(out), grad.numel(), int(factor.size())};
    for (size_t j = 0; j < factor.size(); ++j) args.factor[j] = acc_of<scalar_t>(factor[j]);
    parallel_for(0, grad.numel(), kGrainElements,
                 [&](int64_t begin, int64_t end) { ADVKERN_ON_ISA(rk4_scale, args, begin, end); });
  });
  return out;
}

Tensor rk4_dot_cpu(const Tensor& grad, const std::vector<double>& factor, const Tensor& k1,
                   const std::optional<Tensor>& k2, const std::optional<Tensor>& k3, const std::optional<Tensor>& k4) {
  const auto stages = check_stages(grad, factor, k1, k2, k3, k4);
  Tensor out = torch::stable::new_empty(grad, {}, ScalarType::Double);
  const int64_t chunks = (grad.numel() + kDotChunk - 1) / kDotChunk;
  std::vector<double> partial(static_cast<size_t>(chunks));
  dispatch_floats(grad.scalar_type(), [&](auto scalar) {
    const auto args = combine_args<decltype(scalar)>(grad, stages, factor);
    parallel_for(0, chunks, kGrainElements / kDotChunk, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t last = (c + 1) * kDotChunk < grad.numel() ? (c + 1) * kDotChunk : grad.numel();
        partial[size_t(c)] = ADVKERN_ON_ISA(rk4_dot, args, c * kDotChunk, last);
      }
    });
  });
  double sum = 0;
  for (const double part : partial) sum += part;
  *data<double>(out) = sum;
  return out;
}

}  // namespace
}  // namespace advkern

STABLE_TORCH_LIBRARY_IMPL(advkern, CPU, m) {
  m.impl("rk4_fwd", TORCH_BOX(&advkern::rk4_fwd_cpu));
  m.impl("rk4_bwd", TORCH_BOX(&advkern::rk4_bwd_cpu));
  m.impl("rk4_combine", TORCH_BOX(&advkern::rk4_combine_cpu));
  m.impl("rk4_scale", TORCH_BOX(&advkern::rk4_scale_cpu));
  m.impl("rk4_dot", TORCH_BOX(&advkern::rk4_dot_cpu));
}
