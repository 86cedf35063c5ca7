// SPDX-License-Identifier: MIT
// The CUDA kernels of rk4 under the emulator, for tests/ops/emulated.py: every array is copied between guard pages,
// the kernel runs, the result is copied back. Each function returns a message, empty where all was well.
#include <cstdint>

#include "rk4/rk4.cuh"

namespace {

using namespace advkern;
using emulator::GuardedArray;

struct Sizes {
  int64_t samples, dim, hidden, steps, saves, every, h_per_sample, stages;
};

bool at_end() { return emulator::device.order != emulator::Order::reverse; }

template <typename T>
GuardedArray<T> input(const void* values, int64_t count) {
  return GuardedArray<T>(static_cast<const T*>(values), size_t(count), at_end());
}

template <typename T>
GuardedArray<T> room(int64_t count) {
  return GuardedArray<T>(size_t(count), at_end());
}

template <typename T>
void copy_out(void* target, const GuardedArray<T>& source, int64_t count) {
  if (count) std::memcpy(target, static_cast<const void*>(source.data()), size_t(count) * sizeof(T));
}

const char* message_of(cudaError_t error) {
  static std::string text;
  text = error == cudaSuccess ? "" : "error " + std::to_string(int(error)) + ": " + emulator::device.message;
  return text.c_str();
}

template <typename acc_t>
struct Network {
  GuardedArray<acc_t> weight1, bias1, weight2, bias2, h;
  GuardedArray<int64_t> save_at;
  Rk4Problem<acc_t> p;

  Network(const Sizes& s, const void* const* arrays, const int64_t* saves, const double* tableau)
      : weight1(input<acc_t>(arrays[0], s.hidden * s.dim)),
        bias1(input<acc_t>(arrays[1], s.hidden)),
        weight2(input<acc_t>(arrays[2], s.dim * s.hidden)),
        bias2(input<acc_t>(arrays[3], s.dim)),
        h(input<acc_t>(arrays[4], s.steps * (s.h_per_sample ? s.samples : 1))),
        save_at(input<int64_t>(saves, s.saves)),
        p{weight1.data(),
          bias1.data(),
          weight2.data(),
          bias2.data(),
          h.data(),
          save_at.data(),
          s.samples,
          s.dim,
          s.hidden,
          s.steps,
          s.saves,
          s.every,
          s.h_per_sample != 0,
          int(s.stages),
          {}} {
    for (int row = 0, k = 0; row < p.stages; ++row)
      for (int column = 0; column <= row; ++column) p.tableau[row][column] = acc_t(tableau[k++]);
  }

  int64_t plane() const { return p.samples * p.dim; }
  int64_t kept() const { return p.every ? (p.steps + p.every - 1) / p.every : 0; }
};

template <typename Function>
cudaError_t dispatch_network(int scalar, const Function& function) {
  return scalar == 'd' ? function(double{}) : function(float{});
}

template <typename Function>
cudaError_t dispatch_all(int scalar, const Function& function) {
  return scalar == 'd'   ? function(double{})
         : scalar == 'f' ? function(float{})
         : scalar == 'h' ? function(Half{})
                         : function(BFloat16{});
}

template <typename scalar_t>
struct Stages {
  std::vector<std::unique_ptr<GuardedArray<scalar_t>>> arrays;
  Rk4CombineArgs<scalar_t> args{};

  Stages(int64_t count, int64_t terms, const double* factor, const void* y, const void* const* k) {
    args.count = count;
    args.terms = int(terms);
    args.y = add(y, count);
    for (int64_t j = 0; j < terms; ++j) {
      args.factor[j] = acc_of<scalar_t>(factor[j]);
      if (k) args.k[j] = add(k[j], count);
    }
  }

  const scalar_t* add(const void* values, int64_t count) {
    arrays.push_back(
        std::make_unique<GuardedArray<scalar_t>>(static_cast<const scalar_t*>(values), size_t(count), at_end()));
    return arrays.back()->data();
  }
};

}  // namespace

extern "C" {

void set_order(int order, unsigned seed) {
  emulator::device.order = emulator::Order(order);
  emulator::device.seed = seed;
  emulator::device.message.clear();
}

// network: W1, b1, W2, b2, h
const char* rk4_fwd(int scalar, const Sizes* sizes, const int64_t* saves, const double* tableau,
                    const void* const* network, const void* y, void* out, void* checkpoints) {
  return message_of(dispatch_network(scalar, [&](auto value) {
    using acc_t = decltype(value);
    const Network<acc_t> n(*sizes, network, saves, tableau);
    const auto start = input<acc_t>(y, n.plane());
    const auto path = room<acc_t>(n.p.saves * n.plane()), kept = room<acc_t>(n.kept() * n.plane());
    const bool fits = rk4_fits_shared(n.p);
    const auto scratch = room<acc_t>(fits ? 0 : n.p.blocks() * n.p.forward_scratch());
    const Rk4FwdArgs<acc_t> args{n.p, start.data(), path.data(), kept.data(), fits ? nullptr : scratch.data()};
    const cudaError_t error = launch_rk4_fwd(args, nullptr);
    copy_out(out, path, n.p.saves * n.plane());
    copy_out(checkpoints, kept, n.kept() * n.plane());
    return error;
  }));
}

// grads: of y, W1, b1, W2, b2, h
const char* rk4_bwd(int scalar, const Sizes* sizes, const int64_t* saves, const double* tableau,
                    const void* const* network, const void* grad, const void* checkpoints, void* const* grads) {
  return message_of(dispatch_network(scalar, [&](auto value) {
    using acc_t = decltype(value);
    const Network<acc_t> n(*sizes, network, saves, tableau);
    const Rk4Problem<acc_t>& p = n.p;
    const auto from = input<acc_t>(grad, p.saves * n.plane()), kept = input<acc_t>(checkpoints, n.kept() * n.plane());
    const int64_t lengths = p.steps * (p.h_per_sample ? p.samples : 1);
    const auto y = room<acc_t>(n.plane()), w1 = room<acc_t>(p.hidden * p.dim), b1 = room<acc_t>(p.hidden);
    const auto w2 = room<acc_t>(p.hidden * p.dim), b2 = room<acc_t>(p.dim), h = room<acc_t>(lengths);
    const auto scratch = room<acc_t>(p.blocks() * p.backward_scratch()), sums = room<acc_t>(p.blocks() * p.sums());
    const Rk4BwdArgs<acc_t> args{p,
                                 from.data(),
                                 kept.data(),
                                 y.data(),
                                 p.h_per_sample ? h.data() : nullptr,
                                 scratch.data(),
                                 sums.data(),
                                 {w1.data(), w2.data(), b1.data(), b2.data(), h.data()}};
    const cudaError_t error = launch_rk4_bwd(args, nullptr);
    copy_out(grads[0], y, n.plane());
    copy_out(grads[1], w1, p.hidden * p.dim);
    copy_out(grads[2], b1, p.hidden);
    copy_out(grads[3], w2, p.hidden * p.dim);
    copy_out(grads[4], b2, p.dim);
    copy_out(grads[5], h, lengths);
    return error;
  }));
}

const char* rk4_combine(int scalar, int64_t count, int64_t terms, const double* factor, const void* y,
                        const void* const* k, void* out) {
  return message_of(dispatch_all(scalar, [&](auto value) {
    using scalar_t = decltype(value);
    const Stages<scalar_t> stages(count, terms, factor, y, k);
    const auto result = room<scalar_t>(count);
    const cudaError_t error = launch_rk4_combine(stages.args, result.data(), nullptr);
    copy_out(out, result, count);
    return error;
  }));
}

const char* rk4_scale(int scalar, int64_t count, int64_t terms, const double* factor, const void* grad, void* out) {
  return message_of(dispatch_all(scalar, [&](auto value) {
    using scalar_t = decltype(value);
    const Stages<scalar_t> stages(count, terms, factor, grad, nullptr);
    const auto result = room<scalar_t>(terms * count);
    const cudaError_t error = launch_rk4_scale(stages.args, result.data(), nullptr);
    copy_out(out, result, terms * count);
    return error;
  }));
}

const char* rk4_dot(int scalar, int64_t count, int64_t terms, const double* factor, const void* grad,
                    const void* const* k, void* out) {
  return message_of(dispatch_all(scalar, [&](auto value) {
    using scalar_t = decltype(value);
    const Stages<scalar_t> stages(count, terms, factor, grad, k);
    const auto partial = room<double>(rk4_dot_blocks(count)), total = room<double>(1);
    const cudaError_t error = launch_rk4_dot(stages.args, partial.data(), total.data(), nullptr);
    copy_out(out, total, 1);
    return error;
  }));
}
}
