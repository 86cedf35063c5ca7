// SPDX-License-Identifier: MIT
// The slope and the chain rule through it for few dimensions: a state stands in registers, unit after unit is added.
// Included by rk4_cpu.h inside a namespace for each instruction set, hence no guard.

constexpr int kUnits = 4;  // taken at once, so that one's tanh does not wait for another's

// Adds what kCount hidden units give to the slope at `in`.
template <int kCount, int kDim, int kWide, typename acc_t>
ADVKERN_INLINE void small_units(const Rk4Problem<acc_t>& p, int64_t first, const Vec<acc_t> (&in)[kDim][kWide],
                                acc_t* a, Vec<acc_t> (&out)[kDim][kWide]) {
  Vec<acc_t> z[kCount][kWide];
#pragma GCC unroll 4
  for (int u = 0; u < kCount; ++u)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      z[u][v] = Vec<acc_t>{} + p.bias1[first + u];
#pragma GCC unroll 8
      for (int d = 0; d < kDim; ++d) z[u][v] += p.units1[(first + u) * kDim + d] * in[d][v];
    }
#pragma GCC unroll 4
  for (int u = 0; u < kCount; ++u)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      z[u][v] = tanh<acc_t>(z[u][v]);
      store(a + ((first + u) * kWide + v) * kLanes<acc_t>, z[u][v]);
    }
#pragma GCC unroll 4
  for (int u = 0; u < kCount; ++u)
#pragma GCC unroll 8
    for (int d = 0; d < kDim; ++d)
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) out[d][v] += p.units2[(first + u) * kDim + d] * z[u][v];
}

// The slope with p.dim as a constant, so that arrays of it are registers.
template <int kDim, int kWide, typename acc_t>
static void small_slope(const Rk4Problem<acc_t>& p, const acc_t* x, acc_t* a, acc_t* k) {
  constexpr int lanes = kLanes<acc_t>;
  Vec<acc_t> in[kDim][kWide], out[kDim][kWide];
#pragma GCC unroll 8
  for (int d = 0; d < kDim; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      in[d][v] = load(x + (d * kWide + v) * lanes);
      out[d][v] = Vec<acc_t>{} + p.bias2[d];
    }
  int64_t unit = 0;
  for (; unit + kUnits <= p.hidden; unit += kUnits) small_units<kUnits>(p, unit, in, a, out);
  for (; unit < p.hidden; ++unit) small_units<1>(p, unit, in, a, out);
#pragma GCC unroll 8
  for (int d = 0; d < kDim; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) store(k + (d * kWide + v) * lanes, out[d][v]);
}

template <int kDim, int kWide, typename acc_t>
static void small_slope_of(const Rk4Problem<acc_t>& p, const acc_t* x, acc_t* a, acc_t* k) {
  if constexpr (kDim < kSmallDim)
    if (p.dim > kDim) return small_slope_of<kDim + 1, kWide>(p, x, a, k);
  small_slope<kDim, kWide>(p, x, a, k);
}

// The chain rule through one slope: grad_x from the gradient of k; the weights' sums a vector for each weight.
template <int kDim, int kWide, typename acc_t>
static void small_back(const Rk4Problem<acc_t>& p, const Rk4Sums<acc_t>& sums, const acc_t* x, const acc_t* a,
                       const acc_t* grad_k, acc_t* grad_x) {
  constexpr int lanes = kLanes<acc_t>;
  Vec<acc_t> in[kDim][kWide], grad_out[kDim][kWide], grad_in[kDim][kWide];
#pragma GCC unroll 8
  for (int d = 0; d < kDim; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      in[d][v] = load(x + (d * kWide + v) * lanes);
      grad_out[d][v] = load(grad_k + (d * kWide + v) * lanes);
      grad_in[d][v] = Vec<acc_t>{};
    }
  for (int64_t unit = 0; unit < p.hidden; ++unit) {
    Vec<acc_t> z[kWide], out[kWide], sum1{};
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      out[v] = load(a + (unit * kWide + v) * lanes);
      z[v] = Vec<acc_t>{};
#pragma GCC unroll 8
      for (int d = 0; d < kDim; ++d) z[v] += p.units2[unit * kDim + d] * grad_out[d][v];
      z[v] *= acc_t(1) - out[v] * out[v];
      sum1 += z[v];
    }
    add_to<acc_t>(sums.bias1 + unit * lanes, sum1);
#pragma GCC unroll 8
    for (int d = 0; d < kDim; ++d) {
      acc_t* const at1 = sums.weight1 + (unit * kDim + d) * lanes;
      acc_t* const at2 = sums.weight2 + (unit * kDim + d) * lanes;
      Vec<acc_t> weight1 = load(at1), weight2 = load(at2);
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        grad_in[d][v] += p.units1[unit * kDim + d] * z[v];
        weight1 += z[v] * in[d][v];
        weight2 += out[v] * grad_out[d][v];
      }
      store(at1, weight1);
      store(at2, weight2);
    }
  }
#pragma GCC unroll 8
  for (int d = 0; d < kDim; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) store(grad_x + (d * kWide + v) * lanes, grad_in[d][v]);
}

template <int kDim, int kWide, typename acc_t>
static void small_back_of(const Rk4Problem<acc_t>& p, const Rk4Sums<acc_t>& sums, const acc_t* x, const acc_t* a,
                          const acc_t* grad_k, acc_t* grad_x) {
  if constexpr (kDim < kSmallDim)
    if (p.dim > kDim) return small_back_of<kDim + 1, kWide>(p, sums, x, a, grad_k, grad_x);
  small_back<kDim, kWide>(p, sums, x, a, grad_k, grad_x);
}
