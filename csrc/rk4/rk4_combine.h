// SPDX-License-Identifier: MIT
// The combinations of the stages of any function, and what their gradients need.
// Included by rk4_cpu.h inside a namespace for each instruction set, hence no guard.

template <int kTerms, typename scalar_t>
static void combine_terms(const Rk4CombineArgs<scalar_t>& a, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  for (int64_t i = begin; i < end; i += lanes) {
    if (i + lanes <= end) {
      auto sum = load(a.y + i);
#pragma GCC unroll 4
      for (int j = 0; j < kTerms; ++j) sum += a.factor[j] * load(a.k[j] + i);
      store(a.out + i, sum);
    } else {
      auto sum = load_part(a.y + i, end - i);
      for (int j = 0; j < kTerms; ++j) sum += a.factor[j] * load_part(a.k[j] + i, end - i);
      store_part(a.out + i, sum, end - i);
    }
  }
}

template <typename scalar_t>
static void rk4_combine(const Rk4CombineArgs<scalar_t>& a, int64_t begin, int64_t end) {
  if (a.terms == 1) combine_terms<1>(a, begin, end);
  if (a.terms == 2) combine_terms<2>(a, begin, end);
  if (a.terms == 3) combine_terms<3>(a, begin, end);
  if (a.terms == 4) combine_terms<4>(a, begin, end);
}

template <typename scalar_t>
static void rk4_scale(const Rk4ScaleArgs<scalar_t>& a, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  for (int64_t i = begin; i < end; i += lanes) {
    const auto grad = load_part(a.grad + i, end - i);
    for (int j = 0; j < a.terms; ++j) store_part(a.out + j * a.count + i, a.factor[j] * grad, end - i);
  }
}

// sum_j factor_j <grad, k_j> over [begin, end); `y` holds the gradient.
template <typename scalar_t>
static double rk4_dot(const Rk4CombineArgs<scalar_t>& a, int64_t begin, int64_t end) {
  using acc_t = acc_of<scalar_t>;
  constexpr int64_t kPart = 16 * kLanes<acc_t>;  // few enough that their sum in acc_t keeps the last places
  double total = 0;
  for (int64_t part = begin; part < end; part += kPart) {
    const int64_t part_end = part + kPart < end ? part + kPart : end;
    Vec<acc_t> sum{};
    for (int64_t i = part; i < part_end; i += kLanes<acc_t>) {
      Vec<acc_t> combined{};
      for (int j = 0; j < a.terms; ++j) combined += a.factor[j] * load_part(a.k[j] + i, part_end - i);
      sum += load_part(a.y + i, part_end - i) * combined;
    }
    total += double(sum_lanes<acc_t>(sum));
  }
  return total;
}
