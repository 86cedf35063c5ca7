// SPDX-License-Identifier: MIT
// Rows of a CSR graph and of matrices. Included inside a kernel's ISA namespace, after common/vec.h, hence no guard.

constexpr int kAhead = 32;  // edges between a prefetch and its use; below ~24 it arrives too late
constexpr int kLineBytes = 64;
constexpr int kRead = 0, kWrite = 1, kSecondLevel = 2, kFirstLevel = 3;  // of a prefetch: for what, into which cache

// Edges of row i, or an empty range where rowptr cannot be trusted.
struct RowEdges {
  int64_t begin, end;
  bool valid;
};
ADVKERN_INLINE RowEdges row_edges(const int64_t* rowptr, int64_t row, int64_t num_edges) {
  const int64_t begin = rowptr[row], end = rowptr[row + 1];
  if (begin < 0 || begin > end || end > num_edges) return {0, 0, false};
  return {begin, end, true};
}

// What stands `ahead` edges after edge e, or at the last one.
template <typename index_t>
ADVKERN_INLINE uint64_t id_ahead(const index_t* ids, int64_t e, int64_t num_edges, int ahead = kAhead) {
  return uint64_t(ids[e + ahead < num_edges ? e + ahead : num_edges - 1]);
}

// An order in which to load the kCount vectors of a gathered row. Read from end to end, a row looks like a stream to
// the processor, which fetches what lies behind it, in vain. The step is the least above the half that has no divisor
// in common with kCount: of 2, 4 and 6 vectors it goes backwards from the first.
template <int kCount>
struct ScatteredOrder {
  int at[kCount] = {};

  constexpr ScatteredOrder() {
    int step = kCount / 2 + 1;
    while (common_divisor(step, kCount) > 1) ++step;
    for (int n = 0; n < kCount; ++n) at[n] = n * step % kCount;
  }
  static constexpr int common_divisor(int a, int b) { return b ? common_divisor(b, a % b) : a; }
};

// A full vector, unless that would read past the end of the whole matrix.
template <typename scalar_t>
ADVKERN_INLINE auto load_inside(const scalar_t* p, const scalar_t* limit) {
  return limit - p >= kLanes<acc_of<scalar_t>> ? load(p) : load_part(p, limit - p);
}

// Brings `bytes` from element `offset` of `base` into a cache, the line of the last one too where rows begin within
// lines. Gathers take the second level: the first waits for fewer lines at a time, and half as many then arrive in a
// second. The offset may come of a bad id (a prefetch of a wrong address is harmless), so the sum is taken in unsigned
// integers.
template <int kFor = kRead, int kInto = kSecondLevel, typename scalar_t>
ADVKERN_INLINE void prefetch(const scalar_t* base, uint64_t offset, int64_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(base) + offset * sizeof(scalar_t);
  for (int64_t line = 0; line < bytes; line += kLineBytes)
    __builtin_prefetch(reinterpret_cast<const char*>(address + uintptr_t(line)), kFor, kInto);
  if (address % kLineBytes)
    __builtin_prefetch(reinterpret_cast<const char*>(address + uintptr_t(bytes - 1)), kFor, kInto);
}
