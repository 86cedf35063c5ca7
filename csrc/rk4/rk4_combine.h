// SPDX-License-Identifier: MIT
// The combinations of the stages of any function, and what their gradients need.
// Included by rk4_cpu.h inside a namespace for each instruction set, hence no guard.

// The first elements of [begin, end), which end where a whole vector of `out` begins.
template <typename scalar_t>
ADVKERN_INLINE int64_t until_aligned(const scalar_t* out, int64_t begin, int64_t end) {
  const auto past = (reinterpret_cast<uintptr_t>(out + begin) % ADVKERN_VECTOR_BYTES) / sizeof(scalar_t);
  const int64_t left = past ? int64_t(ADVKERN_VECTOR_BYTES / sizeof(scalar_t) - past) : 0;
  return left < end - begin ? left : end - begin;
}

template <int kTerms, typename scalar_t>
ADVKERN_INLINE void combine_part(const Rk4CombineArgs<scalar_t>& a, int64_t i, int64_t count) {
  auto sum = load_part(a.y + i, count);
#pragma GCC unroll 4
  for (int j = 0; j < kTerms; ++j) sum += a.factor[j] * load_part(a.k[j] + i, count);
  store_part(a.out + i, sum, count);
}

template <int kTerms, bool kStream, typename scalar_t>
static void combine_terms(const Rk4CombineArgs<scalar_t>& a, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  int64_t i = begin;
  if constexpr (kStream) {
    i += until_aligned(a.out, begin, end);
    combine_part<kTerms>(a, begin, i - begin);
  }
  for (; i + lanes <= end; i += lanes) {
    auto sum = load(a.y + i);
#pragma GCC unroll 4
    for (int j = 0; j < kTerms; ++j) sum += a.factor[j] * load(a.k[j] + i);
    if constexpr (kStream) {
      stream(a.out + i, sum);
    } else {
      store(a.out + i, sum);
    }
  }
  combine_part<kTerms>(a, i, end - i);
  if (kStream) end_stream();
}

template <int kTerms, typename scalar_t>
static void combine_terms(const Rk4CombineArgs<scalar_t>& a, int64_t begin, int64_t end) {
  if constexpr (sizeof(scalar_t) >= sizeof(float))  // half types fill half a vector
    if (a.stream) return combine_terms<kTerms, true>(a, begin, end);
  combine_terms<kTerms, false>(a, begin, end);
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
