// SPDX-License-Identifier: MIT
// The aggregation kernels, every instruction set of this machine, against three plain loops.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "common/isa.h"
#include "gcn_aggregate/gcn_aggregate_activation.h"

#define ADVKERN_KERNEL "gcn_aggregate/gcn_aggregate_cpu.h"
#include "common/for_each_isa.h"

namespace {

using advkern::acc_of;

struct Problem {
  int64_t num_nodes, channels;
  std::vector<int64_t> rowptr;
  std::vector<int32_t> col;
};

Problem random_problem(int64_t num_nodes, int64_t channels, std::mt19937& random) {
  Problem p{num_nodes, channels, {0}, {}};
  for (int64_t row = 0; row < num_nodes; ++row) {
    const int64_t degree = row % 3 == 1 ? 0 : row == 33 ? 700 : int64_t(random() % 60);
    for (int64_t e = 0; e < degree; ++e) p.col.push_back(int32_t(random() % uint64_t(num_nodes)));
    p.rowptr.push_back(int64_t(p.col.size()));
  }
  return p;
}

template <typename scalar_t>
std::vector<scalar_t> random_values(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<scalar_t> values(count);
  for (auto& value : values) value = scalar_t(normal(random));
  return values;
}

// The largest error relative to the sum of magnitudes, in units of the type's own eps.
template <typename scalar_t>
double error_in_eps(const Problem& p, bool weighted, std::mt19937& random) {
  using acc_t = acc_of<scalar_t>;
  const auto x = random_values<scalar_t>(size_t(p.num_nodes * p.channels), random);
  const std::vector<acc_t> ones(p.col.size() + size_t(p.num_nodes), acc_t(1));
  const auto weight = weighted ? random_values<acc_t>(p.col.size(), random) : ones;
  const auto scale = weighted ? random_values<acc_t>(size_t(p.num_nodes), random) : ones;
  const auto bias = random_values<acc_t>(size_t(p.channels), random);
  std::vector<scalar_t> out(x.size());
  const advkern::GcnAggregateArgs<scalar_t, int32_t> args{p.rowptr.data(),
                                                          p.col.data(),
                                                          x.data(),
                                                          weighted ? weight.data() : nullptr,
                                                          weighted ? scale.data() : nullptr,
                                                          weighted ? scale.data() : nullptr,
                                                          bias.data(),
                                                          out.data(),
                                                          p.num_nodes,
                                                          int64_t(p.col.size()),
                                                          p.channels,
                                                          advkern::kRelu};
  using namespace advkern;
  if (!ADVKERN_ON_ISA(gcn_aggregate_rows, args, 0, p.num_nodes)) return INFINITY;

  double worst = 0;
  for (int64_t i = 0; i < p.num_nodes; ++i)
    for (int64_t f = 0; f < p.channels; ++f) {
      double sum = 0, magnitude = std::abs(double(bias[size_t(f)])) + 1e-30;
      for (int64_t e = p.rowptr[size_t(i)]; e < p.rowptr[size_t(i + 1)]; ++e) {
        const size_t j = size_t(p.col[size_t(e)]);
        const double term =
            double(weight[size_t(e)]) * double(scale[j]) * double(x[j * size_t(p.channels) + size_t(f)]);
        sum += term * double(scale[size_t(i)]);
        magnitude += std::abs(term * double(scale[size_t(i)]));
      }
      const double exact = std::max(0.0, sum + double(bias[size_t(f)]));
      const double error = std::abs(double(out[size_t(i * p.channels + f)]) - exact);
      worst = std::max(worst, error / magnitude / double(std::numeric_limits<scalar_t>::epsilon()));
    }
  return worst;
}

template <typename scalar_t>
int check(const char* type) {
  int failures = 0;
  std::mt19937 random(0);
  for (int64_t channels : {1, 2, 4, 5, 8, 16, 31, 64, 129, 300})
    for (const bool weighted : {false, true}) {
      const double error = error_in_eps<scalar_t>(random_problem(200, channels, random), weighted, random);
      if (error < 4) continue;
      std::printf("%s %s, %d channels%s: error of %g eps\n", advkern::isa_name(advkern::current_isa()), type,
                  int(channels), weighted ? ", weighted" : "", error);
      ++failures;
    }
  return failures;
}

// The largest error of an activation's gradient, and of log_softmax of rows of `channels`, in eps of the largest entry.
template <typename scalar_t>
double activation_error_in_eps(int64_t channels, int64_t activation, std::mt19937& random) {
  constexpr int64_t rows = 9;
  const size_t count = size_t(rows * channels);
  const auto grad = random_values<scalar_t>(count, random), x = random_values<scalar_t>(count, random);
  std::vector<scalar_t> out = x, result(count);
  using namespace advkern;
  if (activation == kLogSoftmax) {
    const std::vector<int64_t> rowptr(size_t(rows + 1));  // no edges: what is left is the bias
    const std::vector<acc_of<scalar_t>> bias(x.begin(), x.begin() + channels);
    const GcnAggregateArgs<scalar_t, int32_t> args{rowptr.data(), nullptr,    x.data(), nullptr, nullptr,  nullptr,
                                                   bias.data(),   out.data(), rows,     0,       channels, activation};
    if (!ADVKERN_ON_ISA(gcn_aggregate_rows, args, 0, rows)) return INFINITY;
  }
  const GcnActivationBwdArgs<scalar_t> args{grad.data(), out.data(), result.data(), channels, activation};
  ADVKERN_ON_ISA(activation_bwd_rows, args, 0, rows);

  double worst = 0, exp_sum = 0;
  for (int64_t f = 0; f < channels; ++f) exp_sum += std::exp(double(x[size_t(f)]));
  for (int64_t i = 0; i < rows; ++i) {
    double total = 0;
    for (int64_t f = 0; f < channels; ++f) total += double(grad[size_t(i * channels + f)]);
    for (int64_t f = 0; f < channels; ++f) {
      const size_t at = size_t(i * channels + f);
      const double g = double(grad[at]), y = double(out[at]);
      const double exact = activation == kRelu  ? (y > 0 ? g : 0)
                           : activation == kElu ? g * (y > 0 ? 1 : y + 1)
                                                : g - std::exp(y) * total;
      worst = std::max(worst, std::abs(double(result[at]) - exact) / (1 + std::abs(g) + std::abs(total)));
      if (activation == kLogSoftmax) {
        const double log_probability = double(x[size_t(f)]) - std::log(exp_sum);
        worst = std::max(worst, std::abs(y - log_probability) / (1 + std::abs(log_probability)));
      }
    }
  }
  return worst / double(std::numeric_limits<scalar_t>::epsilon());
}

template <typename scalar_t>
int check_activations(const char* type) {
  int failures = 0;
  std::mt19937 random(0);
  for (int64_t channels : {1, 2, 4, 5, 8, 16, 31, 64, 129, 300})
    for (const int64_t activation : {advkern::kRelu, advkern::kElu, advkern::kLogSoftmax}) {
      const double error = activation_error_in_eps<scalar_t>(channels, activation, random);
      if (error < 4) continue;
      std::printf("%s %s, %d channels, activation %d: error of %g eps\n", advkern::isa_name(advkern::current_isa()),
                  type, int(channels), int(activation), error);
      ++failures;
    }
  return failures;
}

int check_bad_id_is_noticed() {
  const std::vector<int64_t> rowptr{0, 2};
  const std::vector<int32_t> col{0, 7};
  const std::vector<float> x{1};
  std::vector<float> out(1);
  const advkern::GcnAggregateArgs<float, int32_t> args{rowptr.data(), col.data(), x.data(), nullptr, nullptr, nullptr,
                                                       nullptr,       out.data(), 1,        2,       1,       0};
  using namespace advkern;
  if (!ADVKERN_ON_ISA(gcn_aggregate_rows, args, 0, 1)) return 0;
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
    failures += check_activations<float>("float32") + check_activations<double>("float64") +
                check_activations<advkern::Half>("float16") + check_activations<advkern::BFloat16>("bfloat16");
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
