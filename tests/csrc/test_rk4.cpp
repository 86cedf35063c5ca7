// SPDX-License-Identifier: MIT
// The integration kernels, every instruction set of this machine, against plain loops; gradients against differences.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "common/isa.h"

#define ADVKERN_KERNEL "rk4/rk4_cpu.h"
#include "common/for_each_isa.h"

namespace {

using namespace advkern;
using Values = std::vector<double>;

constexpr double kClassical[4][4] = {{0.5}, {0, 0.5}, {0, 0, 1}, {1. / 6, 1. / 3, 1. / 3, 1. / 6}};

struct Problem {
  int64_t samples, dim, hidden, steps;
  Values y, weight1, bias1, weight2, bias2, h;  // h: [steps]
};

Problem random_problem(int64_t samples, int64_t dim, int64_t hidden, int64_t steps, std::mt19937& random) {
  std::normal_distribution<double> normal(0, 0.7);
  const auto values = [&](int64_t count) {
    Values v(static_cast<size_t>(count));
    for (double& value : v) value = normal(random);
    return v;
  };
  Problem p{samples,
            dim,
            hidden,
            steps,
            values(samples * dim),
            values(hidden * dim),
            values(hidden),
            values(dim * hidden),
            values(dim),
            values(steps)};
  for (double& h : p.h) h = 0.1 + 0.05 * h;
  return p;
}

Values slope(const Problem& p, const Values& y) {
  Values k(y.size());
  for (int64_t s = 0; s < p.samples; ++s)
    for (int64_t d = 0; d < p.dim; ++d) {
      double sum = p.bias2[size_t(d)];
      for (int64_t i = 0; i < p.hidden; ++i) {
        double z = p.bias1[size_t(i)];
        for (int64_t j = 0; j < p.dim; ++j) z += p.weight1[size_t(i * p.dim + j)] * y[size_t(s * p.dim + j)];
        sum += p.weight2[size_t(d * p.hidden + i)] * std::tanh(z);
      }
      k[size_t(s * p.dim + d)] = sum;
    }
  return k;
}

Values integrate(const Problem& p) {
  Values y = p.y;
  for (const double h : p.h) {
    Values k[4], state = y;
    for (int i = 0; i < 4; ++i) {
      k[i] = slope(p, state);
      for (size_t e = 0; e < y.size(); ++e) {
        state[e] = y[e];
        for (int j = 0; j <= i; ++j) state[e] += h * kClassical[i][j] * k[j][e];
      }
    }
    y = state;
  }
  return y;
}

double total(const Problem& p, const Values& factor) {
  const Values y = integrate(p);
  double sum = 0;
  for (size_t e = 0; e < y.size(); ++e) sum += factor[e] * y[e];
  return sum;
}

// The kernel's arrays in its own type, and a call.
template <typename acc_t>
struct Run {
  std::vector<acc_t> y, bias1, bias2, h, packed[4], units1, units2, out, checkpoints, scratch;
  std::vector<int64_t> save_at;
  Rk4Problem<acc_t> p;

  explicit Run(const Problem& q, int64_t every) : save_at{q.steps} {
    const auto cast = [](const Values& v) { return std::vector<acc_t>(v.begin(), v.end()); };
    y = cast(q.y), bias1 = cast(q.bias1), bias2 = cast(q.bias2), h = cast(q.h);
    const auto w1 = cast(q.weight1), w2 = cast(q.weight2);
    units1 = w1, units2 = w2;
    for (int64_t i = 0; i < q.hidden; ++i)
      for (int64_t d = 0; d < q.dim; ++d) units2[size_t(i * q.dim + d)] = w2[size_t(d * q.hidden + i)];
    for (auto& weights : packed) weights.resize(w1.size());
    ADVKERN_ON_ISA(rk4_pack, w1.data(), q.hidden, q.dim, false, packed[0].data());
    ADVKERN_ON_ISA(rk4_pack, w2.data(), q.dim, q.hidden, false, packed[1].data());
    ADVKERN_ON_ISA(rk4_pack, w1.data(), q.dim, q.hidden, true, packed[2].data());
    ADVKERN_ON_ISA(rk4_pack, w2.data(), q.hidden, q.dim, true, packed[3].data());
    p = {packed[0].data(),
         bias1.data(),
         packed[1].data(),
         bias2.data(),
         units1.data(),
         units2.data(),
         h.data(),
         save_at.data(),
         q.samples,
         q.dim,
         q.hidden,
         q.steps,
         1,
         every,
         false,
         4,
         {}};
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) p.tableau[i][j] = acc_t(kClassical[i][j]);
    out.resize(y.size());
    checkpoints.resize(size_t((q.steps + every - 1) / every) * y.size());
    scratch.resize(size_t(ADVKERN_ON_ISA(rk4_scratch, p, true) + ADVKERN_ON_ISA(rk4_scratch, p, false)));
  }

  int64_t blocks() const {
    const int64_t block = ADVKERN_ON_ISA(rk4_block_samples<acc_t>);
    return (p.samples + block - 1) / block;
  }

  void forward() {
    const Rk4Forward<acc_t> io{y.data(), out.data(), checkpoints.data()};
    ADVKERN_ON_ISA(rk4_forward_blocks, p, io, 0, blocks(), scratch.data());
  }
};

double largest(const Values& v) {
  double most = 0;
  for (const double value : v) most = std::max(most, std::abs(value));
  return most;
}

int report(bool right, const char* what, const Problem& p, double error) {
  if (right) return 0;
  std::printf("%s %s, %d samples, dim %d, hidden %d: error %g\n", isa_name(current_isa()), what, int(p.samples),
              int(p.dim), int(p.hidden), error);
  return 1;
}

template <typename acc_t>
int check_forward(const Problem& p, double tolerance) {
  Run<acc_t> run(p, 3);
  run.forward();
  const Values exact = integrate(p);
  double error = 0;
  for (size_t e = 0; e < exact.size(); ++e) error = std::max(error, std::abs(double(run.out[e]) - exact[e]));
  return report(error <= tolerance * largest(exact), "forward", p, error);
}

// The directional derivative along `direction` in every argument, against a central difference.
int check_backward(const Problem& p, std::mt19937& random) {
  Run<double> run(p, 3);
  run.forward();
  const Problem direction = random_problem(p.samples, p.dim, p.hidden, p.steps, random);
  const Values factor = random_problem(p.samples, p.dim, 1, 1, random).y;
  const int64_t lanes = ADVKERN_ON_ISA(rk4_lanes<double>), padded = ADVKERN_ON_ISA(rk4_padded<double>, p.dim);
  const auto size = [](int64_t count) { return Values(static_cast<size_t>(count)); };
  const bool small = ADVKERN_ON_ISA(rk4_is_small, p.dim);
  Values w1 = size(p.hidden * (small ? p.dim * lanes : padded)), w2 = w1, b1 = size(p.hidden * lanes),
         b2 = size(p.dim * lanes);
  Values h = size(p.steps * lanes), grad_y(p.y.size());
  const Rk4Sums<double> sums{w1.data(), w2.data(), b1.data(), b2.data(), h.data()};
  const Rk4Backward<double> io{factor.data(),        run.checkpoints.data(), run.packed[2].data(),
                               run.packed[3].data(), grad_y.data(),          nullptr};
  ADVKERN_ON_ISA(rk4_backward_blocks, run.p, io, sums, 0, run.blocks(), run.scratch.data());

  double along = 0;
  for (size_t e = 0; e < grad_y.size(); ++e) along += grad_y[e] * direction.y[e];
  const auto weight_sum = [&](const Values& sums_of, int64_t i, int64_t d) {
    if (!small) return sums_of[size_t(i * padded + d)];
    double sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += sums_of[size_t((i * p.dim + d) * lanes + lane)];
    return sum;
  };
  for (int64_t i = 0; i < p.hidden; ++i)
    for (int64_t d = 0; d < p.dim; ++d)
      along += weight_sum(w1, i, d) * direction.weight1[size_t(i * p.dim + d)] +
               weight_sum(w2, i, d) * direction.weight2[size_t(d * p.hidden + i)];
  const auto add_lanes = [&](const Values& lane_sums, const Values& towards) {
    for (size_t k = 0; k < lane_sums.size(); ++k) along += lane_sums[k] * towards[k / size_t(lanes)];
  };
  add_lanes(b1, direction.bias1);
  add_lanes(b2, direction.bias2);
  add_lanes(h, direction.h);

  constexpr double kStep = 1e-5;
  Problem ends[2] = {p, p};
  for (int side = 0; side < 2; ++side)
    for (Values Problem::* part :
         {&Problem::y, &Problem::weight1, &Problem::bias1, &Problem::weight2, &Problem::bias2, &Problem::h})
      for (size_t e = 0; e < (p.*part).size(); ++e)
        (ends[side].*part)[e] += (side ? -kStep : kStep) * (direction.*part)[e];
  const double difference = (total(ends[0], factor) - total(ends[1], factor)) / (2 * kStep);
  const double error = std::abs(along - difference);
  return report(error <= 1e-6 * (1 + std::abs(difference)), "backward", p, error);
}

int check_all() {
  std::mt19937 random(0);
  int failures = 0;
  for (const auto& [samples, dim, hidden] :
       {std::array<int64_t, 3>{1, 1, 1}, {5, 2, 4}, {40, 3, 7}, {33, 4, 9}, {70, 17, 23}, {20, 40, 13}}) {
    const Problem p = random_problem(samples, dim, hidden, 7, random);
    failures += check_forward<float>(p, 3e-6) + check_forward<double>(p, 1e-13) + check_backward(p, random);
  }
  return failures;
}

}  // namespace

int main() {
  int failures = 0;
  for (int isa = int(advkern::best_isa()); isa >= 0; --isa) {
    advkern::current_isa() = advkern::Isa(isa);
    failures += check_all();
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
