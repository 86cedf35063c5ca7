// SPDX-License-Identifier: MIT
// Philox4x32-10 of a vector of counters at once; see common/philox.h. Included inside a kernel's ISA namespace, after
// common/vec.h, hence no guard. A lane of 64 bits holds one word: the products need the room, and what the upper half
// holds in between is never looked at.

typedef uint64_t u64_vec __attribute__((vector_size(ADVKERN_VECTOR_BYTES)));
constexpr int kPhiloxCounters = kLanes<uint64_t>;  // counters that one call takes

// The products of the lanes' lower halves.
ADVKERN_INLINE u64_vec multiply_lower_halves(u64_vec a, uint32_t b) {
#if ADVKERN_VECTOR_BYTES == 64
  return bits_to<u64_vec>(
      _mm512_maskz_mul_epu32(__mmask8(-1), bits_to<__m512i>(a), _mm512_set1_epi64(int64_t(uint64_t(b)))));
#elif ADVKERN_VECTOR_BYTES == 32
  return bits_to<u64_vec>(_mm256_mul_epu32(bits_to<__m256i>(a), _mm256_set1_epi64x(int64_t(uint64_t(b)))));
#elif defined(__SSE2__)
  return bits_to<u64_vec>(_mm_mul_epu32(bits_to<__m128i>(a), _mm_set1_epi64x(int64_t(uint64_t(b)))));
#else
  return (a & 0xffffffffu) * uint64_t(b);
#endif
}

// Writes the words of kPhiloxCounters counters, counter by counter: kPhiloxWords * kPhiloxCounters words.
ADVKERN_INLINE void philox(u64_vec c0, u64_vec c1, u64_vec c2, u64_vec c3, uint64_t seed, uint32_t* words) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const u64_vec product0 = multiply_lower_halves(c0, kPhiloxMultiplier0);
    const u64_vec product1 = multiply_lower_halves(c2, kPhiloxMultiplier1);
    c0 = (product1 >> 32) ^ c1 ^ uint64_t(key0);
    c1 = product1;
    c2 = (product0 >> 32) ^ c3 ^ uint64_t(key1);
    c3 = product0;
    key0 += kPhiloxKeyStep0;
    key1 += kPhiloxKeyStep1;
  }
  uint64_t first[kPhiloxCounters], second[kPhiloxCounters];
  const u64_vec low = (c0 & 0xffffffffu) | (c1 << 32), high = (c2 & 0xffffffffu) | (c3 << 32);
  __builtin_memcpy(first, &low, sizeof(first));
  __builtin_memcpy(second, &high, sizeof(second));
  for (int k = 0; k < kPhiloxCounters; ++k) {
    words[4 * k] = uint32_t(first[k]);
    words[4 * k + 1] = uint32_t(first[k] >> 32);
    words[4 * k + 2] = uint32_t(second[k]);
    words[4 * k + 3] = uint32_t(second[k] >> 32);
  }
}
