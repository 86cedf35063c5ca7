// SPDX-License-Identifier: MIT
// Attention and its gradient, every instruction set of this machine, against plain loops in float64.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "common/isa.h"

#define ADVKERN_KERNEL "vit_attention/vit_attention_cpu.h"
#include "common/for_each_isa.h"

namespace {

using advkern::acc_of;
using advkern::HeadsView;

constexpr int64_t kBatch = 2, kHeads = 2;
constexpr int kDropped = 20000;  // of 65536

struct Sizes {
  int64_t length, dim;
  int64_t packed() const { return kBatch * length * 3 * kHeads * dim; }
  int64_t rows() const { return kBatch * kHeads * length; }
};

// Part of a packed [batch, length, parts, heads, dim].
template <typename scalar_t, typename Values>
HeadsView<scalar_t> part(Values& values, const Sizes& s, int64_t parts, int64_t index) {
  return {values.data() + index * kHeads * s.dim, s.length * parts * kHeads * s.dim, parts * kHeads * s.dim, s.dim};
}

struct Exact {
  std::vector<double> out, lse, grad;  // [batch, length, heads, dim], [batch, heads, length], packed
};

double keep(int64_t seed, int64_t head, int64_t query, int64_t key) {
  const advkern::PhiloxWords counter{{uint32_t(key / 8), uint32_t(query), uint32_t(head), 0}};
  const uint32_t word = advkern::philox(counter, uint64_t(seed)).word[key % 8 / 2];
  return int((word >> (key % 2 * 16)) & 0xffff) >= kDropped ? 65536.0 / (65536 - kDropped) : 0.0;
}

template <typename scalar_t>
Exact exact(const Sizes& s, const std::vector<scalar_t>& qkv, const std::vector<scalar_t>& grad_out,
            const std::vector<acc_of<scalar_t>>& grad_lse, const bool* hidden, double scale, const int64_t* seed) {
  const int64_t width = kHeads * s.dim;
  Exact e{std::vector<double>(size_t(s.packed() / 3)), std::vector<double>(size_t(s.rows())),
          std::vector<double>(size_t(s.packed()))};
  const auto at = [&](int64_t b, int64_t i, int64_t p, int64_t h, int64_t d) {
    return size_t(((b * s.length + i) * 3 + p) * width + h * s.dim + d);
  };
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t i = 0; i < s.length; ++i) {
        const auto out_at = [&](int64_t d) { return size_t((b * s.length + i) * width + h * s.dim + d); };
        const size_t row = size_t((b * kHeads + h) * s.length + i);
        std::vector<double> p(size_t(s.length)), factor(size_t(s.length), 1.0), grad_p(size_t(s.length));
        double most = -INFINITY, sum = 0, delta = -double(grad_lse[row]);
        for (int64_t j = 0; j < s.length; ++j) {
          for (int64_t d = 0; d < s.dim; ++d)
            p[size_t(j)] += scale * double(qkv[at(b, i, 0, h, d)]) * double(qkv[at(b, j, 1, h, d)]);
          if (hidden && hidden[b * s.length + j]) p[size_t(j)] = -INFINITY;
          if (seed) factor[size_t(j)] = keep(*seed, b * kHeads + h, i, j);
          most = std::fmax(most, p[size_t(j)]);
        }
        for (auto& weight : p) sum += weight = most == -INFINITY ? 0 : std::exp(weight - most);
        for (auto& weight : p) weight = sum > 0 ? weight / sum : 0;
        e.lse[row] = sum > 0 ? most + std::log(sum) : -INFINITY;
        for (int64_t j = 0; j < s.length; ++j) {
          const size_t k = size_t(j);
          for (int64_t d = 0; d < s.dim; ++d) {
            e.out[out_at(d)] += p[k] * factor[k] * double(qkv[at(b, j, 2, h, d)]);
            grad_p[k] += factor[k] * double(grad_out[out_at(d)]) * double(qkv[at(b, j, 2, h, d)]);
            e.grad[at(b, j, 2, h, d)] += p[k] * factor[k] * double(grad_out[out_at(d)]);
          }
          delta += p[k] * grad_p[k];
        }
        for (int64_t j = 0; j < s.length; ++j) {
          const double grad_score = scale * p[size_t(j)] * (grad_p[size_t(j)] - delta);
          for (int64_t d = 0; d < s.dim; ++d) {
            e.grad[at(b, i, 0, h, d)] += grad_score * double(qkv[at(b, j, 1, h, d)]);
            e.grad[at(b, j, 1, h, d)] += grad_score * double(qkv[at(b, i, 0, h, d)]);
          }
        }
      }
  return e;
}

template <typename scalar_t>
std::vector<scalar_t> random_values(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<scalar_t> values(static_cast<size_t>(count));
  for (auto& value : values) value = scalar_t(normal(random));
  return values;
}

// The largest error relative to the largest value, in units of the type's own eps; NaN and inf only where exact.
template <typename scalar_t, typename Values>
double error_in_eps(const Values& actual, const std::vector<double>& exact) {
  double worst = 0, largest = 1e-30;
  for (size_t k = 0; k < exact.size(); ++k) {
    if (double(actual[k]) == exact[k]) continue;
    largest = std::fmax(largest, std::fabs(exact[k]));
    const double error = std::fabs(double(actual[k]) - exact[k]);
    if (!(error <= worst)) worst = std::isfinite(error) ? error : INFINITY;
  }
  return worst / largest / double(std::numeric_limits<scalar_t>::epsilon());
}

template <typename scalar_t>
double largest_error(const Sizes& s, bool with_mask, bool with_dropout, std::mt19937& random) {
  using acc_t = acc_of<scalar_t>;
  using namespace advkern;
  const auto qkv = random_values<scalar_t>(s.packed(), random);
  const auto grad_out = random_values<scalar_t>(s.packed() / 3, random);
  const auto grad_lse = random_values<acc_t>(s.rows(), random);
  std::vector<char> mask(size_t(kBatch * s.length));
  for (int64_t k = 0; k < kBatch * s.length; ++k) mask[size_t(k)] = k >= s.length || random() % 3 == 0;  // entry 1: all
  const bool* const hidden = with_mask ? reinterpret_cast<const bool*>(mask.data()) : nullptr;
  const int64_t seed = 0x123456789abcdef0;
  const VitAttentionArgs<scalar_t> args{part<const scalar_t>(qkv, s, 3, 0),
                                        part<const scalar_t>(qkv, s, 3, 1),
                                        part<const scalar_t>(qkv, s, 3, 2),
                                        hidden,
                                        kBatch,
                                        s.length,
                                        kHeads,
                                        s.dim,
                                        acc_t(0.3),
                                        with_dropout ? &seed : nullptr,
                                        kDropped,
                                        acc_t(65536.0 / (65536 - kDropped))};

  std::vector<scalar_t> out(size_t(s.packed() / 3), scalar_t(NAN)), grad(size_t(s.packed()), scalar_t(NAN));
  std::vector<acc_t> lse(size_t(s.rows()), acc_t(NAN));
  // scratch full of NaN: what is read must have been written
  std::vector<acc_t> scratch(size_t(ADVKERN_ON_ISA(vit_attention_fwd_scratch, args)), acc_t(NAN));
  const int64_t tasks = kBatch * kHeads * ((s.length + kVitQueryBlock - 1) / kVitQueryBlock);
  const VitAttentionOut<scalar_t> result{part<scalar_t>(out, s, 1, 0), lse.data()};
  ADVKERN_ON_ISA(vit_attention_fwd_blocks, args, result, 0, tasks / 2, scratch.data());
  ADVKERN_ON_ISA(vit_attention_fwd_blocks, args, result, tasks / 2, tasks, scratch.data());
  scratch.assign(size_t(ADVKERN_ON_ISA(vit_attention_bwd_scratch, args)), acc_t(NAN));
  const VitAttentionGrads<scalar_t> grads{part<const scalar_t>(out, s, 1, 0),
                                          part<const scalar_t>(grad_out, s, 1, 0),
                                          lse.data(),
                                          grad_lse.data(),
                                          part<scalar_t>(grad, s, 3, 0),
                                          part<scalar_t>(grad, s, 3, 1),
                                          part<scalar_t>(grad, s, 3, 2)};
  ADVKERN_ON_ISA(vit_attention_bwd_heads, args, grads, 0, kBatch * kHeads, scratch.data());

  const Exact e = exact(s, qkv, grad_out, grad_lse, hidden, 0.3, with_dropout ? &seed : nullptr);
  const double errors[] = {error_in_eps<scalar_t>(out, e.out), error_in_eps<acc_t>(lse, e.lse),
                           error_in_eps<scalar_t>(grad, e.grad)};
  return std::fmax(errors[0], std::fmax(errors[1], errors[2]));
}

template <typename scalar_t>
int check(const char* type) {
  int failures = 0;
  std::mt19937 random(0);
  const Sizes all[] = {{1, 8}, {5, 3}, {16, 16}, {17, 64}, {49, 33}, {65, 128}, {197, 64}, {700, 20}};
  for (const Sizes& s : all)
    for (int options = 0; options < 4; ++options) {
      const double error = largest_error<scalar_t>(s, options & 1, options & 2, random);
      if (error < 32) continue;
      std::printf("%s %s, length %d, dim %d%s%s: error of %g eps\n", advkern::isa_name(advkern::current_isa()), type,
                  int(s.length), int(s.dim), options & 1 ? ", masked" : "", options & 2 ? ", dropout" : "", error);
      ++failures;
    }
  return failures;
}

}  // namespace

int main() {
  int failures = 0;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check<float>("float32") + check<double>("float64") + check<advkern::Half>("float16") +
                check<advkern::BFloat16>("bfloat16");
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
