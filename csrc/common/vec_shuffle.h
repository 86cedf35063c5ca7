// SPDX-License-Identifier: MIT
// Lanes that change places. Included inside a kernel's ISA namespace, after common/vec.h, hence no guard.

template <typename acc_t, int kCount>
struct ShortVecOf {
  typedef acc_t type __attribute__((vector_size(kCount * sizeof(acc_t))));
};
template <typename acc_t, int kCount>
using ShortVec = typename ShortVecOf<acc_t, kCount>::type;  // of kCount lanes, a power of two

template <typename acc_t>
struct LaneNumberOf;
template <>
struct LaneNumberOf<float> {
  typedef int32_t type __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
};
template <>
struct LaneNumberOf<double> {
  typedef int64_t type __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
};
template <typename acc_t>
using LaneNumbers = typename LaneNumberOf<acc_t>::type;

// Lane k of the result is lane from[k] of v.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> permute(Vec<acc_t> v, LaneNumbers<acc_t> from) {
#if defined(__clang__)
  Vec<acc_t> result;
  for (int k = 0; k < kLanes<acc_t>; ++k) result[k] = v[from[k]];
  return result;
#else
  return __builtin_shuffle(v, from);
#endif
}

// Half of a short vector added to its other half.
template <int kCount, typename acc_t>
ADVKERN_INLINE ShortVec<acc_t, kCount / 2> add_halves(ShortVec<acc_t, kCount> v) {
  ShortVec<acc_t, kCount / 2> half[2];
  __builtin_memcpy(half, &v, sizeof(v));
  return half[0] + half[1];
}

// The sums of the lanes whose numbers are equal modulo kCount, in a fixed order.
template <int kCount, typename acc_t, int kFrom = kLanes<acc_t>>
ADVKERN_INLINE ShortVec<acc_t, kCount> fold(ShortVec<acc_t, kFrom> v) {
  if constexpr (kFrom == kCount)
    return v;
  else
    return fold<kCount, acc_t, kFrom / 2>(add_halves<kFrom, acc_t>(v));
}

// A whole vector that repeats a short one.
template <int kCount, typename acc_t>
ADVKERN_INLINE Vec<acc_t> repeat(ShortVec<acc_t, kCount> v) {
  if constexpr (kCount == kLanes<acc_t>) {
    return v;
  } else {
    ShortVec<acc_t, 2 * kCount> twice;
    const ShortVec<acc_t, kCount> half[2] = {v, v};
    __builtin_memcpy(&twice, half, sizeof(twice));
    return repeat<2 * kCount, acc_t>(twice);
  }
}

// Of the 2 * lanes numbers in a and b, the sums of neighbours.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> add_neighbours(Vec<acc_t> a, Vec<acc_t> b) {
  constexpr int lanes = kLanes<acc_t>;
#if defined(__clang__)
  Vec<acc_t> sum;
  for (int k = 0; k < lanes; ++k)
    sum[k] = k < lanes / 2 ? a[2 * k] + a[2 * k + 1] : b[2 * k - lanes] + b[2 * k + 1 - lanes];
  return sum;
#else
  LaneNumbers<acc_t> even;
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) even[k] = 2 * k;
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
#endif
}
