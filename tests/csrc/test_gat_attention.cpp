// SPDX-License-Identifier: MIT
// The attention kernels, every instruction set of this machine, against plain loops in float64.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "common/isa.h"

#define ADVKERN_KERNEL "gat_attention/gat_attention_cpu.h"
#include "common/for_each_isa.h"

namespace {

using advkern::acc_of;

struct Problem {
  int64_t num_nodes, heads, channels;
  std::vector<int64_t> rowptr;
  std::vector<int32_t> col;

  int64_t edges() const { return int64_t(col.size()); }
};

Problem random_problem(int64_t num_nodes, int64_t heads, int64_t channels, std::mt19937& random) {
  Problem p{num_nodes, heads, channels, {0}, {}};
  for (int64_t row = 0; row < num_nodes; ++row) {
    const int64_t degree = row % 3 == 1 ? 0 : int64_t(random() % 40);
    for (int64_t e = 0; e < degree; ++e) p.col.push_back(int32_t(random() % uint64_t(num_nodes)));
    p.rowptr.push_back(p.edges());
  }
  return p;
}

template <typename scalar_t>
std::vector<scalar_t> random_values(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<scalar_t> values(static_cast<size_t>(count));
  for (auto& value : values) value = scalar_t(normal(random));
  return values;
}

// What dropout multiplies edge e of a head with.
double keep_factor(const advkern::GatDropout& dropout, int64_t e, int64_t head) {
  if (dropout.threshold == 0) return 1;
  const auto words = advkern::philox({{uint32_t(e), uint32_t(e >> 32), uint32_t(head / 4), 0}}, dropout.seed);
  const double all = 4294967296.0;
  return words.word[head % 4] >= dropout.threshold ? all / (all - double(dropout.threshold)) : 0;
}

// The largest error of the output relative to the sum of magnitudes, in units of the type's own eps.
template <typename scalar_t>
double error_in_eps(const Problem& p, const advkern::GatDropout& dropout, std::mt19937& random) {
  using acc_t = acc_of<scalar_t>;
  const int64_t of_nodes = p.num_nodes * p.heads;
  const auto h = random_values<scalar_t>(of_nodes * p.channels, random);
  const auto dst = random_values<acc_t>(of_nodes, random), src = random_values<acc_t>(of_nodes, random);
  const auto bias = random_values<acc_t>(p.heads * p.channels, random);
  std::vector<scalar_t> out(h.size());
  std::vector<acc_t> row_max(dst.size()), row_sum(dst.size());
  std::vector<char> memory(size_t(advkern::gat_scratch_bytes<acc_t>(p.edges(), p.heads, p.channels)) + 64);
  char* const scratch = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
  const advkern::GatAttentionFwdArgs<scalar_t, int32_t> args{
      p.rowptr.data(), p.col.data(), h.data(),  dst.data(), src.data(), bias.data(), out.data(), row_max.data(),
      row_sum.data(),  p.num_nodes,  p.edges(), p.heads,    p.channels, acc_t(0.2),  dropout};
  using namespace advkern;
  if (!ADVKERN_ON_ISA(gat_attention_rows, args, 0, p.num_nodes, scratch, p.edges())) return INFINITY;

  double worst = 0;
  for (int64_t i = 0; i < p.num_nodes; ++i)
    for (int64_t head = 0; head < p.heads; ++head) {
      const int64_t begin = p.rowptr[size_t(i)], end = p.rowptr[size_t(i + 1)];
      std::vector<double> weight;
      double total = 0;
      for (int64_t e = begin; e < end; ++e) {
        const double z =
            double(dst[size_t(i * p.heads + head)]) + double(src[size_t(p.col[size_t(e)] * p.heads + head)]);
        weight.push_back(std::exp(z > 0 ? z : z * double(acc_t(0.2))));
        total += weight.back();
      }
      for (int64_t f = 0; f < p.channels; ++f) {
        double exact = double(bias[size_t(head * p.channels + f)]), magnitude = std::abs(exact) + 1e-30;
        for (int64_t e = begin; e < end; ++e) {
          const double x = double(h[size_t((p.col[size_t(e)] * p.heads + head) * p.channels + f)]);
          const double term = weight[size_t(e - begin)] / total * keep_factor(dropout, e, head) * x;
          exact += term;
          magnitude += std::abs(term);
        }
        const double error = std::abs(double(out[size_t((i * p.heads + head) * p.channels + f)]) - exact);
        worst = std::max(worst, error / magnitude / double(std::numeric_limits<scalar_t>::epsilon()));
      }
    }
  return worst;
}

template <typename scalar_t>
int check(const char* type) {
  int failures = 0;
  std::mt19937 random(0);
  for (int64_t heads : {1, 2, 3, 8, 16, 20})
    for (int64_t channels : {1, 5, 8, 16, 33})
      for (uint64_t threshold : {uint64_t(0), uint64_t(1) << 31}) {
        const Problem p = random_problem(40, heads, channels, random);
        const double error = error_in_eps<scalar_t>(p, {threshold, 99}, random);
        if (error < 16) continue;  // exp of a score that was rounded: eps of the score's size, some of them
        std::printf("%s %s, %d x %d, threshold %g: error of %g eps\n", advkern::isa_name(advkern::current_isa()), type,
                    int(heads), int(channels), double(threshold), error);
        ++failures;
      }
  return failures;
}

int check_bad_id_is_noticed() {
  const std::vector<int64_t> rowptr{0, 2};
  const std::vector<int32_t> col{0, 7};
  const std::vector<float> value{1};
  std::vector<float> out(1), row_max(1), row_sum(1);
  std::vector<char> memory(size_t(advkern::gat_scratch_bytes<float>(2, 1, 1)) + 64);
  char* const scratch = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
  const advkern::GatAttentionFwdArgs<float, int32_t> args{rowptr.data(),
                                                          col.data(),
                                                          value.data(),
                                                          value.data(),
                                                          value.data(),
                                                          nullptr,
                                                          out.data(),
                                                          row_max.data(),
                                                          row_sum.data(),
                                                          1,
                                                          2,
                                                          1,
                                                          1,
                                                          0.2f,
                                                          {0, 0}};
  using namespace advkern;
  if (!ADVKERN_ON_ISA(gat_attention_rows, args, 0, 1, scratch, 2)) return 0;
  std::printf("%s: an id out of range was not noticed\n", isa_name(current_isa()));
  return 1;
}

}  // namespace

int main() {
  int failures = 0;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check<float>("float32") + check<double>("float64") + check<advkern::Half>("float16") +
                check<advkern::BFloat16>("bfloat16") + check_bad_id_is_noticed();
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
