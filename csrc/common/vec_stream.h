// SPDX-License-Identifier: MIT
// Stores that go past the caches. Included inside a kernel's ISA namespace, after common/vec.h, hence no guard.

// Stores to a multiple of the vector's size without reading the line first; elsewhere than on x86 a plain store.
template <typename acc_t>
ADVKERN_INLINE void stream(acc_t* p, Vec<acc_t> v) {
#if ADVKERN_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), bits_to<__m512i>(v));
#elif ADVKERN_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bits_to<__m256i>(v));
#elif defined(__x86_64__) && defined(__GNUC__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), bits_to<__m128i>(v));
#else
  store(p, v);
#endif
}

// A whole vector of an output. Half types, which fill half a vector, stay in the caches.
template <typename scalar_t>
ADVKERN_INLINE void put(scalar_t* p, Vec<acc_of<scalar_t>> v, bool past_caches) {
  if constexpr (sizeof(scalar_t) == sizeof(acc_of<scalar_t>))
    if (past_caches) return stream(p, v);
  store(p, v);
}

// Orders what was streamed before the stores that follow, as those that signal other threads: x86 by itself does not.
ADVKERN_INLINE void end_stream() {
#if defined(__x86_64__) && defined(__GNUC__)
  _mm_sfence();
#endif
}
