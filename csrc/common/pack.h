// SPDX-License-Identifier: MIT
// Moves the rows of a tensor into float32 or float64 vectors that start and end whole, as they are or transposed, and
// back. Included inside a kernel's ISA namespace after common/tile.h, hence no guard.

template <typename acc_t>
constexpr int64_t kPanel = kTileVecs * kLanes<acc_t>;  // keys of a panel of a transposed matrix

template <typename acc_t>
ADVKERN_INLINE int64_t padded(int64_t count) {
  return (count + kLanes<acc_t> - 1) / kLanes<acc_t> * kLanes<acc_t>;
}

template <typename acc_t>
static void clear(acc_t* begin, acc_t* end) {  // whole vectors
  for (; begin < end; begin += kLanes<acc_t>) store(begin, Vec<acc_t>{});
}

// Rows [0, rows) of `from`, times `factor`, at `to`: zeros fill each to whole vectors.
template <typename scalar_t, typename acc_t>
static void pack_rows(const scalar_t* from, int64_t stride, int64_t rows, int64_t dim, acc_t factor, acc_t* to) {
  constexpr int lanes = kLanes<acc_t>;
  for (int64_t row = 0; row < rows; ++row, from += stride)
    for (int64_t d = 0; d < dim; d += lanes, to += lanes)
      store(to, factor * (dim - d >= lanes ? load(from + d) : load_part(from + d, dim - d)));
}

// The inverse: rows of whole vectors at `from`, times `factor`, into rows of a tensor.
template <typename scalar_t, typename acc_t>
static void unpack_rows(const acc_t* from, acc_t factor, int64_t rows, int64_t dim, scalar_t* to, int64_t stride) {
  constexpr int lanes = kLanes<acc_t>;
  for (int64_t row = 0; row < rows; ++row, to += stride)
    for (int64_t d = 0; d < dim; d += lanes, from += lanes) store_part(to + d, factor * load(from), dim - d);
}

// Step `kStep` of a transposition by halves: swaps the off-diagonal blocks of kStep lanes of two rows.
template <int kStep, typename acc_t>
ADVKERN_INLINE void swap_blocks(Vec<acc_t>& upper, Vec<acc_t>& lower) {
  constexpr int lanes = kLanes<acc_t>;
  const Vec<acc_t> a = upper, b = lower;
#if defined(__clang__)
  for (int k = 0; k < lanes; ++k) {
    upper[k] = k & kStep ? b[k ^ kStep] : a[k];
    lower[k] = k & kStep ? b[k] : a[k ^ kStep];
  }
#else
  using mask_t = decltype(a < b);
  mask_t first, second;
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) {
    first[k] = k & kStep ? lanes + (k ^ kStep) : k;
    second[k] = k & kStep ? lanes + k : k ^ kStep;
  }
  upper = __builtin_shuffle(a, b, first);
  lower = __builtin_shuffle(a, b, second);
#endif
}

template <int kStep, typename acc_t>
ADVKERN_INLINE void transpose(Vec<acc_t>* rows) {
  if constexpr (kStep > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<acc_t>; ++i)
      if (!(i & kStep)) swap_blocks<kStep, acc_t>(rows[i], rows[i + kStep]);
    transpose<kStep / 2, acc_t>(rows);
  }
}

// All rows of a head at `to`, with rows of zeros up to a whole vector of keys.
template <typename scalar_t, typename acc_t>
static void pack_head(const scalar_t* from, int64_t stride, int64_t length, int64_t dim, acc_t* to) {
  pack_rows(from, stride, length, dim, acc_t(1), to);
  clear(to + length * padded<acc_t>(dim), to + padded<acc_t>(length) * padded<acc_t>(dim));
}

// The same, transposed, in panels [dim][kPanel keys] of which the last may be narrower.
template <typename scalar_t, typename acc_t>
static void pack_transposed(const scalar_t* from, int64_t stride, int64_t length, int64_t dim, acc_t* to) {
  constexpr int lanes = kLanes<acc_t>;
  const int64_t keys = padded<acc_t>(length);
  for (int64_t first = 0; first < keys; first += lanes) {
    const int64_t panel = first / kPanel<acc_t> * kPanel<acc_t>;
    const int64_t width = keys - panel < kPanel<acc_t> ? keys - panel : kPanel<acc_t>;
    for (int64_t d = 0; d < dim; d += lanes) {
      Vec<acc_t> block[lanes];
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) {
        const scalar_t* const source = from + (first + r) * stride + d;
        block[r] = first + r >= length ? Vec<acc_t>{} : dim - d >= lanes ? load(source) : load_part(source, dim - d);
      }
      transpose<lanes / 2, acc_t>(block);
      acc_t* const target = to + panel * dim + d * width + (first - panel);
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r)
        if (r < dim - d) store(target + r * width, block[r]);
    }
  }
}
