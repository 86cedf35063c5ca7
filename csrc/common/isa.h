// SPDX-License-Identifier: MIT
// Which instruction set the CPU kernels use: the best one of this machine, chosen once at load.
#pragma once

#include <atomic>

namespace advkern {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

inline const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline"; }

inline Isa best_isa() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx2 && avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

// The set in use. Tests lower it to run every form that this machine can run.
inline std::atomic<Isa>& current_isa() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}

}  // namespace advkern

// Calls `advkern::<isa>::function(...)` of the set in use.
#if defined(__x86_64__) && defined(__GNUC__)
#define ADVKERN_ON_ISA(function, ...)                                                        \
  (::advkern::current_isa().load() == ::advkern::Isa::avx512 ? avx512::function(__VA_ARGS__) \
   : ::advkern::current_isa().load() == ::advkern::Isa::avx2 ? avx2::function(__VA_ARGS__)   \
                                                             : baseline::function(__VA_ARGS__))
#else
#define ADVKERN_ON_ISA(function, ...) baseline::function(__VA_ARGS__)
#endif
