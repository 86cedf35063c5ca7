// SPDX-License-Identifier: MIT
// out = x W^T + b and grad_W = grad^T x, of many rows and few columns, or few rows and many.
// The smaller factor is packed once into panels of columns; blocks of rows meet one panel after another in register
// tiles. Torch-free; included once per instruction set.
#ifndef ADVKERN_LINEAR_CPU_H
#define ADVKERN_LINEAR_CPU_H
namespace advkern {

template <typename scalar_t>
struct LinearArgs {
  const scalar_t* x;  // [rows, in]
  const scalar_t* weight;
  int64_t weight_out, weight_in;  // its strides, one of them 1
  const scalar_t* bias;           // [out] or null
  int64_t rows, in, out;
  scalar_t* y;  // [rows, out]
};

template <typename scalar_t>
struct LinearWeightArgs {
  const scalar_t* grad;  // [rows, out]
  const scalar_t* x;     // [rows, in]
  int64_t rows, in, out;
  scalar_t* grad_weight;  // [out, in]
};

constexpr int64_t kLinearBlock = 96;    // rows that meet a panel together
constexpr int64_t kLinearDepth = 256;   // steps that a sum takes at once
constexpr int64_t kLinearOuts = 192;    // a task of grad_weight: outputs,
constexpr int64_t kLinearIns = 256;     // by inputs,
constexpr int64_t kLinearChunk = 512;   // of which so many rows are taken at once: packed, they stay in a cache
constexpr int64_t kLinearTasks = 64;    // into which grad_weight is cut, threads or not: sums always round alike
constexpr int64_t kLinearSlice = 1024;  // rows that are worth a sum of their own,
constexpr int64_t kLinearFewTasks = 8;  // or an eighth of them where there would be fewer tasks than this

// The length of parts of at most `most` into which `count` is cut evenly: no short one remains.
inline int64_t even_part(int64_t count, int64_t most) {
  const int64_t parts = count <= most ? 1 : (count + most - 1) / most;
  return (count + parts - 1) / parts;
}

// Blocks of outputs by inputs.
template <typename scalar_t>
int64_t linear_blocks(const LinearWeightArgs<scalar_t>& a) {
  return ((a.out + kLinearOuts - 1) / kLinearOuts) * ((a.in + kLinearIns - 1) / kLinearIns);
}

// Slices of the rows, each with a sum of its own; as many as make enough tasks together with the blocks.
template <typename scalar_t>
int64_t linear_slices(const LinearWeightArgs<scalar_t>& a) {
  const int64_t blocks = linear_blocks(a) < 1 ? 1 : linear_blocks(a);
  const auto slices = [&](int64_t tasks, int64_t rows) {
    const int64_t wanted = tasks / blocks, most = a.rows / rows, fewer = wanted < most ? wanted : most;
    return fewer < 1 ? 1 : fewer;
  };
  const int64_t many = slices(kLinearTasks, kLinearSlice), few = slices(kLinearFewTasks, kLinearSlice / 8);
  return many > few ? many : few;
}

}  // namespace advkern
#endif

namespace advkern::ADVKERN_ISA {

#include "common/vec.h"

#include "common/vec_rows.h"

#include "common/tile.h"

#include "common/pack.h"

// The product in parts: each part of b meets all rows while it is in the caches.
template <typename acc_t>
static void deep_product(Product<acc_t> p, int64_t rows, int64_t vecs) {
  const int64_t steps = p.steps, part = even_part(steps, kLinearDepth);
  int64_t first = 0;
  do {  // also where there are no steps: c = init
    p.steps = steps - first < part ? steps - first : part;
    product(p, rows, vecs);
    p.a += p.steps * p.a_step;
    p.b += p.steps * p.b_step;
    p.init = p.c;
    p.init_row = p.c_row;
    first += part;
  } while (first < steps);
}

// Panels of the weight and, at their end, the bias in whole vectors.
template <typename scalar_t>
static int64_t linear_packed_size(const LinearArgs<scalar_t>& a) {
  return padded<acc_of<scalar_t>>(a.out) * (a.in + 1);
}

template <typename scalar_t>
static int64_t linear_panels(const LinearArgs<scalar_t>& a) {
  return (a.out + kPanel<acc_of<scalar_t>> - 1) / kPanel<acc_of<scalar_t>>;
}

// Packs panels [begin, end).
template <typename scalar_t>
static void linear_pack(const LinearArgs<scalar_t>& a, int64_t begin, int64_t end, acc_of<scalar_t>* packed) {
  using acc_t = acc_of<scalar_t>;
  acc_t* const bias = packed + padded<acc_t>(a.out) * a.in;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kPanel<acc_t>;
    const int64_t width = a.out - first < kPanel<acc_t> ? a.out - first : kPanel<acc_t>;
    const scalar_t* const from = a.weight + first * a.weight_out;
    if (a.weight_in == 1)
      pack_transposed(from, a.weight_out, width, a.in, packed + first * a.in);
    else
      pack_rows(from, a.weight_in, a.in, width, acc_t(1), packed + first * a.in);
    if (a.bias)
      pack_rows(a.bias + first, 0, 1, width, acc_t(1), bias + first);
    else
      clear(bias + first, bias + first + padded<acc_t>(width));
  }
}

template <typename scalar_t>
static int64_t linear_fwd_scratch(const LinearArgs<scalar_t>& a) {
  return kLinearBlock * (padded<acc_of<scalar_t>>(a.in) + kPanel<acc_of<scalar_t>>);
}

// Rows [begin, end).
template <typename scalar_t>
static void linear_fwd_rows(const LinearArgs<scalar_t>& a, const acc_of<scalar_t>* packed, int64_t begin, int64_t end,
                            acc_of<scalar_t>* scratch) {
  using acc_t = acc_of<scalar_t>;
  constexpr bool kDirect = sizeof(scalar_t) == sizeof(acc_t);  // else rows are widened first, and narrowed last
  constexpr int lanes = kLanes<acc_t>;
  const acc_t* const bias = packed + padded<acc_t>(a.out) * a.in;
  acc_t* const tile = scratch + kLinearBlock * padded<acc_t>(a.in);
  for (int64_t first = begin; first < end; first += kLinearBlock) {
    const int64_t rows = end - first < kLinearBlock ? end - first : kLinearBlock;
    const acc_t* x = scratch;
    int64_t x_row = padded<acc_t>(a.in);
    if constexpr (kDirect) {
      x = a.x + first * a.in;
      x_row = a.in;
      // The next block: a tile reads six rows line by line, none of them long enough for the processor's prefetchers.
      const int64_t left = end - first - rows, next = left < kLinearBlock ? left : kLinearBlock;
      prefetch(x, uint64_t(rows * a.in), next * a.in * int64_t(sizeof(scalar_t)));
    } else {
      pack_rows(a.x + first * a.in, a.in, rows, a.in, acc_t(1), scratch);
    }
    for (int64_t column = 0; column < a.out; column += kPanel<acc_t>) {
      const int64_t left = a.out - column, real = left < kPanel<acc_t> ? left : kPanel<acc_t>;
      const int64_t width = padded<acc_t>(real);
      scalar_t* const y = a.y + first * a.out + column;
      Product<acc_t> p{x, x_row, 1, packed + column * a.in, width, bias + column, 0, tile, width, a.in};
      if constexpr (kDirect) {
        if (width == real) {
          p.c = y;
          p.c_row = a.out;
        }
      }
      deep_product(p, rows, width / lanes);
      if (p.c == tile) unpack_rows(tile, acc_t(1), rows, real, y, a.out);
    }
  }
}

// Whether the sums are the result as they stand: one slice, no narrowing, rows of whole vectors.
template <typename scalar_t>
static bool linear_sums_are_result(const LinearWeightArgs<scalar_t>& a) {
  using acc_t = acc_of<scalar_t>;
  return linear_slices(a) == 1 && sizeof(scalar_t) == sizeof(acc_t) && padded<acc_t>(a.in) == a.in;
}

template <typename scalar_t>
static int64_t linear_sums_size(const LinearWeightArgs<scalar_t>& a) {
  return linear_slices(a) * a.out * padded<acc_of<scalar_t>>(a.in);
}

template <typename scalar_t>
static int64_t linear_bwd_weight_scratch(const LinearWeightArgs<scalar_t>&) {
  return kLinearChunk * (kPanel<acc_of<scalar_t>> + kLinearOuts);
}

// Tasks [begin, end): each the sum over a slice of the rows for a block of outputs by inputs.
template <typename scalar_t>
static void linear_bwd_weight_tasks(const LinearWeightArgs<scalar_t>& a, int64_t begin, int64_t end,
                                    acc_of<scalar_t>* sums, acc_of<scalar_t>* scratch) {
  using acc_t = acc_of<scalar_t>;
  const int64_t across = (a.in + kLinearIns - 1) / kLinearIns, blocks = linear_blocks(a), slices = linear_slices(a);
  const int64_t in = padded<acc_t>(a.in);
  acc_t *const x = scratch, *const grad = scratch + kLinearChunk * kPanel<acc_t>;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t slice = task / blocks, out = task % blocks / across * kLinearOuts;
    const int64_t outs = a.out - out < kLinearOuts ? a.out - out : kLinearOuts;
    const int64_t left = task % across * kLinearIns, right = left + kLinearIns < a.in ? left + kLinearIns : a.in;
    const int64_t first = a.rows * slice / slices, last = a.rows * (slice + 1) / slices;
    const int64_t chunk = even_part(last - first, kLinearChunk);
    acc_t* const sum = sums + (slice * a.out + out) * in;
    for (int64_t r = 0; r < outs; ++r) clear(sum + r * in + left, sum + r * in + left + padded<acc_t>(right - left));
    for (int64_t row = first; row < last; row += chunk) {
      const int64_t steps = last - row < chunk ? last - row : chunk;
      pack_rows(a.grad + row * a.out + out, a.out, steps, outs, acc_t(1), grad);
      for (int64_t column = left; column < right; column += kPanel<acc_t>) {
        const int64_t real = right - column < kPanel<acc_t> ? right - column : kPanel<acc_t>;
        const int64_t width = padded<acc_t>(real);
        pack_rows(a.x + row * a.in + column, a.in, steps, real, acc_t(1), x);
        acc_t* const c = sum + column;
        deep_product(Product<acc_t>{grad, 1, padded<acc_t>(outs), x, width, c, in, c, in, steps}, outs,
                     width / kLanes<acc_t>);
      }
    }
  }
}

// Rows [begin, end) of grad_weight: the slices' sums, added in their order.
template <typename scalar_t>
static void linear_bwd_weight_rows(const LinearWeightArgs<scalar_t>& a, int64_t begin, int64_t end,
                                   acc_of<scalar_t>* sums) {
  using acc_t = acc_of<scalar_t>;
  const int64_t in = padded<acc_t>(a.in), slices = linear_slices(a);
  for (int64_t row = begin; row < end; ++row) {
    acc_t* const total = sums + row * in;
    for (int64_t slice = 1; slice < slices; ++slice)
      for (int64_t k = 0; k < in; k += kLanes<acc_t>)
        store(total + k, load(total + k) + load(sums + (slice * a.out + row) * in + k));
    unpack_rows(total, acc_t(1), 1, a.in, a.grad_weight + row * a.in, a.in);
  }
}

}  // namespace advkern::ADVKERN_ISA
