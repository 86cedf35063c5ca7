// SPDX-License-Identifier: MIT
// The product with a weight and the weight's gradient, every instruction set of this machine, against plain loops.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "common/isa.h"

#define ADVKERN_KERNEL "linear/linear_cpu.h"
#include "common/for_each_isa.h"

namespace {

using advkern::acc_of;

struct Sizes {
  int64_t rows, in, out;
};

template <typename scalar_t>
std::vector<scalar_t> random_values(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<scalar_t> values(static_cast<size_t>(count));
  for (auto& value : values) value = scalar_t(normal(random));
  return values;
}

// The largest error in units of the type's eps, relative to the sum of the terms' magnitudes.
template <typename scalar_t>
double error_in_eps(scalar_t actual, double exact, double magnitude) {
  const double error = std::fabs(double(actual) - exact);
  return !(error <= magnitude) ? INFINITY
                               : error / (magnitude + 1e-30) / double(std::numeric_limits<scalar_t>::epsilon());
}

template <typename scalar_t>
double forward_error(const Sizes& s, bool transposed, bool with_bias, std::mt19937& random) {
  using acc_t = acc_of<scalar_t>;
  using namespace advkern;
  const auto x = random_values<scalar_t>(s.rows * s.in, random), weight = random_values<scalar_t>(s.out * s.in, random),
             bias = random_values<scalar_t>(s.out, random);
  std::vector<scalar_t> y(size_t(s.rows * s.out), scalar_t(NAN));
  const int64_t stride_out = transposed ? 1 : s.in, stride_in = transposed ? s.out : 1;
  const LinearArgs<scalar_t> args{x.data(), weight.data(), stride_out, stride_in, with_bias ? bias.data() : nullptr,
                                  s.rows,   s.in,          s.out,      y.data()};
  // memory full of NaN: what is read must have been written
  std::vector<acc_t> packed(size_t(ADVKERN_ON_ISA(linear_packed_size, args)), acc_t(NAN));
  std::vector<acc_t> scratch(size_t(ADVKERN_ON_ISA(linear_fwd_scratch, args)), acc_t(NAN));
  const int64_t panels = ADVKERN_ON_ISA(linear_panels, args);
  ADVKERN_ON_ISA(linear_pack, args, panels / 2, panels, packed.data());
  ADVKERN_ON_ISA(linear_pack, args, 0, panels / 2, packed.data());
  ADVKERN_ON_ISA(linear_fwd_rows, args, packed.data(), s.rows / 3, s.rows, scratch.data());
  ADVKERN_ON_ISA(linear_fwd_rows, args, packed.data(), 0, s.rows / 3, scratch.data());
  double worst = 0;
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t o = 0; o < s.out; ++o) {
      double sum = with_bias ? double(bias[size_t(o)]) : 0, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < s.in; ++k) {
        const double term = double(x[size_t(row * s.in + k)]) * double(weight[size_t(o * stride_out + k * stride_in)]);
        sum += term;
        magnitude += std::fabs(term);
      }
      worst = std::fmax(worst, error_in_eps(y[size_t(row * s.out + o)], sum, magnitude));
    }
  return worst;
}

template <typename scalar_t>
double gradient_error(const Sizes& s, std::mt19937& random) {
  using acc_t = acc_of<scalar_t>;
  using namespace advkern;
  const auto grad = random_values<scalar_t>(s.rows * s.out, random), x = random_values<scalar_t>(s.rows * s.in, random);
  std::vector<scalar_t> grad_weight(size_t(s.out * s.in), scalar_t(NAN));
  const LinearWeightArgs<scalar_t> args{grad.data(), x.data(), s.rows, s.in, s.out, grad_weight.data()};
  const int64_t tasks = linear_slices(args) * linear_blocks(args);
  const bool in_place = ADVKERN_ON_ISA(linear_sums_are_result, args);
  std::vector<acc_t> own_sums(in_place ? 0 : size_t(ADVKERN_ON_ISA(linear_sums_size, args)), acc_t(NAN));
  acc_t* const sums = in_place ? reinterpret_cast<acc_t*>(grad_weight.data()) : own_sums.data();
  std::vector<acc_t> scratch(size_t(ADVKERN_ON_ISA(linear_bwd_weight_scratch, args)), acc_t(NAN));
  ADVKERN_ON_ISA(linear_bwd_weight_tasks, args, tasks / 2, tasks, sums, scratch.data());
  ADVKERN_ON_ISA(linear_bwd_weight_tasks, args, 0, tasks / 2, sums, scratch.data());
  if (!in_place) {
    ADVKERN_ON_ISA(linear_bwd_weight_rows, args, s.out / 2, s.out, sums);
    ADVKERN_ON_ISA(linear_bwd_weight_rows, args, 0, s.out / 2, sums);
  }
  double worst = 0;
  for (int64_t o = 0; o < s.out; ++o)
    for (int64_t k = 0; k < s.in; ++k) {
      double sum = 0, magnitude = 0;
      for (int64_t row = 0; row < s.rows; ++row) {
        const double term = double(grad[size_t(row * s.out + o)]) * double(x[size_t(row * s.in + k)]);
        sum += term;
        magnitude += std::fabs(term);
      }
      worst = std::fmax(worst, error_in_eps(grad_weight[size_t(o * s.in + k)], sum, magnitude));
    }
  return worst;
}

template <typename scalar_t>
int check(const char* type) {
  int failures = 0;
  std::mt19937 random(0);
  const auto expect = [&](double error, const Sizes& s, const char* what) {
    if (error < 8) return;
    std::printf("%s %s, %s, %d x %d x %d: error of %g eps\n", advkern::isa_name(advkern::current_isa()), type, what,
                int(s.rows), int(s.in), int(s.out), error);
    ++failures;
  };
  const Sizes all[] = {{1, 1, 1},     {7, 5, 3},       {97, 16, 64},    {200, 33, 150},
                       {50, 300, 40}, {2500, 20, 100}, {700, 300, 200}, {3, 0, 4}};
  for (const Sizes& s : all) {
    for (int options = 0; options < 4; ++options)
      expect(forward_error<scalar_t>(s, options & 1, options & 2, random), s, "product");
    expect(gradient_error<scalar_t>(s, random), s, "gradient");
  }
  return failures;
}

}  // namespace

int main() {
  int failures = 0;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check<float>("float32") + check<double>("float64") + check<advkern::Half>("float16") +
                check<advkern::BFloat16>("bfloat16");
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
