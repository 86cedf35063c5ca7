// SPDX-License-Identifier: MIT
// Matrix products whose tiles of rows and vectors of samples stand in registers.
// Included by rk4_cpu.h inside a namespace for each instruction set, hence no guard.

// Rows are packed by kRows, the rest by the powers of two below: what a tile broadcasts lies together.
ADVKERN_INLINE int64_t rows_of_tile(int64_t left) {
  int64_t rows = kRows;
  while (rows > left) rows /= 2;
  return rows;
}

template <typename acc_t>
static void rk4_pack(const acc_t* matrix, int64_t rows, int64_t depth, bool transposed, acc_t* packed) {
  const int64_t row_stride = transposed ? 1 : depth, stride = transposed ? rows : 1;
  for (int64_t row = 0; row < rows;) {
    const int64_t tile = rows_of_tile(rows - row);
    for (int64_t j = 0; j < depth; ++j)
      for (int64_t r = 0; r < tile; ++r)
        packed[row * depth + j * tile + r] = matrix[(row + r) * row_stride + j * stride];
    row += tile;
  }
}

// finish(r, sums) for kTile rows: sums[v] = sum_j a[r, j] x[j, v], a row's kWide vectors.
template <int kTile, int kWide, bool kPacked, typename acc_t, typename Finish>
ADVKERN_INLINE void product_tile(const acc_t* a, int64_t a_stride, const acc_t* x, int64_t x_stride, int64_t depth,
                                 const Finish& finish) {
  Vec<acc_t> sum[kTile][kWide];
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) sum[r][v] = Vec<acc_t>{};
  for (int64_t j = 0; j < depth; ++j) {
    Vec<acc_t> part[kWide];
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) part[v] = load(x + j * x_stride + v * kLanes<acc_t>);
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) {
      const acc_t factor = kPacked ? a[j * kTile + r] : a[r * a_stride + j];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) sum[r][v] += factor * part[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r) finish(r, sum[r]);
}

// The same for all rows.
template <int kWide, bool kPacked, typename acc_t, typename Finish>
ADVKERN_INLINE void product(const acc_t* a, int64_t a_stride, const acc_t* x, int64_t x_stride, int64_t rows,
                            int64_t depth, const Finish& finish) {
  for (int64_t row = 0; row < rows;) {
    const int64_t tile = rows_of_tile(rows - row);
    const acc_t* const part = a + row * a_stride;
    const auto finish_row = [&](int r, const Vec<acc_t>(&sums)[kWide])
                                __attribute__((always_inline)) { finish(row + r, sums); };
    if (tile == kRows) product_tile<kRows, kWide, kPacked>(part, a_stride, x, x_stride, depth, finish_row);
    if (kRows > 4 && tile == 4) product_tile<4, kWide, kPacked>(part, a_stride, x, x_stride, depth, finish_row);
    if (tile == 2) product_tile<2, kWide, kPacked>(part, a_stride, x, x_stride, depth, finish_row);
    if (tile == 1) product_tile<1, kWide, kPacked>(part, a_stride, x, x_stride, depth, finish_row);
    row += tile;
  }
}

template <typename acc_t>
ADVKERN_INLINE void add_to(acc_t* sums, Vec<acc_t> v) {
  store(sums, load(sums) + v);
}
