// SPDX-License-Identifier: MIT
// The error of a vector function in units of the last place, over the arguments that a test gives.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "common/isa.h"

constexpr int64_t kBatch = 4096;

// The distance from `exact` in units of the last place that a result of its size has.
template <typename acc_t>
double error_in_ulps(acc_t actual, long double exact) {
  const long double largest = std::numeric_limits<acc_t>::max();
  if (std::signbit(actual) != std::signbit(exact)) return INFINITY;
  if (std::isinf(actual)) return exact > largest * (1 - std::numeric_limits<acc_t>::epsilon()) ? 0 : INFINITY;
  if (std::fabs(exact) > largest) return INFINITY;
  const long double size = std::max(std::fabs(exact), (long double)(std::numeric_limits<acc_t>::min()));
  const long double ulp = std::ldexp(1.0L, std::ilogb(size) - (std::numeric_limits<acc_t>::digits - 1));
  return double(std::fabs((long double)(actual)-exact) / ulp);
}

// 1 where `function(x, out, count)` errs by more than `allowed` on an argument that `next` gives.
template <typename acc_t, typename Function, typename Exact, typename Next>
int check_range(const char* what, int64_t batches, double allowed, const Function& function, const Exact& exact,
                const Next& next) {
  std::vector<acc_t> x(kBatch), out(kBatch);
  double worst = 0, at = 0;
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (auto& value : x) value = next();
    function(x.data(), out.data(), kBatch);
    for (size_t k = 0; k < x.size(); ++k) {
      const double error = error_in_ulps(out[k], exact(x[k]));
      if (!(error <= worst)) worst = error, at = double(x[k]);
    }
  }
  std::printf("%s %s: %.3f ulp at %.17g\n", advkern::isa_name(advkern::current_isa()), what, worst, at);
  return worst < allowed ? 0 : 1;
}

// How many of the arguments give another result, or one of another sign; at most 16 of them.
template <typename acc_t, size_t kCount, typename Function>
int check_special(const acc_t (&arguments)[kCount], const acc_t (&expected)[kCount], const Function& function) {
  std::vector<acc_t> x(16, 0), out(16);
  std::memcpy(x.data(), arguments, sizeof(arguments));
  function(x.data(), out.data(), 16);
  int failures = 0;
  for (size_t k = 0; k < kCount; ++k) {
    const bool same = out[k] == expected[k] && std::signbit(out[k]) == std::signbit(expected[k]);
    if (same || (std::isnan(out[k]) && std::isnan(expected[k]))) continue;
    std::printf("%s: of %g came %g\n", advkern::isa_name(advkern::current_isa()), double(x[k]), double(out[k]));
    ++failures;
  }
  return failures;
}

// Floats of every size and sign that `wanted` accepts.
template <typename Wanted>
float next_float(uint32_t& bits, const Wanted& wanted) {
  for (;;) {
    float value;
    std::memcpy(&value, &(bits += 1009), sizeof(value));  // odd, so the bits run through all patterns
    if (wanted(value)) return value;
  }
}

template <typename Check>
int on_every_isa(const Check& check) {
  int failures = 0;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check();
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
