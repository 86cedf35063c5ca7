// SPDX-License-Identifier: MIT
// Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"):
// a bijection of 128 bits, so any thread finds the random words of any place by itself. Torch-free; for the host and
// for CUDA. common/vec_philox.h is the same for vectors of counters.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ADVKERN_HOST_DEVICE __host__ __device__
#else
#define ADVKERN_HOST_DEVICE
#endif

namespace advkern {

constexpr int kPhiloxWords = 4;
constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;

struct PhiloxWords {
  uint32_t word[kPhiloxWords];
};

// The random words of counter `c`; the key is the seed's low and high word.
ADVKERN_HOST_DEVICE inline PhiloxWords philox(PhiloxWords c, uint64_t seed) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t(kPhiloxMultiplier0) * c.word[0];
    const uint64_t product1 = uint64_t(kPhiloxMultiplier1) * c.word[2];
    c = {{uint32_t(product1 >> 32) ^ c.word[1] ^ key0, uint32_t(product1), uint32_t(product0 >> 32) ^ c.word[3] ^ key1,
          uint32_t(product0)}};
    key0 += kPhiloxKeyStep0;
    key1 += kPhiloxKeyStep1;
  }
  return c;
}

}  // namespace advkern
