// SPDX-License-Identifier: MIT
// Threads through torch's own pool, so that torch.set_num_threads rules and no second runtime appears.
#pragma once

#include <torch/csrc/stable/ops.h>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace advkern {

constexpr int64_t kGrainElements = 1 << 16;  // elements below which a second thread costs more than it saves

// True in a forked child: the pool's threads stayed in the parent, and waiting for them would never end.
inline bool in_forked_child = false;
#if defined(__unix__) || defined(__APPLE__)
inline const int fork_handler = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });  // at load
#endif

// Calls body(first, last) over parts of [begin, end), each of at least `grain`.
template <typename Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  if (in_forked_child) {
    if (begin < end) body(begin, end);
  } else {
    torch::stable::parallel_for(begin, end, grain, body);
  }
}

}  // namespace advkern
