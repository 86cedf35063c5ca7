// SPDX-License-Identifier: MIT
// exp of vectors, every instruction set of this machine, against libm in a wider type over the whole range.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "common/isa.h"

#define ADVKERN_KERNEL "vec_kernels.h"
#include "common/for_each_isa.h"

namespace {

constexpr int64_t kBatch = 4096;

// The distance from `exact` in units of the last place that a result of its size has.
template <typename acc_t>
double error_in_ulps(acc_t actual, long double exact) {
  const long double largest = std::numeric_limits<acc_t>::max();
  if (std::isinf(actual)) return exact > largest * (1 - std::numeric_limits<acc_t>::epsilon()) ? 0 : INFINITY;
  if (exact > largest) return INFINITY;
  const long double size = std::max(exact, (long double)(std::numeric_limits<acc_t>::min()));
  const long double ulp = std::ldexp(1.0L, std::ilogb(size) - (std::numeric_limits<acc_t>::digits - 1));
  return double(std::fabs((long double)(actual)-exact) / ulp);
}

// The largest error over arguments that `next` gives.
template <typename acc_t, typename Next>
int check_range(const char* what, int64_t batches, const Next& next) {
  using namespace advkern;
  std::vector<acc_t> x(kBatch), out(kBatch);
  double worst = 0, at = 0;
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (auto& value : x) value = next();
    ADVKERN_ON_ISA(exp_of_all<acc_t>, x.data(), out.data(), kBatch);
    for (size_t k = 0; k < x.size(); ++k) {
      const long double exact = std::is_same_v<acc_t, float> ? (long double)(std::exp(double(x[k]))) : expl(x[k]);
      const double error = error_in_ulps(out[k], exact);
      if (!(error <= worst)) worst = error, at = double(x[k]);
    }
  }
  std::printf("%s %s: %.3f ulp at %.17g\n", isa_name(current_isa()), what, worst, at);
  return worst < 1.1 ? 0 : 1;
}

template <typename acc_t>
int check_special() {
  using namespace advkern;
  constexpr acc_t inf = std::numeric_limits<acc_t>::infinity(), nan = std::numeric_limits<acc_t>::quiet_NaN();
  std::vector<acc_t> x(16, 0), out(16);
  const acc_t arguments[] = {-inf, inf, nan, -nan, 0, acc_t(-0.0), acc_t(1e30), acc_t(-1e30)};
  const acc_t expected[] = {0, inf, nan, nan, 1, 1, inf, 0};
  std::memcpy(x.data(), arguments, sizeof(arguments));
  ADVKERN_ON_ISA(exp_of_all<acc_t>, x.data(), out.data(), 16);
  int failures = 0;
  for (size_t k = 0; k < 8; ++k)
    if (!(out[k] == expected[k] || (std::isnan(out[k]) && std::isnan(expected[k])))) {
      std::printf("%s: exp(%g) is %g\n", isa_name(current_isa()), double(x[k]), double(out[k]));
      ++failures;
    }
  return failures;
}

int check_all() {
  uint32_t bits = 0;
  const auto every_so_manieth_float = [&] {
    for (;;) {
      float value;
      std::memcpy(&value, &(bits += 1009), sizeof(value));  // odd, so the bits run through all patterns
      if (std::abs(value) < 120) return value;
    }
  };
  std::mt19937_64 random(0);
  std::uniform_real_distribution<double> wide(-750, 715), narrow(-2, 2);
  return check_range<float>("float32", 500, every_so_manieth_float) +
         check_range<double>("float64", 200, [&] { return wide(random); }) +
         check_range<double>("float64 near 0", 200, [&] { return narrow(random); }) + check_special<float>() +
         check_special<double>();
}

}  // namespace

int main() {
  int failures = 0;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check_all();
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
