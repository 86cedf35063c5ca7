// SPDX-License-Identifier: MIT
// y_(n+1) = y_n + h_n sum_i b_i k_i,  k_i = f(y_n + h_n sum_(j<i) a_ij k_j),  f(y) = W2 tanh(W1 y + b1) + b2.
// A block of samples stands across the vectors' lanes and takes all steps at once: both products run over tiles of
// kRows rows by some vectors of samples in registers, the weights broadcast. Of few dimensions all stand in registers
// and unit after unit is added. Backward: from each checkpoint the steps
// are taken again with all stages kept, then the chain rule goes back through them. Torch-free; once an ISA.
#ifndef ADVKERN_RK4_CPU_H
#define ADVKERN_RK4_CPU_H
namespace advkern {

constexpr int kMaxStages = 4;

template <typename acc_t>
struct Rk4Problem {
  const acc_t *weight1, *bias1;  // [hidden, dim], packed; [hidden]
  const acc_t *weight2, *bias2;  // [dim, hidden], packed; [dim]
  const acc_t *units1, *units2;  // [hidden, dim] each, W1 and W2 transposed: what a unit takes in and gives out
  const acc_t* h;                // [steps], or [steps, samples]
  const int64_t* save_at;        // [saves], ascending: after how many steps a state is wanted
  int64_t samples, dim, hidden, steps, saves;
  int64_t every;  // steps between checkpoints, 0: none are kept
  bool h_per_sample;
  int stages;
  acc_t tableau[kMaxStages][kMaxStages];  // row i: the k's in the (i+1)-th stage's state; the last row: in y_(n+1)
};

template <typename acc_t>
struct Rk4Forward {
  const acc_t* y;      // [samples, dim]
  acc_t* out;          // [saves, samples, dim]
  acc_t* checkpoints;  // [steps / every rounded up, samples, dim]
};

template <typename acc_t>
struct Rk4Backward {
  const acc_t* grad;                   // [saves, samples, dim]
  const acc_t* checkpoints;            // as the forward left them
  const acc_t *weight1_t, *weight2_t;  // [dim, hidden] and [hidden, dim], packed
  acc_t* grad_y;                       // [samples, dim]
  acc_t* grad_h;                       // [steps, samples], or null where h is shared
};

// What a group of blocks sums up; `padded` is dim rounded up to whole vectors.
template <typename acc_t>
struct Rk4Sums {
  acc_t* weight1;  // [hidden, padded], of few dimensions [hidden, dim, lanes]
  acc_t* weight2;  // the same, transposed
  acc_t* bias1;    // [hidden, lanes]
  acc_t* bias2;    // [dim, lanes]
  acc_t* h;        // [steps, lanes]
};

template <typename scalar_t>
struct Rk4CombineArgs {
  const scalar_t* y;                    // [count]
  const scalar_t* k[kMaxStages];        // [count] each
  acc_of<scalar_t> factor[kMaxStages];  // dt a_ij
  scalar_t* out;                        // [count]: y + sum_j factor_j k_j
  int terms;
  bool stream;  // past the caches
};

template <typename scalar_t>
struct Rk4ScaleArgs {
  const scalar_t* grad;  // [count]
  acc_of<scalar_t> factor[kMaxStages];
  scalar_t* out;  // [terms, count]: factor_j grad
  int64_t count;
  int terms;
};

}  // namespace advkern
#endif

namespace advkern::ADVKERN_ISA {

#include "common/vec.h"
#include "common/vec_math.h"
#include "common/vec_stream.h"

constexpr int kRows = ADVKERN_VECTOR_BYTES == 64 ? 8 : 4;  // times kVecs: the sums of a tile fill half the registers
constexpr int kVecs = 2;

constexpr int kSmallDim = 6;  // up to which a state stands in registers; backward 2.4x at 2, 1.3x at 6, 0.9x at 8

static bool rk4_is_small(int64_t dim) { return dim <= kSmallDim; }

template <typename acc_t>
static int64_t rk4_block_samples() {
  return kVecs * kLanes<acc_t>;
}

template <typename acc_t>
static int64_t rk4_padded(int64_t dim) {
  return (dim + kLanes<acc_t> - 1) / kLanes<acc_t> * kLanes<acc_t>;
}

template <typename acc_t>
static int64_t rk4_lanes() {
  return kLanes<acc_t>;
}

// Scalars of scratch that a block needs.
template <typename acc_t>
static int64_t rk4_scratch(const Rk4Problem<acc_t>& p, bool backward) {
  const int64_t wide = rk4_padded<acc_t>(p.dim), taken = p.every * p.stages;
  if (!backward) return (p.hidden + (2 + kMaxStages) * wide) * rk4_block_samples<acc_t>();
  const int64_t states = taken * (2 * wide + p.hidden) + p.hidden + (kMaxStages + 3) * wide;
  return states * rk4_block_samples<acc_t>();
}

#include "rk4/rk4_combine.h"
#include "rk4/rk4_products.h"
#include "rk4/rk4_small.h"

// -- blocks ------------------------------------------------------------------------------------------------------

// sum_j factor_j k_j over the k's whose factor is not 0.
template <typename acc_t>
struct Terms {
  int count = 0;
  const acc_t* k[kMaxStages];
  acc_t factor[kMaxStages];

  void add(const acc_t* from, acc_t times) {
    if (times == 0) return;
    k[count] = from;
    factor[count++] = times;
  }

  template <int kCount>
  Vec<acc_t> sum(int64_t at) const {
    Vec<acc_t> total{};
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) total = j ? total + factor[j] * load(k[j] + at) : factor[j] * load(k[j] + at);
    return total;
  }
};

// Samples [first, first + count) stand across kWide vectors; lanes beyond them repeat the last one.
template <int kWide, typename acc_t>
struct Block {
  static constexpr int64_t kWidth = int64_t(kWide) * kLanes<acc_t>;
  const Rk4Problem<acc_t>& p;
  int64_t first, count;

  Block(const Rk4Problem<acc_t>& p, int64_t first) : p(p), first(first), count(min(kWidth, p.samples - first)) {}

  static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

  void load_state(const acc_t* rows, acc_t* y) const {  // [samples, dim] -> [dim, kWidth]
    for (int64_t s = 0; s < kWidth; ++s) {
      const acc_t* const row = rows + (first + min(s, count - 1)) * p.dim;
      for (int64_t d = 0; d < p.dim; ++d) y[d * kWidth + s] = row[d];
    }
  }

  void add_state(const acc_t* rows, acc_t* y) const {
    for (int64_t s = 0; s < count; ++s)
      for (int64_t d = 0; d < p.dim; ++d) y[d * kWidth + s] += rows[(first + s) * p.dim + d];
  }

  void store_state(const acc_t* y, acc_t* rows) const {
    for (int64_t s = 0; s < count; ++s)
      for (int64_t d = 0; d < p.dim; ++d) rows[(first + s) * p.dim + d] = y[d * kWidth + s];
  }

  void load_h(int64_t n, Vec<acc_t> (&h)[kWide]) const {
    acc_t lanes[kWidth];
    for (int64_t s = 0; s < kWidth; ++s)
      lanes[s] = p.h_per_sample ? p.h[n * p.samples + first + min(s, count - 1)] : p.h[n];
    for (int v = 0; v < kWide; ++v) h[v] = load(lanes + v * kLanes<acc_t>);
  }

  // a = tanh(W1 x + b1), k = W2 a + b2
  void evaluate(const acc_t* x, acc_t* a, acc_t* k) const {
    if (rk4_is_small(p.dim)) return small_slope_of<1, kWide>(p, x, a, k);
    const acc_t *const bias1 = p.bias1, *const bias2 = p.bias2;  // else read anew after every store
    product<kWide, true>(p.weight1, p.dim, x, kWidth, p.hidden, p.dim,
                         [=](int64_t row, const Vec<acc_t>(&sum)[kWide]) __attribute__((always_inline)) {
#pragma GCC unroll 2
                           for (int v = 0; v < kWide; ++v)
                             store(a + row * kWidth + v * kLanes<acc_t>, tanh<acc_t>(sum[v] + bias1[row]));
                         });
    product<kWide, true>(p.weight2, p.hidden, a, kWidth, p.dim, p.hidden,
                         [=](int64_t row, const Vec<acc_t>(&sum)[kWide]) __attribute__((always_inline)) {
#pragma GCC unroll 2
                           for (int v = 0; v < kWide; ++v)
                             store(k + row * kWidth + v * kLanes<acc_t>, sum[v] + bias2[row]);
                         });
  }

  // out = y + h sum_j factor_j k_j
  template <int kTerms = 0>
  void combine(const acc_t* y, const Terms<acc_t>& terms, const Vec<acc_t> (&h)[kWide], acc_t* out) const {
    if constexpr (kTerms < kMaxStages)
      if (kTerms < terms.count) return combine<kTerms + 1>(y, terms, h, out);
    const Terms<acc_t> t = terms;
    for (int64_t row = 0; row < p.dim * kWidth; row += kWidth)
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        const int64_t at = row + v * kLanes<acc_t>;
        store(out + at, load(y + at) + h[v] * t.template sum<kTerms>(at));
      }
  }
};

// Where the stages of a step lie in the scratch.
template <typename acc_t>
struct Stages {
  acc_t* x[kMaxStages];  // [dim, width]: the states
  acc_t* a[kMaxStages];  // [hidden, width]: the activations
  acc_t* k[kMaxStages];  // [dim, width]
};

// One step from y; stage 0's state is y itself.
template <int kWide, typename acc_t>
static void take_step(const Block<kWide, acc_t>& block, const Stages<acc_t>& s, const acc_t* y, int64_t n,
                      acc_t* next) {
  const Rk4Problem<acc_t>& p = block.p;
  Vec<acc_t> h[kWide];
  block.load_h(n, h);
  for (int i = 0; i < p.stages; ++i) {
    block.evaluate(i ? s.x[i] : y, s.a[i], s.k[i]);
    Terms<acc_t> terms;
    for (int j = 0; j <= i; ++j) terms.add(s.k[j], p.tableau[i][j]);
    block.combine(y, terms, h, i + 1 < p.stages ? s.x[i + 1] : next);
  }
}

template <int kWide, typename acc_t>
static void forward_block(const Rk4Problem<acc_t>& p, const Rk4Forward<acc_t>& io, int64_t first, acc_t* scratch) {
  const Block<kWide, acc_t> block(p, first);
  const int64_t state = p.dim * block.kWidth, plane = p.samples * p.dim;
  Stages<acc_t> s;  // every stage has its own k; the states and activations take turns
  acc_t* const y = scratch;
  for (int i = 0; i < p.stages; ++i) {
    s.x[i] = scratch + state;
    s.k[i] = scratch + (2 + i) * state;
    s.a[i] = scratch + (2 + kMaxStages) * state;
  }
  block.load_state(io.y, y);
  for (int64_t n = 0, save = 0;; ++n) {
    for (; save < p.saves && p.save_at[save] == n; ++save) block.store_state(y, io.out + save * plane);
    if (n == p.steps) break;
    if (p.every && n % p.every == 0) block.store_state(y, io.checkpoints + n / p.every * plane);
    take_step(block, s, y, n, y);
  }
}

// -- backward ----------------------------------------------------------------------------------------------------

// [kLanes rows, stride] -> its transpose, [kLanes rows, out_stride].
template <typename acc_t>
ADVKERN_INLINE void transpose_tile(const acc_t* in, int64_t stride, acc_t* out, int64_t out_stride) {
  constexpr int lanes = kLanes<acc_t>;
#if defined(__GNUC__) && !defined(__clang__)
  using int_vec = typename ExpConstants<acc_t>::int_vec;
  int_vec low, high;  // the lanes of two vectors, interleaved
  for (int k = 0; k < lanes; ++k) {
    low[k] = k / 2 + (k % 2) * lanes;
    high[k] = low[k] + lanes / 2;
  }
  Vec<acc_t> row[lanes], turned[lanes];
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) row[k] = load(in + k * stride);
#pragma GCC unroll 4
  for (int width = 1; width < lanes; width *= 2) {
#pragma GCC unroll 8
    for (int k = 0; k < lanes / 2; ++k) {
      turned[2 * k] = __builtin_shuffle(row[k], row[k + lanes / 2], low);
      turned[2 * k + 1] = __builtin_shuffle(row[k], row[k + lanes / 2], high);
    }
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) row[k] = turned[k];
  }
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) store(out + k * out_stride, row[k]);
#else
  for (int k = 0; k < lanes; ++k)
    for (int l = 0; l < lanes; ++l) out[l * out_stride + k] = in[k * stride + l];
#endif
}

// sums[row, d] += sum_s left[row, s] right[d, s]: over a block's samples, the vectors along d.
template <int kWide, typename acc_t>
static void add_outer(const acc_t* left, const acc_t* right, acc_t* turned, int64_t rows, int64_t padded, acc_t* sums) {
  constexpr int lanes = kLanes<acc_t>;
  constexpr int64_t width = int64_t(kWide) * lanes;
  for (int64_t d = 0; d < padded; d += lanes)
    for (int64_t s = 0; s < width; s += lanes)
      transpose_tile(right + d * width + s, width, turned + s * padded + d, padded);
  for (int64_t d = 0; d < padded;) {
    if (d + 2 * lanes <= padded) {
      product<2, false>(left, width, turned + d, padded, rows, width,
                        [=](int64_t row, const Vec<acc_t>(&sum)[2]) __attribute__((always_inline)) {
                          add_to<acc_t>(sums + row * padded + d, sum[0]);
                          add_to<acc_t>(sums + row * padded + d + lanes, sum[1]);
                        });
      d += 2 * lanes;
    } else {
      product<1, false>(left, width, turned + d, padded, rows, width,
                        [=](int64_t row, const Vec<acc_t>(&sum)[1])
                            __attribute__((always_inline)) { add_to<acc_t>(sums + row * padded + d, sum[0]); });
      d += lanes;
    }
  }
}

template <int kWide, typename acc_t>
struct BackwardBlock {
  static constexpr int64_t kWidth = Block<kWide, acc_t>::kWidth;
  const Block<kWide, acc_t> block;
  const Rk4Backward<acc_t>& io;
  const Rk4Sums<acc_t>& sums;
  int64_t padded, state;  // state: scalars of a [padded, width] array
  acc_t *segment, *grad_z, *grad_x[kMaxStages], *lambda, *after, *turned;

  BackwardBlock(const Rk4Problem<acc_t>& p, const Rk4Backward<acc_t>& io, const Rk4Sums<acc_t>& sums, int64_t first,
                acc_t* scratch)
      : block(p, first), io(io), sums(sums), padded(rk4_padded<acc_t>(p.dim)), state(padded * kWidth) {
    grad_z = scratch;
    lambda = grad_z + p.hidden * kWidth;
    after = lambda + state;
    turned = after + state;
    for (int i = 0; i < kMaxStages; ++i) grad_x[i] = turned + (1 + i) * state;
    segment = grad_x[kMaxStages - 1] + state;
  }

  Stages<acc_t> stages_of(int64_t step) const {
    const int64_t hidden = block.p.hidden * kWidth, stage = 2 * state + hidden;
    Stages<acc_t> s;
    for (int i = 0; i < block.p.stages; ++i) {
      s.x[i] = segment + (step * block.p.stages + i) * stage;
      s.k[i] = s.x[i] + state;
      s.a[i] = s.k[i] + state;
    }
    return s;
  }

  void run() const {
    const Rk4Problem<acc_t>& p = block.p;
    const int64_t plane = p.samples * p.dim;
    for (int64_t e = 0; e < state; ++e) lambda[e] = 0;
    int64_t save = p.saves;
    for (int64_t end = p.steps; end > 0;) {
      const int64_t begin = (end - 1) / p.every * p.every;
      block.load_state(io.checkpoints + begin / p.every * plane, stages_of(0).x[0]);
      for (int64_t n = begin; n < end; ++n) {
        const Stages<acc_t> s = stages_of(n - begin);
        take_step(block, s, s.x[0], n, n + 1 < end ? stages_of(n + 1 - begin).x[0] : after);
      }
      for (int64_t n = end - 1; n >= begin; --n) {
        for (; save > 0 && p.save_at[save - 1] == n + 1; --save) block.add_state(io.grad + (save - 1) * plane, lambda);
        go_back(stages_of(n - begin), n);
      }
      end = begin;
    }
    for (; save > 0; --save) block.add_state(io.grad + (save - 1) * plane, lambda);
    block.store_state(lambda, io.grad_y);
  }

  // lambda, the gradient of y_(n+1), becomes that of y_n.
  void go_back(const Stages<acc_t>& s, int64_t n) const {
    const Rk4Problem<acc_t>& p = block.p;
    constexpr int lanes = kLanes<acc_t>;
    Vec<acc_t> h[kWide], grad_h[kWide];
    block.load_h(n, h);
    for (int v = 0; v < kWide; ++v) grad_h[v] = Vec<acc_t>{};
    for (int i = p.stages - 1; i >= 0; --i) {
      Terms<acc_t> terms;
      terms.add(lambda, p.tableau[p.stages - 1][i]);
      for (int j = i + 1; j < p.stages; ++j) terms.add(grad_x[j], p.tableau[j - 1][i]);
      grad_of_k(s.k[i], terms, h, grad_h);
      if (rk4_is_small(p.dim)) {
        small_back_of<1, kWide>(p, sums, s.x[i], s.a[i], s.k[i], grad_x[i]);
        continue;
      }
      const acc_t* const a = s.a[i];
      acc_t *const to_z = grad_z, *const to_x = grad_x[i], *const bias1 = sums.bias1;
      product<kWide, true>(io.weight2_t, p.dim, s.k[i], kWidth, p.hidden, p.dim,
                           [=](int64_t row, const Vec<acc_t>(&sum)[kWide]) __attribute__((always_inline)) {
                             Vec<acc_t> bias = load(bias1 + row * lanes);
#pragma GCC unroll 2
                             for (int v = 0; v < kWide; ++v) {
                               const Vec<acc_t> tanh = load(a + row * kWidth + v * lanes);
                               const Vec<acc_t> grad = sum[v] * (acc_t(1) - tanh * tanh);
                               store(to_z + row * kWidth + v * lanes, grad);
                               bias += grad;
                             }
                             store(bias1 + row * lanes, bias);
                           });
      product<kWide, true>(io.weight1_t, p.hidden, grad_z, kWidth, p.dim, p.hidden,
                           [=](int64_t row, const Vec<acc_t>(&sum)[kWide]) __attribute__((always_inline)) {
#pragma GCC unroll 2
                             for (int v = 0; v < kWide; ++v) store(to_x + row * kWidth + v * lanes, sum[v]);
                           });
      add_outer<kWide>(s.a[i], s.k[i], turned, p.hidden, padded, sums.weight2);
      add_outer<kWide>(grad_z, s.x[i], turned, p.hidden, padded, sums.weight1);
    }
    for (int64_t e = 0; e < p.dim * kWidth; e += lanes) {
      Vec<acc_t> sum = load(lambda + e);
      for (int i = 0; i < p.stages; ++i) sum += load(grad_x[i] + e);
      store(lambda + e, sum);
    }
    store_grad_h(n, grad_h);
  }

  // k_i, which nothing needs any more, becomes its gradient.
  template <int kTerms = 0>
  void grad_of_k(acc_t* k, const Terms<acc_t>& terms, const Vec<acc_t> (&h)[kWide], Vec<acc_t> (&grad_h)[kWide]) const {
    if constexpr (kTerms < kMaxStages)
      if (kTerms < terms.count) return grad_of_k<kTerms + 1>(k, terms, h, grad_h);
    constexpr int lanes = kLanes<acc_t>;
    const Terms<acc_t> t = terms;
    acc_t* const bias2 = sums.bias2;
    for (int64_t d = 0; d < block.p.dim; ++d) {
      Vec<acc_t> bias = load(bias2 + d * lanes);
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        const int64_t at = d * kWidth + v * lanes;
        Vec<acc_t> grad = t.template sum<kTerms>(at);
        grad_h[v] += grad * load(k + at);
        grad *= h[v];
        store(k + at, grad);
        bias += grad;
      }
      store(bias2 + d * lanes, bias);
    }
  }

  void store_grad_h(int64_t n, const Vec<acc_t> (&grad_h)[kWide]) const {
    constexpr int lanes = kLanes<acc_t>;
    acc_t lane[kWidth];
    for (int v = 0; v < kWide; ++v) store(lane + v * lanes, grad_h[v]);
    if (io.grad_h == nullptr) {
      for (int v = 0; v < kWide; ++v) add_to<acc_t>(sums.h + n * lanes, grad_h[v]);
    } else {
      for (int64_t s = 0; s < block.count; ++s) io.grad_h[n * block.p.samples + block.first + s] = lane[s];
    }
  }
};

// -- what the glue calls -------------------------------------------------------------------------------------------

// Blocks [begin, end) of rk4_block_samples() samples; a last block of few samples takes one vector.
template <typename acc_t>
static void rk4_forward_blocks(const Rk4Problem<acc_t>& p, const Rk4Forward<acc_t>& io, int64_t begin, int64_t end,
                               acc_t* scratch) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t first = b * rk4_block_samples<acc_t>();
    if (p.samples - first > kLanes<acc_t>) {
      forward_block<kVecs>(p, io, first, scratch);
    } else {
      forward_block<1>(p, io, first, scratch);
    }
  }
}

template <typename acc_t>
static void rk4_backward_blocks(const Rk4Problem<acc_t>& p, const Rk4Backward<acc_t>& io, const Rk4Sums<acc_t>& sums,
                                int64_t begin, int64_t end, acc_t* scratch) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t first = b * rk4_block_samples<acc_t>();
    if (p.samples - first > kLanes<acc_t>) {
      BackwardBlock<kVecs, acc_t>(p, io, sums, first, scratch).run();
    } else {
      BackwardBlock<1, acc_t>(p, io, sums, first, scratch).run();
    }
  }
}

// out[i] = the sum over the groups and over the lanes of sums[group, i, lanes].
template <typename acc_t>
static void rk4_sum_lanes(const acc_t* sums, int64_t groups, int64_t group_stride, int64_t count, acc_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    Vec<acc_t> sum{};
    for (int64_t g = 0; g < groups; ++g) sum += load(sums + g * group_stride + i * kLanes<acc_t>);
    out[i] = sum_lanes<acc_t>(sum);
  }
}

}  // namespace advkern::ADVKERN_ISA
