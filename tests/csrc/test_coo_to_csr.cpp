// SPDX-License-Identifier: MIT
// The counting sort, in one slice and in several, against std::stable_sort.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "coo_to_csr/coo_to_csr_cpu.h"

namespace {

struct Sorted {
  bool valid = true;
  std::vector<int64_t> rowptr, perm;
  std::vector<int32_t> col;
};

template <typename index_t>
Sorted sort_in_slices(const std::vector<index_t>& row, const std::vector<index_t>& col, int64_t nodes, int64_t slices) {
  Sorted out{true, std::vector<int64_t>(size_t(nodes) + 1, -1), std::vector<int64_t>(row.size(), -1),
             std::vector<int32_t>(row.size(), -1)};
  advkern::CooToCsr<index_t, int32_t> sort(row.data(), col.data(), nodes, int64_t(row.size()), slices);
  for (int64_t s = slices - 1; s >= 0; --s) out.valid &= sort.count(s);  // the order of the slices must not matter
  if (!out.valid) return out;
  sort.make_offsets(out.rowptr.data());
  for (int64_t s = slices - 1; s >= 0; --s) sort.scatter(s, out.col.data(), out.perm.data());
  return out;
}

template <typename index_t>
int check_random(int64_t nodes, size_t edges, std::mt19937& random) {
  std::vector<index_t> row(edges), col(edges);
  for (auto* ids : {&row, &col})
    for (auto& id : *ids) id = index_t(random() % uint64_t(nodes) / 2 * 2);  // every second row stays empty
  std::vector<int64_t> perm(edges);
  std::iota(perm.begin(), perm.end(), 0);
  std::stable_sort(perm.begin(), perm.end(), [&](int64_t a, int64_t b) { return row[size_t(a)] < row[size_t(b)]; });

  int failures = 0;
  for (int64_t slices : {1, 2, 3, 7}) {
    const Sorted sorted = sort_in_slices(row, col, nodes, slices);
    bool same = sorted.valid && sorted.perm == perm;
    for (size_t k = 0; k < edges && same; ++k) same = sorted.col[k] == col[size_t(perm[k])];
    for (int64_t i = 0; i <= nodes && same; ++i)
      same = sorted.rowptr[size_t(i)] == std::count_if(row.begin(), row.end(), [&](index_t r) { return r < i; });
    if (same) continue;
    std::printf("%d nodes, %d edges, %d slices: wrong\n", int(nodes), int(edges), int(slices));
    ++failures;
  }
  return failures;
}

int check_bad_ids_are_noticed() {
  int failures = 0;
  for (int64_t bad : {-1, 3})
    for (int place : {0, 1}) {
      std::vector<int64_t> row{0, 1, 2}, col{2, 1, 0};
      (place ? row : col)[1] = bad;
      if (!sort_in_slices(row, col, 3, 2).valid) continue;
      std::printf("id %d was not noticed\n", int(bad));
      ++failures;
    }
  return failures;
}

}  // namespace

int main() {
  std::mt19937 random(0);
  int failures = check_bad_ids_are_noticed();
  for (int64_t nodes : {1, 2, 40})
    for (size_t edges : {0, 1, 2, 5, 300})
      failures += check_random<int32_t>(nodes, edges, random) + check_random<int64_t>(nodes, edges, random);
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
