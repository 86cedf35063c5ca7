// SPDX-License-Identifier: MIT
// Includes ADVKERN_KERNEL once per instruction set, each time in a namespace of that name. The pragma reaches
// lambdas and inlined templates, which a function attribute does not. A kernel file includes nothing itself:
// an inline function of the standard library compiled in here could be picked by the linker for every machine.
// No include guard: a glue file defines ADVKERN_KERNEL and includes this once.
#include <cmath>
#include <cstdint>

#include "common/philox.h"
#include "common/types.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define ADVKERN_ISA avx512
#define ADVKERN_VECTOR_BYTES 64
#include ADVKERN_KERNEL
#undef ADVKERN_ISA
#undef ADVKERN_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define ADVKERN_ISA avx2
#define ADVKERN_VECTOR_BYTES 32
#include ADVKERN_KERNEL
#undef ADVKERN_ISA
#undef ADVKERN_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define ADVKERN_ISA baseline
#define ADVKERN_VECTOR_BYTES 16
#include ADVKERN_KERNEL
#undef ADVKERN_ISA
#undef ADVKERN_VECTOR_BYTES
#undef ADVKERN_KERNEL
