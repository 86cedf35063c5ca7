// SPDX-License-Identifier: MIT
// Loops over common/vec_math.h and common/vec_philox.h, for their tests; included once per instruction set.
namespace advkern::ADVKERN_ISA {

#include "common/vec.h"
#include "common/vec_math.h"
#include "common/vec_philox.h"

template <typename acc_t>
static void exp_of_all(const acc_t* x, acc_t* out, int64_t count) {  // count: whole vectors
  for (int64_t k = 0; k < count; k += kLanes<acc_t>) store(out + k, exp<acc_t>(load(x + k)));
}

template <typename acc_t>
static void exp_or_zero_of_all(const acc_t* x, acc_t* out, int64_t count) {  // count: whole vectors
  for (int64_t k = 0; k < count; k += kLanes<acc_t>) store(out + k, exp_or_zero<acc_t>(load(x + k)));
}

template <typename acc_t>
static void tanh_of_all(const acc_t* x, acc_t* out, int64_t count) {  // count: whole vectors
  for (int64_t k = 0; k < count; k += kLanes<acc_t>) store(out + k, tanh<acc_t>(load(x + k)));
}

// counters: [count, 4]; words: the same shape; count: whole vectors
[[maybe_unused]] static void philox_of_all(const uint32_t* counters, uint64_t seed, uint32_t* words, int64_t count) {
  for (int64_t first = 0; first < count; first += kPhiloxCounters) {
    u64_vec c[4];
    for (int word = 0; word < 4; ++word)
      for (int k = 0; k < kPhiloxCounters; ++k) c[word][k] = counters[4 * (first + k) + word];
    philox(c[0], c[1], c[2], c[3], seed, words + 4 * first);
  }
}

}  // namespace advkern::ADVKERN_ISA
