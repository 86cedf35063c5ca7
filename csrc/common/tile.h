// SPDX-License-Identifier: MIT
// A small dense product in registers. Included inside a kernel's ISA namespace after common/vec.h, hence no guard.

constexpr int kTileRows = 6;                                   // rows of a tile, and below its vectors: as many sums
constexpr int kTileVecs = ADVKERN_VECTOR_BYTES == 64 ? 4 : 2;  // as fit in 32 or 16 registers, beside b and one a

// c[row, :] = init[row, :] + sum_step a(row, step) b[step, :], each matrix by its strides. init may be c, or have a
// row stride of 0; it is added last, so that a product in parts rounds less than one long sum. Columns come in whole
// vectors; every row has the same sequence of roundings wherever it stands.
template <typename acc_t>
struct Product {
  const acc_t* a;
  int64_t a_row, a_step;
  const acc_t* b;
  int64_t b_step;
  const acc_t* init;
  int64_t init_row;
  acc_t* c;
  int64_t c_row;
  int64_t steps;
};

template <int kRows, int kVecs, typename acc_t>
static void product_tile(const Product<acc_t>& p, int64_t row, int64_t column) {
  constexpr int lanes = kLanes<acc_t>;
  Vec<acc_t> sum[kRows][kVecs]{};
  const acc_t* a = p.a + row * p.a_row;
  const acc_t* b = p.b + column;
  const int64_t a_row = p.a_row;
  for (int64_t step = 0; step < p.steps; ++step, a += p.a_step, b += p.b_step) {
    Vec<acc_t> line[kVecs];
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) line[k] = load(b + k * lanes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const acc_t factor = a[r * a_row];
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) sum[r][k] += factor * line[k];
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k)
      store(p.c + (row + r) * p.c_row + column + k * lanes,
            load(p.init + (row + r) * p.init_row + column + k * lanes) + sum[r][k]);
}

// The tile of min(rows, kRows) rows and min(vecs, kVecs) vectors.
template <int kRows, int kVecs, typename acc_t>
ADVKERN_INLINE void product_part(const Product<acc_t>& p, int64_t row, int64_t rows, int64_t column, int64_t vecs) {
  if constexpr (kRows > 1)
    if (rows < kRows) return product_part<kRows - 1, kVecs>(p, row, rows, column, vecs);
  if constexpr (kVecs > 1)
    if (vecs < kVecs) return product_part<kRows, kVecs - 1>(p, row, rows, column, vecs);
  product_tile<kRows, kVecs>(p, row, column);
}

// All of c: `rows` rows of `vecs` vectors.
template <typename acc_t>
static void product(const Product<acc_t>& p, int64_t rows, int64_t vecs) {
  for (int64_t k = 0; k < vecs; k += kTileVecs)
    for (int64_t row = 0; row < rows; row += kTileRows)
      product_part<kTileRows, kTileVecs>(p, row, rows - row, k * kLanes<acc_t>, vecs - k);
}
