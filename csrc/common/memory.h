// SPDX-License-Identifier: MIT
// Huge pages for fresh outputs, and scratch of a thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace advkern {

constexpr int64_t kHugePage = 2 << 20;

// Asks for huge pages for a fresh output: page faults of 4 KiB cost more than the aggregation itself.
inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: may fail
#else
  (void)data, (void)bytes;
#endif
}

constexpr size_t kScratchAlignment = 64;

// Memory of one thread for the time of a call.
template <typename acc_t>
class ThreadScratch {
 public:
  explicit ThreadScratch(int64_t count)
      : data_(static_cast<acc_t*>(::operator new(size_t(count) * sizeof(acc_t), std::align_val_t(kScratchAlignment)))) {
  }
  ~ThreadScratch() { ::operator delete(data_, std::align_val_t(kScratchAlignment)); }
  ThreadScratch(const ThreadScratch&) = delete;
  ThreadScratch& operator=(const ThreadScratch&) = delete;
  acc_t* data() const { return data_; }

 private:
  acc_t* data_;
};

}  // namespace advkern
