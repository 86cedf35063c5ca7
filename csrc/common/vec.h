// SPDX-License-Identifier: MIT
// Vectors of the accumulation type, loaded from and stored to any of the four scalar types. Included inside a
// kernel's ISA namespace, hence no guard. The arithmetic is the compilers' vector extension, which compiles to
// AVX-512, AVX2, SSE2 or NEON alike; intrinsics appear only where the extension has no word (half precision, masks).

#define ADVKERN_INLINE static inline __attribute__((always_inline))

template <typename acc_t>
struct VecOf {
  typedef acc_t type __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
};
template <typename acc_t>
using Vec = typename VecOf<acc_t>::type;
template <typename acc_t>
constexpr int kLanes = ADVKERN_VECTOR_BYTES / int(sizeof(acc_t));

constexpr int kFloatLanes = kLanes<float>;
typedef uint16_t u16_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES / 2)));
typedef uint32_t u32_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));

template <typename to_t, typename from_t>
ADVKERN_INLINE to_t bits_to(const from_t& from) {
  static_assert(sizeof(to_t) == sizeof(from_t), "a reinterpretation keeps the size");
  to_t to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

ADVKERN_INLINE Vec<float> load(const float* p) {
  Vec<float> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

ADVKERN_INLINE Vec<double> load(const double* p) {
  Vec<double> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

ADVKERN_INLINE Vec<float> load(const BFloat16* p) {
  u16_vec bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  return bits_to<Vec<float>>(__builtin_convertvector(bits, u32_vec) << 16);
}

ADVKERN_INLINE Vec<float> load(const Half* p) {
#if ADVKERN_VECTOR_BYTES == 64
  return bits_to<Vec<float>>(
      _mm512_maskz_cvtph_ps(__mmask16(-1), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif ADVKERN_VECTOR_BYTES == 32
  return bits_to<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vec<float> v;
  for (int k = 0; k < kFloatLanes; ++k) v[k] = float(p[k]);
  return v;
#endif
}

ADVKERN_INLINE void store(float* p, Vec<float> v) { __builtin_memcpy(p, &v, sizeof(v)); }
ADVKERN_INLINE void store(double* p, Vec<double> v) { __builtin_memcpy(p, &v, sizeof(v)); }

ADVKERN_INLINE void store(BFloat16* p, Vec<float> v) {
  const u32_vec bits = bits_to<u32_vec>(v);
  const u32_vec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest even
  const u32_vec quiet = (bits >> 16) | 0x40u;                            // rounding could turn a NaN into inf
  const auto is_nan = v != v;
  const u16_vec out = __builtin_convertvector(is_nan ? quiet : rounded, u16_vec);
  __builtin_memcpy(p, &out, sizeof(out));
}

ADVKERN_INLINE void store(Half* p, Vec<float> v) {
#if ADVKERN_VECTOR_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(__mmask16(-1), bits_to<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif ADVKERN_VECTOR_BYTES == 32
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(bits_to<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int k = 0; k < kFloatLanes; ++k) p[k] = Half(v[k]);
#endif
}

// The first `count` elements; the other lanes are `fill`. A loop, not a copy of `count` bytes: that would be a call,
// around which a kernel's loop keeps all its sums in memory.
template <typename scalar_t>
ADVKERN_INLINE Vec<acc_of<scalar_t>> load_part(const scalar_t* p, int64_t count, scalar_t fill = scalar_t(0)) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  if (count >= lanes) return load(p);
  scalar_t part[lanes];
  for (int k = 0; k < lanes; ++k) part[k] = k < count ? p[k] : fill;
  return load(part);
}

template <typename scalar_t>
ADVKERN_INLINE void store_part(scalar_t* p, Vec<acc_of<scalar_t>> v, int64_t count) {
  constexpr int lanes = kLanes<acc_of<scalar_t>>;
  if (count >= lanes) return store(p, v);
  scalar_t part[lanes];
  store(part, v);
  for (int k = 0; k < lanes; ++k)
    if (k < count) p[k] = part[k];
}

#if ADVKERN_VECTOR_BYTES == 64
// The same under a mask: the load of a vector waits where its elements were just stored one by one.
ADVKERN_INLINE __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16(-1) : __mmask16((1u << count) - 1);
}

ADVKERN_INLINE Vec<float> load_part(const float* p, int64_t count, float fill = 0) {
  return bits_to<Vec<float>>(_mm512_mask_loadu_ps(bits_to<__m512>(Vec<float>{} + fill), first_lanes(count), p));
}
ADVKERN_INLINE Vec<double> load_part(const double* p, int64_t count, double fill = 0) {
  const __mmask8 mask = __mmask8(first_lanes(count));
  return bits_to<Vec<double>>(_mm512_mask_loadu_pd(bits_to<__m512d>(Vec<double>{} + fill), mask, p));
}

ADVKERN_INLINE void store_part(float* p, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), bits_to<__m512>(v));
}
ADVKERN_INLINE void store_part(double* p, Vec<double> v, int64_t count) {
  _mm512_mask_storeu_pd(p, __mmask8(first_lanes(count)), bits_to<__m512d>(v));
}
#endif

// Lane k of the result is lane k + kBy, counted round.
template <int kBy, typename acc_t>
ADVKERN_INLINE Vec<acc_t> rotate(Vec<acc_t> v) {
  Vec<acc_t> rotated;
#pragma GCC unroll 16
  for (int k = 0; k < kLanes<acc_t>; ++k) rotated[k] = v[(k + kBy) % kLanes<acc_t>];
  return rotated;
}

// The sum of all lanes, halves first.
template <typename acc_t, int kHalf = kLanes<acc_t> / 2>
ADVKERN_INLINE acc_t sum_lanes(Vec<acc_t> v) {
  if constexpr (kHalf == 0)
    return v[0];
  else
    return sum_lanes<acc_t, kHalf / 2>(v + rotate<kHalf, acc_t>(v));
}

template <typename acc_t, int kHalf = kLanes<acc_t> / 2>
ADVKERN_INLINE acc_t max_lanes(Vec<acc_t> v) {
  if constexpr (kHalf == 0) {
    return v[0];
  } else {
    const Vec<acc_t> other = rotate<kHalf, acc_t>(v);
    return max_lanes<acc_t, kHalf / 2>(other > v ? other : v);
  }
}
