// SPDX-License-Identifier: MIT
// y_(n+1) = y_n + h_n sum_i b_i k_i,  k_i = f(y_n + h_n sum_(j<i) a_ij k_j),  f(y) = W2 tanh(W1 y + b1) + b2.
// A block takes 32 samples, one a lane, through all steps; its warps share the rows of each product. Its states lie in
// its shared memory where they fit, else in scratch of its own, which the caches hold. Backward: from each checkpoint
// the steps are taken again with all stages kept, then the chain rule goes back through them.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>

#include "common/launch.cuh"
#include "common/types.h"
#include "common/warp.cuh"

namespace advkern {

constexpr int kRk4Stages = 4;
constexpr int kRk4Warps = 8;
constexpr int kRk4Threads = kRk4Warps * kWarpSize;
constexpr int kRk4Rows = 4;             // rows of a product that a thread takes at once
constexpr int64_t kRk4MaxBlocks = 512;  // each has sums of its own backward, added in order at the end
constexpr int64_t kRk4SharedBytes = 48 << 10;
constexpr int64_t kRk4DotElements = 1 << 14;  // of a block's partial sum

template <typename acc_t>
struct Rk4Problem {
  const acc_t *weight1, *bias1;  // [hidden, dim], [hidden]
  const acc_t *weight2, *bias2;  // [dim, hidden], [dim]
  const acc_t* h;                // [steps] or [steps, samples]
  const int64_t* save_at;        // [saves], ascending
  int64_t samples, dim, hidden, steps, saves, every;
  bool h_per_sample;
  int stages;
  acc_t tableau[kRk4Stages][kRk4Stages];  // row i: the k's in the (i+1)-th stage's state; the last: in y_(n+1)

  int64_t tiles() const { return (samples + kWarpSize - 1) / kWarpSize; }
  int64_t blocks() const { return tiles() < kRk4MaxBlocks ? tiles() : kRk4MaxBlocks; }
  __host__ __device__ int64_t state() const { return dim * kWarpSize; }
  __host__ __device__ int64_t wide() const { return hidden * kWarpSize; }
  int64_t forward_scratch() const { return (2 + kRk4Stages) * state() + wide(); }
  int64_t backward_scratch() const {
    return every * stages * (2 * state() + wide()) + wide() + (kRk4Stages + 2) * state() + kRk4Threads;
  }
  __host__ __device__ int64_t sums() const { return 2 * hidden * dim + hidden + dim + (h_per_sample ? 0 : steps); }
};

template <typename acc_t>
struct Rk4FwdArgs {
  Rk4Problem<acc_t> p;
  const acc_t* y;      // [samples, dim]
  acc_t* out;          // [saves, samples, dim]
  acc_t* checkpoints;  // [steps / every rounded up, samples, dim]
  acc_t* scratch;      // [blocks, forward_scratch], or null: shared memory
};

template <typename acc_t>
struct Rk4BwdArgs {
  Rk4Problem<acc_t> p;
  const acc_t* grad;         // [saves, samples, dim]
  const acc_t* checkpoints;  // as the forward left them
  acc_t* grad_y;             // [samples, dim]
  acc_t* grad_h;             // [steps, samples], or null where h is shared
  acc_t* scratch;            // [blocks, backward_scratch]
  acc_t* sums;               // [blocks, sums]: of W1, W2, b1, b2, h
  acc_t* grad_weights[5];    // of W1, W2, b1, b2 and, where it is shared, h
};

__device__ inline float tanh_of(float x) { return ::tanhf(x); }
__device__ inline double tanh_of(double x) { return ::tanh(x); }

// Samples [first, first + 32), one a lane; lanes beyond the last sample repeat it.
template <typename acc_t>
struct Rk4Tile {
  const Rk4Problem<acc_t>& p;
  int64_t first;
  int lane, warp;

  __device__ Rk4Tile(const Rk4Problem<acc_t>& p, int64_t tile)
      : p(p), first(tile * kWarpSize), lane(int(threadIdx.x) % kWarpSize), warp(int(threadIdx.x) / kWarpSize) {}

  __device__ bool inside() const { return first + lane < p.samples; }
  __device__ int64_t sample() const { return inside() ? first + lane : p.samples - 1; }
  __device__ acc_t h(int64_t n) const { return p.h_per_sample ? p.h[n * p.samples + sample()] : p.h[n]; }

  // Calls use(row) for the rows of a state that this thread owns.
  template <typename Use>
  __device__ void own_rows(const Use& use) const {
    for (int64_t d = warp; d < p.dim; d += kRk4Warps) use(d, d * kWarpSize + lane);
  }

  __device__ void load_state(const acc_t* rows, acc_t* y) const {
    own_rows([&](int64_t d, int64_t at) { y[at] = rows[sample() * p.dim + d]; });
  }

  __device__ void store_state(const acc_t* y, acc_t* rows) const {
    own_rows([&](int64_t d, int64_t at) {
      if (inside()) rows[sample() * p.dim + d] = y[at];
    });
  }

  __device__ void add_state(const acc_t* rows, acc_t* y) const {
    own_rows([&](int64_t d, int64_t at) {
      if (inside()) y[at] += rows[sample() * p.dim + d];
    });
  }

  // finish(row, at, sum_j w[row * row_stride + j * stride] x[j, lane]) for all rows, kRk4Rows of them at a time.
  template <typename Finish>
  __device__ void product(const acc_t* w, int64_t row_stride, int64_t stride, const acc_t* x, int64_t rows,
                          int64_t depth, const Finish& finish) const {
    for (int64_t row = int64_t(warp) * kRk4Rows; row < rows; row += kRk4Warps * kRk4Rows) {
      const acc_t* part[kRk4Rows];
      acc_t sum[kRk4Rows];
#pragma unroll
      for (int r = 0; r < kRk4Rows; ++r) {
        part[r] = w + (row + r < rows ? row + r : row) * row_stride;
        sum[r] = 0;
      }
#pragma unroll 2  // more spill, backward
      for (int64_t j = 0; j < depth; ++j) {
        const acc_t value = x[j * kWarpSize + lane];
#pragma unroll
        for (int r = 0; r < kRk4Rows; ++r) sum[r] += part[r][j * stride] * value;
      }
#pragma unroll
      for (int r = 0; r < kRk4Rows; ++r)
        if (row + r < rows) finish(row + r, (row + r) * kWarpSize + lane, sum[r]);
    }
  }

  // One step from y, which is the first stage's state; the others' are x + i * x_stride, and so for a and k.
  __device__ void take_step(const acc_t* y, acc_t* x, acc_t* a, acc_t* k, int64_t stride, int64_t a_stride,
                            int64_t k_stride, int64_t n, acc_t* next) const {
    const acc_t length = h(n);
#pragma unroll 1
    for (int i = 0; i < p.stages; ++i) {
      acc_t* const slope = k + i * k_stride;
      acc_t* const active = a + i * a_stride;
      __syncthreads();
      product(p.weight1, p.dim, 1, i ? x + i * stride : y, p.hidden, p.dim,
              [&](int64_t row, int64_t at, acc_t sum) { active[at] = tanh_of(sum + p.bias1[row]); });
      __syncthreads();
      product(p.weight2, p.hidden, 1, active, p.dim, p.hidden,
              [&](int64_t row, int64_t at, acc_t sum) { slope[at] = sum + p.bias2[row]; });
      __syncthreads();
      acc_t* const target = i + 1 < p.stages ? x + (i + 1) * stride : next;
      own_rows([&](int64_t, int64_t at) {
        acc_t sum = 0;
        for (int j = 0; j <= i; ++j) sum += p.tableau[i][j] * k[j * k_stride + at];
        target[at] = y[at] + length * sum;
      });
    }
  }
};

template <typename acc_t>
__global__ void __launch_bounds__(kRk4Threads) rk4_fwd_kernel(Rk4FwdArgs<acc_t> io) {
  const Rk4Problem<acc_t>& p = io.p;
  acc_t* const y =
      io.scratch ? io.scratch + blockIdx.x * ((2 + kRk4Stages) * p.state() + p.wide()) : shared_memory<acc_t>();
  acc_t *const x = y + p.state(), *const k = x + p.state(), *const a = k + kRk4Stages * p.state();
  const int64_t plane = p.samples * p.dim;
  for (int64_t tile = blockIdx.x; tile * kWarpSize < p.samples; tile += gridDim.x) {
    const Rk4Tile<acc_t> t(p, tile);
    t.load_state(io.y, y);
    for (int64_t n = 0, save = 0;; ++n) {
      for (; save < p.saves && p.save_at[save] == n; ++save) t.store_state(y, io.out + save * plane);
      if (n == p.steps) break;
      if (p.every && n % p.every == 0) t.store_state(y, io.checkpoints + n / p.every * plane);
      t.take_step(y, x, a, k, 0, 0, p.state(), n, y);
    }
    __syncthreads();
  }
}

template <typename acc_t>
struct Rk4Reverse {
  const Rk4BwdArgs<acc_t>& io;
  const Rk4Problem<acc_t>& p;
  Rk4Tile<acc_t> t;
  acc_t *segment, *grad_z, *grad_x, *lambda, *after, *reduced, *sums;
  int64_t stage;  // scalars of a stage: its x, k and a

  __device__ Rk4Reverse(const Rk4BwdArgs<acc_t>& io, int64_t tile, acc_t* scratch, acc_t* sums)
      : io(io), p(io.p), t(io.p, tile), sums(sums), stage(2 * io.p.state() + io.p.wide()) {
    grad_z = scratch;
    grad_x = grad_z + p.wide();
    lambda = grad_x + kRk4Stages * p.state();
    after = lambda + p.state();
    reduced = after + p.state();
    segment = reduced + kRk4Threads;
  }

  __device__ acc_t* stage_of(int64_t step, int i) const { return segment + (step * p.stages + i) * stage; }

  __device__ void run() const {
    const int64_t plane = p.samples * p.dim, state = p.state();
    t.own_rows([&](int64_t, int64_t at) { lambda[at] = 0; });
    int64_t save = p.saves;
    for (int64_t end = p.steps; end > 0;) {
      const int64_t begin = (end - 1) / p.every * p.every;
      t.load_state(io.checkpoints + begin / p.every * plane, stage_of(0, 0));
      for (int64_t n = begin; n < end; ++n) {
        acc_t* const x = stage_of(n - begin, 0);
        acc_t* const next = n + 1 < end ? stage_of(n + 1 - begin, 0) : after;
        t.take_step(x, x, x + 2 * state, x + state, stage, stage, stage, n, next);
      }
      for (int64_t n = end - 1; n >= begin; --n) {
        for (; save > 0 && p.save_at[save - 1] == n + 1; --save) t.add_state(io.grad + (save - 1) * plane, lambda);
        go_back(n - begin, n);
      }
      end = begin;
    }
    for (; save > 0; --save) t.add_state(io.grad + (save - 1) * plane, lambda);
    t.store_state(lambda, io.grad_y);
    __syncthreads();
  }

  // lambda, the gradient of y_(n+1), becomes that of y_n.
  __device__ void go_back(int64_t step, int64_t n) const {
    const int64_t state = p.state();
    const acc_t h = t.h(n);
    acc_t grad_h = 0;
#pragma unroll 1
    for (int i = p.stages - 1; i >= 0; --i) {
      acc_t *const x = stage_of(step, i), *const k = x + state, *const a = k + state;
      t.own_rows([&](int64_t, int64_t at) {
        acc_t grad = p.tableau[p.stages - 1][i] * lambda[at];
        for (int j = i + 1; j < p.stages; ++j) grad += p.tableau[j - 1][i] * grad_x[j * state + at];
        grad_h += grad * k[at];
        k[at] = h * grad;  // nothing needs k any more: here stands its gradient
      });
      __syncthreads();
      t.product(p.weight2, 1, p.hidden, k, p.hidden, p.dim,
                [&](int64_t, int64_t at, acc_t sum) { grad_z[at] = sum * (acc_t(1) - a[at] * a[at]); });
      __syncthreads();
      t.product(p.weight1, 1, p.dim, grad_z, p.dim, p.hidden,
                [&](int64_t, int64_t at, acc_t sum) { grad_x[i * state + at] = sum; });
      add_outer(grad_z, p.hidden, x, p.dim, sums);
      add_outer(k, p.dim, a, p.hidden, sums + p.hidden * p.dim);
      add_lanes(grad_z, p.hidden, sums + 2 * p.hidden * p.dim);
      add_lanes(k, p.dim, sums + 2 * p.hidden * p.dim + p.hidden);
      __syncthreads();
    }
    t.own_rows([&](int64_t, int64_t at) {
      for (int i = 0; i < p.stages; ++i) lambda[at] += grad_x[i * state + at];
    });
    reduced[threadIdx.x] = grad_h;
    __syncthreads();
    if (t.warp == 0) {
      for (int w = 1; w < kRk4Warps; ++w) grad_h += reduced[w * kWarpSize + t.lane];
      if (io.grad_h) {
        if (t.inside()) io.grad_h[n * p.samples + t.sample()] = grad_h;
      } else {
        const acc_t sum = sum_over_lanes(grad_h, 1, kWarpSize);
        if (t.lane == 0) sums[2 * p.hidden * p.dim + p.hidden + p.dim + n] += sum;
      }
    }
    __syncthreads();
  }

  // into[i, j] += sum over the lanes of left[i] right[j], a thread kRk4Rows by kRk4Rows of them.
  __device__ void add_outer(const acc_t* left, int64_t rows, const acc_t* right, int64_t columns, acc_t* into) const {
    constexpr int64_t kSide = kRk4Rows;
    const int64_t across = (columns + kSide - 1) / kSide, tiles = (rows + kSide - 1) / kSide * across;
    for (int64_t tile = threadIdx.x; tile < tiles; tile += kRk4Threads) {
      const int64_t i = tile / across * kSide, j = tile % across * kSide;
      acc_t sum[kSide][kSide] = {};
#pragma unroll 1  // all lanes at once would not fit the registers
      for (int l = 0; l < kWarpSize; ++l) {
        acc_t row[kSide], column[kSide];
#pragma unroll
        for (int r = 0; r < kSide; ++r) {
          row[r] = left[(i + r < rows ? i + r : i) * kWarpSize + l];
          column[r] = right[(j + r < columns ? j + r : j) * kWarpSize + l];
        }
#pragma unroll
        for (int r = 0; r < kSide; ++r)
#pragma unroll
          for (int c = 0; c < kSide; ++c) sum[r][c] += row[r] * column[c];
      }
#pragma unroll
      for (int r = 0; r < kSide; ++r)
#pragma unroll
        for (int c = 0; c < kSide; ++c)
          if (i + r < rows && j + c < columns) into[(i + r) * columns + j + c] += sum[r][c];
    }
  }

  __device__ void add_lanes(const acc_t* values, int64_t rows, acc_t* into) const {
    for (int64_t row = threadIdx.x; row < rows; row += kRk4Threads) {
      acc_t sum = 0;
#pragma unroll 4
      for (int l = 0; l < kWarpSize; ++l) sum += values[row * kWarpSize + l];
      into[row] += sum;
    }
  }
};

template <typename acc_t>
__global__ void __launch_bounds__(kRk4Threads, 1)  // all registers: no spills
    rk4_bwd_kernel(Rk4BwdArgs<acc_t> io, int64_t scratch_size) {
  acc_t* const sums = io.sums + blockIdx.x * io.p.sums();
  for (int64_t k = threadIdx.x; k < io.p.sums(); k += kRk4Threads) sums[k] = 0;
  __syncthreads();
  for (int64_t tile = blockIdx.x; tile * kWarpSize < io.p.samples; tile += gridDim.x)
    Rk4Reverse<acc_t>(io, tile, io.scratch + blockIdx.x * scratch_size, sums).run();
}

// total[k] = sums[b, k] of all blocks b, added in order.
template <typename acc_t>
__global__ void __launch_bounds__(kRk4Threads)
    rk4_sum_kernel(const acc_t* sums, int64_t blocks, int64_t stride, int64_t count, acc_t* total) {
  const int64_t k = int64_t(blockIdx.x) * kRk4Threads + threadIdx.x;
  if (k >= count) return;
  acc_t sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += sums[b * stride + k];
  total[k] = sum;
}

// -- the combinations of any function's stages ---------------------------------------------------------------------

template <typename scalar_t>
struct Rk4CombineArgs {
  const scalar_t* y;  // [count]; of the dot product the gradient
  const scalar_t* k[kRk4Stages];
  acc_of<scalar_t> factor[kRk4Stages];
  int64_t count;
  int terms;
};

template <typename scalar_t>
__device__ acc_of<scalar_t> combined(const Rk4CombineArgs<scalar_t>& a, int64_t i, acc_of<scalar_t> sum) {
#pragma unroll
  for (int j = 0; j < kRk4Stages; ++j)
    if (j < a.terms) sum += a.factor[j] * acc_of<scalar_t>(a.k[j][i]);
  return sum;
}

template <typename scalar_t>
__global__ void __launch_bounds__(kRk4Threads) rk4_combine_kernel(Rk4CombineArgs<scalar_t> a, scalar_t* out) {
  const int64_t i = int64_t(blockIdx.x) * kRk4Threads + threadIdx.x;
  if (i < a.count) out[i] = scalar_t(combined(a, i, acc_of<scalar_t>(a.y[i])));
}

// out[j] = factor_j y
template <typename scalar_t>
__global__ void __launch_bounds__(kRk4Threads) rk4_scale_kernel(Rk4CombineArgs<scalar_t> a, scalar_t* out) {
  const int64_t i = int64_t(blockIdx.x) * kRk4Threads + threadIdx.x;
  if (i >= a.count) return;
  const acc_of<scalar_t> y = acc_of<scalar_t>(a.y[i]);
#pragma unroll
  for (int j = 0; j < kRk4Stages; ++j)
    if (j < a.terms) out[j * a.count + i] = scalar_t(a.factor[j] * y);
}

// partial[block] = sum_i y_i sum_j factor_j k_j[i] over the block's elements.
template <typename scalar_t>
__global__ void __launch_bounds__(kRk4Threads) rk4_dot_kernel(Rk4CombineArgs<scalar_t> a, double* partial) {
  double* const warps = shared_memory<double>();  // [kRk4Warps]
  const int64_t begin = int64_t(blockIdx.x) * kRk4DotElements;
  const int64_t end = begin + kRk4DotElements < a.count ? begin + kRk4DotElements : a.count;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kRk4Threads)
    sum += double(acc_of<scalar_t>(a.y[i])) * double(combined(a, i, acc_of<scalar_t>(0)));
  sum = sum_over_lanes(sum, 1, kWarpSize);
  if (threadIdx.x % kWarpSize == 0) warps[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kRk4Warps; ++w) sum += warps[w];
  partial[blockIdx.x] = sum;
}

// -- launchers -------------------------------------------------------------------------------------------------------

template <typename Kernel, typename... Args>
cudaError_t launch_rk4(Kernel kernel, int64_t blocks, int64_t shared, cudaStream_t stream, const Args&... args) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  return launch(kernel, dim3(unsigned(blocks)), dim3(kRk4Threads), size_t(shared), stream, args...);
}

// Whether the forward's states fit a block's shared memory: then it needs no scratch.
template <typename acc_t>
bool rk4_fits_shared(const Rk4Problem<acc_t>& p) {
  return p.forward_scratch() * int64_t(sizeof(acc_t)) <= kRk4SharedBytes;
}

template <typename acc_t>
cudaError_t launch_rk4_fwd(const Rk4FwdArgs<acc_t>& io, cudaStream_t stream) {
  const int64_t shared = io.scratch ? 0 : io.p.forward_scratch() * int64_t(sizeof(acc_t));
  return launch_rk4(rk4_fwd_kernel<acc_t>, io.p.blocks(), shared, stream, io);
}

template <typename acc_t>
cudaError_t launch_rk4_bwd(const Rk4BwdArgs<acc_t>& io, cudaStream_t stream) {
  cudaError_t error = launch_rk4(rk4_bwd_kernel<acc_t>, io.p.blocks(), 0, stream, io, io.p.backward_scratch());
  const Rk4Problem<acc_t>& p = io.p;
  const int64_t counts[5] = {p.hidden * p.dim, p.hidden * p.dim, p.hidden, p.dim, p.h_per_sample ? 0 : p.steps};
  const acc_t* part = io.sums;
  for (int k = 0; k < 5 && error == cudaSuccess; part += counts[k++])
    error = launch_rk4(rk4_sum_kernel<acc_t>, (counts[k] + kRk4Threads - 1) / kRk4Threads, 0, stream, part, p.blocks(),
                       p.sums(), counts[k], io.grad_weights[k]);
  return error;
}

template <typename scalar_t>
cudaError_t launch_rk4_combine(const Rk4CombineArgs<scalar_t>& a, scalar_t* out, cudaStream_t stream) {
  return launch_rk4(rk4_combine_kernel<scalar_t>, (a.count + kRk4Threads - 1) / kRk4Threads, 0, stream, a, out);
}

template <typename scalar_t>
cudaError_t launch_rk4_scale(const Rk4CombineArgs<scalar_t>& a, scalar_t* out, cudaStream_t stream) {
  return launch_rk4(rk4_scale_kernel<scalar_t>, (a.count + kRk4Threads - 1) / kRk4Threads, 0, stream, a, out);
}

inline int64_t rk4_dot_blocks(int64_t count) { return (count + kRk4DotElements - 1) / kRk4DotElements; }

template <typename scalar_t>
cudaError_t launch_rk4_dot(const Rk4CombineArgs<scalar_t>& a, double* partial, double* total, cudaStream_t stream) {
  const int64_t blocks = rk4_dot_blocks(a.count);
  const cudaError_t error =
      launch_rk4(rk4_dot_kernel<scalar_t>, blocks, kRk4Warps * int64_t(sizeof(double)), stream, a, partial);
  if (error != cudaSuccess) return error;
  return launch_rk4(rk4_sum_kernel<double>, 1, 0, stream, static_cast<const double*>(partial), blocks, int64_t(1),
                    int64_t(1), total);
}

}  // namespace advkern
