// SPDX-License-Identifier: MIT
// Functions of vectors. Included inside a kernel's ISA namespace, after common/vec.h, hence no guard.

template <typename acc_t>
struct ExpConstants;

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2. `ln2_high` has so few bits that n * ln2_high is exact.
template <>
struct ExpConstants<float> {
  typedef int32_t int_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
  static constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: added, it rounds to an integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -104, greatest = 89;  // beyond them the result is 0 or inf
  static constexpr int mantissa_bits = 23, exponent_bias = 127, degree = 7;
};
template <>
struct ExpConstants<double> {
  typedef int64_t int_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
  static constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double least = -746, greatest = 710;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023, degree = 13;
};

constexpr double kInverseFactorial[] = {
    1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
    1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};

// 2^k, k in the range of normal numbers.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> two_to(typename ExpConstants<acc_t>::int_vec k) {
  return bits_to<Vec<acc_t>>((k + ExpConstants<acc_t>::exponent_bias) << ExpConstants<acc_t>::mantissa_bits);
}

// exp within 1.1 ulp over the whole range, subnormal results too; -inf gives 0, what is too large inf, NaN stays.
template <typename acc_t>
ADVKERN_INLINE Vec<acc_t> exp(Vec<acc_t> x) {
  using C = ExpConstants<acc_t>;
  using int_vec = typename C::int_vec;
  constexpr acc_t log2_e = acc_t(1.44269504088896340736);
  x = x < C::least ? Vec<acc_t>{} + C::least : x;  // a NaN fails both comparisons and passes
  x = x > C::greatest ? Vec<acc_t>{} + C::greatest : x;
  const Vec<acc_t> shifted = x * log2_e + C::to_integer;
  const Vec<acc_t> n = shifted - C::to_integer;
  const Vec<acc_t> r = (x - n * C::ln2_high) - n * C::ln2_low;

  Vec<acc_t> series = Vec<acc_t>{} + acc_t(kInverseFactorial[C::degree]);  // (exp(r) - 1 - r) / r^2
#pragma GCC unroll 13
  for (int k = C::degree - 1; k >= 2; --k) series = series * r + acc_t(kInverseFactorial[k]);
  const Vec<acc_t> value = acc_t(1) + (r + r * r * series);

  // 2^n in two factors, so that neither of them over- or underflows before the result does
  const int_vec power = bits_to<int_vec>(shifted) - bits_to<int_vec>(Vec<acc_t>{} + C::to_integer);
  const int_vec half = power >> 1;
  return value * two_to<acc_t>(half) * two_to<acc_t>(power - half);
}
