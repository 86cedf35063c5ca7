// SPDX-License-Identifier: MIT
// exp and tanh of vectors, every instruction set of this machine, against libm in a wider type over the whole range.
#include <random>

#include "vec_error.h"

#define ADVKERN_KERNEL "vec_kernels.h"
#include "common/for_each_isa.h"

namespace {

using namespace advkern;

template <typename acc_t>
void exp_here(const acc_t* x, acc_t* out, int64_t count) {
  ADVKERN_ON_ISA(exp_of_all<acc_t>, x, out, count);
}

template <typename acc_t>
void exp_or_zero_here(const acc_t* x, acc_t* out, int64_t count) {
  ADVKERN_ON_ISA(exp_or_zero_of_all<acc_t>, x, out, count);
}

template <typename acc_t>
void tanh_here(const acc_t* x, acc_t* out, int64_t count) {
  ADVKERN_ON_ISA(tanh_of_all<acc_t>, x, out, count);
}

template <typename acc_t>
int check_special_exp() {
  constexpr acc_t inf = std::numeric_limits<acc_t>::infinity(), nan = std::numeric_limits<acc_t>::quiet_NaN();
  const acc_t arguments[] = {-inf, inf, nan, -nan, 0, acc_t(-0.0), acc_t(1e30), acc_t(-1e30)};
  const acc_t expected[] = {0, inf, nan, nan, 1, 1, inf, 0};
  return check_special(arguments, expected, exp_here<acc_t>);
}

template <typename acc_t>
int check_special_exp_or_zero() {
  constexpr acc_t inf = std::numeric_limits<acc_t>::infinity(), nan = std::numeric_limits<acc_t>::quiet_NaN();
  constexpr acc_t below = sizeof(acc_t) == 4 ? -88 : -709;  // results there would be subnormal
  const acc_t arguments[] = {-inf, nan, -nan, 0, acc_t(-0.0), acc_t(-1e30), below, 2 * below};
  const acc_t expected[] = {0, nan, nan, 1, 1, 0, 0, 0};
  return check_special(arguments, expected, exp_or_zero_here<acc_t>);
}

template <typename acc_t>
int check_special_tanh() {
  constexpr acc_t inf = std::numeric_limits<acc_t>::infinity(), nan = std::numeric_limits<acc_t>::quiet_NaN();
  constexpr acc_t tiny = std::numeric_limits<acc_t>::denorm_min(), huge = std::numeric_limits<acc_t>::max();
  const acc_t arguments[] = {-inf, inf, nan, -nan, 0, acc_t(-0.0), tiny, -tiny, huge, -huge};
  const acc_t expected[] = {-1, 1, nan, nan, 0, acc_t(-0.0), tiny, -tiny, 1, -1};
  return check_special(arguments, expected, tanh_here<acc_t>);
}

int check_exp() {
  uint32_t bits = 0;
  std::mt19937_64 random(0);
  std::uniform_real_distribution<double> wide(-750, 715), narrow(-2, 2);
  const auto floats = [&] { return next_float(bits, [](float value) { return std::abs(value) < 120; }); };
  std::uniform_real_distribution<double> normal(-708, 88);
  const auto normal_floats = [&] {
    return next_float(bits, [](float value) { return std::abs(value + 0.5f) < 86.5f; });
  };
  const auto of_float = [](float x) -> long double { return std::exp(double(x)); };
  const auto of_double = [](double x) { return expl(x); };
  constexpr double allowed = 1.1;
  return check_range<float>("exp, float32", 500, allowed, exp_here<float>, of_float, floats) +
         check_range<double>("exp, float64", 200, allowed, exp_here<double>, of_double, [&] { return wide(random); }) +
         check_range<double>("exp, float64 near 0", 200, allowed, exp_here<double>, of_double,
                             [&] { return narrow(random); }) +
         check_range<float>("exp_or_zero, float32", 500, allowed, exp_or_zero_here<float>, of_float, normal_floats) +
         check_range<double>("exp_or_zero, float64", 200, allowed, exp_or_zero_here<double>, of_double,
                             [&] { return normal(random); }) +
         check_special_exp<float>() + check_special_exp<double>() + check_special_exp_or_zero<float>() +
         check_special_exp_or_zero<double>();
}

int check_tanh() {
  uint32_t bits = 0;
  std::mt19937_64 random(0);
  std::uniform_real_distribution<double> part(-1, 1), exponent(-1000, 6);
  std::uniform_real_distribution<float> narrow(-2, 2);
  const auto floats = [&] { return next_float(bits, [](float value) { return !std::isnan(value); }); };
  // beyond 1 is wrong, however near
  const auto inside = [](auto of_all) {
    return [of_all](const auto* x, auto* out, int64_t count) {
      of_all(x, out, count);
      for (int64_t k = 0; k < count; ++k)
        if (std::abs(out[k]) > 1) out[k] = NAN;
    };
  };
  const auto of_float = [](float x) -> long double { return std::tanh(double(x)); };
  const auto of_double = [](double x) { return tanhl(x); };
  constexpr double allowed = 2.5;
  return check_range<float>("tanh, float32", 1000, allowed, inside(tanh_here<float>), of_float, floats) +
         check_range<float>("tanh, float32 near 0", 500, allowed, inside(tanh_here<float>), of_float,
                            [&] { return narrow(random); }) +
         check_range<double>("tanh, float64", 300, allowed, inside(tanh_here<double>), of_double,
                             [&] { return std::exp2(exponent(random)) * part(random); }) +
         check_range<double>("tanh, float64 to 20", 300, allowed, inside(tanh_here<double>), of_double,
                             [&] { return 20 * part(random); }) +
         check_special_tanh<float>() + check_special_tanh<double>();
}

}  // namespace

int main() {
  return on_every_isa([] { return check_exp() + check_tanh(); });
}
