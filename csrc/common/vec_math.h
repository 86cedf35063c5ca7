// SPDX-License-Identifier: MIT
// Functions of vectors. Included inside a kernel's ISA namespace, after common/vec.h, hence no guard.

// The lesser of x and c; a NaN stays. In 512 bits GCC makes of a comparison a mask and a move under it.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> at_most(Vec<acc_t> x, acc_t c) {
  const Vec<acc_t> bound = Vec<acc_t>{} + c;
#if ADVKERN_VECTOR_BYTES == 64
  if constexpr (sizeof(acc_t) == sizeof(float)) {
    return bits_to<Vec<acc_t>>(_mm512_maskz_min_ps(__mmask16(-1), bits_to<__m512>(bound), bits_to<__m512>(x)));
  } else {
    return bits_to<Vec<acc_t>>(_mm512_maskz_min_pd(__mmask8(-1), bits_to<__m512d>(bound), bits_to<__m512d>(x)));
  }
#else
  return x > bound ? bound : x;
#endif
}

// The greater, alike.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> at_least(Vec<acc_t> x, acc_t c) {
  const Vec<acc_t> bound = Vec<acc_t>{} + c;
#if ADVKERN_VECTOR_BYTES == 64
  if constexpr (sizeof(acc_t) == sizeof(float)) {
    return bits_to<Vec<acc_t>>(_mm512_maskz_max_ps(__mmask16(-1), bits_to<__m512>(bound), bits_to<__m512>(x)));
  } else {
    return bits_to<Vec<acc_t>>(_mm512_maskz_max_pd(__mmask8(-1), bits_to<__m512d>(bound), bits_to<__m512d>(x)));
  }
#else
  return x < bound ? bound : x;
#endif
}

template <typename acc_t>
struct ExpConstants;

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2, exp(r) = 1 + r + r^2 (series[0] + series[1] r + ...).
// `ln2_high` has so few bits that n * ln2_high is exact.
template <>
struct ExpConstants<float> {
  typedef int32_t int_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
  static constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: added, it rounds to an integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -104, greatest = 89;  // beyond them the result is 0 or inf
  static constexpr float zero = -88;                   // here and below it exp_or_zero is 0
  static constexpr int mantissa_bits = 23, exponent_bias = 127, degree = 4;
  static constexpr float series[] = {0.49999993432129290236f, 0.16666520399042530069f, 0.041668390783547913136f,
                                     0.0083687451089425906506f, 0.0013814540176801306354f};  // within 4e-9
};
template <>
struct ExpConstants<double> {
  typedef int64_t int_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
  static constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double least = -746, greatest = 710;
  static constexpr double zero = -709;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023, degree = 11;
  static constexpr double series[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                      1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                      1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

// exp(x - n ln(2)), where that lies within ln(2) / 2 of 0.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> exp_rest(Vec<acc_t> x, Vec<acc_t> n) {
  using C = ExpConstants<acc_t>;
  const Vec<acc_t> r = (x - n * C::ln2_high) - n * C::ln2_low;
  Vec<acc_t> series = Vec<acc_t>{} + C::series[C::degree];
#pragma GCC unroll 12
  for (int k = C::degree - 1; k >= 0; --k) series = series * r + C::series[k];
  return acc_t(1) + (r + r * r * series);
}

// 2^k, k in the range of normal numbers.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> two_to(typename ExpConstants<acc_t>::int_vec k) {
  return bits_to<Vec<acc_t>>((k + ExpConstants<acc_t>::exponent_bias) << ExpConstants<acc_t>::mantissa_bits);
}

constexpr double kLog2E = 1.44269504088896340736;

// exp within 1.1 ulp over the whole range, subnormal results too; -inf gives 0, what is too large inf, NaN stays.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> exp(Vec<acc_t> x) {
  using C = ExpConstants<acc_t>;
  using int_vec = typename C::int_vec;
  x = at_most<acc_t>(at_least<acc_t>(x, C::least), C::greatest);
  const Vec<acc_t> shifted = x * acc_t(kLog2E) + C::to_integer;
  const Vec<acc_t> value = exp_rest<acc_t>(x, shifted - C::to_integer);

  // 2^n in two factors, so that neither of them over- or underflows before the result does
  const int_vec power = bits_to<int_vec>(shifted) - bits_to<int_vec>(Vec<acc_t>{} + C::to_integer);
  const int_vec half = power >> 1;
  return value * two_to<acc_t>(half) * two_to<acc_t>(power - half);
}

// exp of x <= 88, as within a softmax: what would be subnormal is 0, and the rest within 1.1 ulp; a NaN stays. With the
// bias in `to_integer`, 2^n stands in the lowest bits, and is 0 for the least n.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> exp_or_zero(Vec<acc_t> x) {
  using C = ExpConstants<acc_t>;
  using int_vec = typename C::int_vec;
  constexpr acc_t to_integer = C::to_integer + C::exponent_bias;
  x = at_least<acc_t>(x, C::zero);
  const Vec<acc_t> shifted = x * acc_t(kLog2E) + to_integer;
  const Vec<acc_t> two_to_n = bits_to<Vec<acc_t>>(bits_to<int_vec>(shifted) << C::mantissa_bits);
  return exp_rest<acc_t>(x, shifted - to_integer) * two_to_n;
}

template <typename acc_t>
struct TanhConstants;

// r coth(r) = 1 + r^2 (series[0] + series[1] r^2 + ...) for |r| <= ln(2) / 4, interpolated at the Chebyshev points of
// r^2. `to_integer` rounds as exp's does, and leaves the integer less 1 in the bits of an exponent.
template <>
struct TanhConstants<float> {
  static constexpr int degree = 1;  // within 8e-9
  static constexpr float series[] = {0.33333309540787455743f, -0.022158824140169723683f};
  static constexpr float to_integer = 12582912.0f + 126;
  static constexpr float greatest = 10;  // from there on it is 1
};
template <>
struct TanhConstants<double> {
  static constexpr int degree = 4;  // within 4e-18
  static constexpr double series[] = {0.3333333333333332308, -0.022222222222051521095, 0.0021164020709193048412,
                                      -0.00021163596843310663452, 0.000021216083355660437666};
  static constexpr double to_integer = 6755399441055744.0 + 1022;
  static constexpr double greatest = 22;
};

// tanh within 2.5 ulp over the whole range. With |x| = n ln(2) / 2 + r, d = r coth(r) - 1 and b = (2^n - 1) / 2 the
// sum's formula is (r + b (1 + d + r)) / (1 + d + b (1 + d + r)): one division, and r / (1 + d) where n is 0. The small
// terms are added first, and the denominator is built on the numerator, so that an error of it is in both.
// ln(2) / 2 needs no second part: where n is large, tanh is so flat that its rounding does not matter.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> tanh(Vec<acc_t> x) {
  using C = TanhConstants<acc_t>;
  using int_vec = typename ExpConstants<acc_t>::int_vec;
  constexpr acc_t half_ln2 = acc_t(0.346573590279972654709), its_inverse = acc_t(2.88539008177792681472);
  const int_vec sign = bits_to<int_vec>(x) & bits_to<int_vec>(-Vec<acc_t>{});
  x = bits_to<Vec<acc_t>>(bits_to<int_vec>(x) ^ sign);
  x = at_most<acc_t>(x, C::greatest);
  const Vec<acc_t> shifted = x * its_inverse + C::to_integer;
  const Vec<acc_t> r = x - (shifted - C::to_integer) * half_ln2;
  const Vec<acc_t> half_power = bits_to<Vec<acc_t>>(bits_to<int_vec>(shifted) << ExpConstants<acc_t>::mantissa_bits);

  const Vec<acc_t> square = r * r;
  Vec<acc_t> series = Vec<acc_t>{} + C::series[C::degree];
#pragma GCC unroll 4
  for (int k = C::degree - 1; k >= 0; --k) series = series * square + C::series[k];
  const Vec<acc_t> d = series * square, b = half_power - acc_t(0.5);
  const Vec<acc_t> above = b + (b * (d + r) + r);
  const Vec<acc_t> below = above + (acc_t(1) + (d - r));
  return bits_to<Vec<acc_t>>(bits_to<int_vec>(above / below) | sign);
}
