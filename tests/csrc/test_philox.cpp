// SPDX-License-Identifier: MIT
// Philox4x32-10 against the known answers that its authors publish with Random123, and the form for vectors, every
// instruction set of this machine, against the plain one.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "common/isa.h"

#define ADVKERN_KERNEL "vec_kernels.h"
#include "common/for_each_isa.h"

namespace {

struct KnownAnswer {
  advkern::PhiloxWords counter;
  uint64_t seed;
  advkern::PhiloxWords words;
};

constexpr KnownAnswer kKnownAnswers[] = {
    {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
    {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
     0xffffffffffffffff,
     {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
    {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
     0x299f31d0a4093822,
     {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
};

int check_known_answers() {
  int failures = 0;
  for (const KnownAnswer& known : kKnownAnswers) {
    const advkern::PhiloxWords words = advkern::philox(known.counter, known.seed);
    if (std::memcmp(&words, &known.words, sizeof(words)) == 0) continue;
    std::printf("counter %08x ...: %08x %08x %08x %08x\n", known.counter.word[0], words.word[0], words.word[1],
                words.word[2], words.word[3]);
    ++failures;
  }
  return failures;
}

int check_vectors() {
  constexpr size_t count = 64;
  std::mt19937_64 random(0);
  std::vector<uint32_t> counters(4 * count), words(4 * count);
  for (auto& word : counters) word = uint32_t(random());
  const uint64_t seed = random();
  using namespace advkern;
  ADVKERN_ON_ISA(philox_of_all, counters.data(), seed, words.data(), int64_t(count));
  for (size_t k = 0; k < count; ++k) {
    PhiloxWords counter;
    std::memcpy(&counter, &counters[4 * k], sizeof(counter));
    const PhiloxWords expected = philox(counter, seed);
    if (std::memcmp(&expected, &words[4 * k], sizeof(expected)) == 0) continue;
    std::printf("%s: counter %zu of a vector has other words\n", isa_name(current_isa()), k);
    return 1;
  }
  return 0;
}

}  // namespace

int main() {
  int failures = check_known_answers();
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check_vectors();
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
