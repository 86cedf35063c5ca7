// SPDX-License-Identifier: MIT
// Runs CUDA kernels on the CPU: csrc/common/launch.cuh includes this in place of the device under a host compiler.
// Blocks run one after another, a block's threads as fibers that change only where they meet: at a shuffle or a
// barrier. A launch fails, with a message in `emulator::message()`, where a device would hang or answer at random: a
// lane of the mask does not come, threads part at a barrier, an access leaves its array (see GuardedArray). Shared
// memory is NaN before each block, and threads and blocks run in three orders, so that a missing barrier shows.
#pragma once

#ifdef _FORTIFY_SOURCE
#error "compile with -U_FORTIFY_SOURCE: it forbids the jumps between stacks that fibers are made of"
#endif

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum class Order { forward, reverse, shuffled };

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kSharedLimit = 48 << 10;  // what a kernel gets without asking for more

// Memory between two pages that must not be touched: at the end of its pages, or at their start. The rest of the
// pages, and the array until it is filled, is NaN in every float type and -1 in every integer.
class GuardedBytes {
 public:
  GuardedBytes(size_t bytes, bool at_end) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), inner = (bytes / page + 1) * page;
    length_ = inner + 2 * page;
    pages_ = static_cast<char*>(mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (pages_ == MAP_FAILED || mprotect(pages_ + page, inner, PROT_READ | PROT_WRITE) != 0) std::abort();
    std::memset(pages_ + page, 0xff, inner);
    data_ = pages_ + page + (at_end ? inner - bytes : 0);
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  ~GuardedBytes() { munmap(pages_, length_); }

  char* data() const { return data_; }

 private:
  char *pages_, *data_;
  size_t length_;
};

template <typename T>
class GuardedArray {
 public:
  GuardedArray(size_t count, bool at_end) : bytes_(count * sizeof(T), at_end) {}
  GuardedArray(const T* values, size_t count, bool at_end) : GuardedArray(count, at_end) {
    if (count) std::memcpy(static_cast<void*>(data()), values, count * sizeof(T));
  }
  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }

 private:
  GuardedBytes bytes_;
};

struct Fiber {
  enum State { ready, waiting, finished };

  explicit Fiber(void (*entry)()) : stack(new char[kStackBytes]) {
    getcontext(&start);
    start.uc_stack.ss_sp = stack.get();
    start.uc_stack.ss_size = kStackBytes;
    makecontext(&start, entry, 0);
  }

  std::unique_ptr<char[]> stack;
  ucontext_t start;
  jmp_buf resume;
  bool started = false;

  State state = finished;
  std::string_view operation;  // where it waits, what it brought there, and what it takes away
  unsigned mask = 0;
  int source = 0;
  alignas(16) char value[16], result[16];
};

class Device {
 public:
  Order order = Order::forward;
  unsigned seed = 0;
  std::string message;

  // Runs `body` on every thread of the grid.
  cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    const bool possible = threads > 0 && threads <= 1024 && block.z <= 64 && shared_bytes <= kSharedLimit &&
                          grid.x > 0 && grid.x <= 0x7fffffffu && grid.y > 0 && grid.y <= 65535u && grid.z > 0 &&
                          grid.z <= 65535u;
    if (!possible) return cudaErrorInvalidConfiguration;
    gridDim = grid;
    blockDim = block;
    body_ = &body;
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>(&Device::fiber_main));
    threads_ = int(threads);
    const size_t rounded = (shared_bytes + 15) / 16 * 16;
    GuardedBytes shared(rounded, order != Order::reverse);
    shared_ = shared.data();
    random_.seed(seed);

    struct sigaction handler{}, previous_segv, previous_bus;
    handler.sa_sigaction = &Device::on_bad_access;
    handler.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &handler, &previous_segv);
    sigaction(SIGBUS, &handler, &previous_bus);
    error_ = cudaSuccess;
    if (_setjmp(failed_) == 0) {
      run_blocks(rounded);
    } else {
      fibers_.clear();  // they were left in the middle of a kernel
    }
    sigaction(SIGSEGV, &previous_segv, nullptr);
    sigaction(SIGBUS, &previous_bus, nullptr);
    return error_;
  }

  void* shared() const { return shared_; }

  // The current thread waits until every lane of `mask` has come to this operation, and gets the value of `source`.
  void meet(const char* operation, unsigned mask, int source, const void* value, size_t size, void* result) {
    Fiber& self = *fibers_[size_t(current_)];
    const int lane = current_ % kWarp, first = current_ - lane;
    if (!(mask >> lane & 1)) fail("the lane is not in its own mask");
    if (!(mask >> source & 1)) fail("it reads from lane " + std::to_string(source) + ", which is not in the mask");
    self.operation = operation;
    self.mask = mask;
    self.source = source;
    if (size) std::memcpy(self.value, value, size);
    self.state = Fiber::waiting;
    const bool may_be_last = ++waiting_[size_t(first / kWarp)] >= std::popcount(mask);
    if (!may_be_last || !release_if_all_came(first, self)) yield();
    if (size) std::memcpy(result, self.result, size);
  }

  void barrier() {
    Fiber& self = *fibers_[size_t(current_)];
    self.operation = "__syncthreads";
    self.mask = 0;
    self.state = Fiber::waiting;
    if (++at_barrier_ < threads_) return yield();
    at_barrier_ = 0;
    for (int t = 0; t < threads_; ++t) fibers_[size_t(t)]->state = Fiber::ready;
  }

 private:
  bool release_if_all_came(int first, const Fiber& self) {
    for (int lane = 0; lane < kWarp; ++lane) {
      if (!(self.mask >> lane & 1)) continue;
      if (first + lane >= threads_) return false;
      const Fiber& other = *fibers_[size_t(first + lane)];
      if (other.state != Fiber::waiting || other.operation != self.operation || other.mask != self.mask) return false;
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      if (!(self.mask >> lane & 1)) continue;
      Fiber& other = *fibers_[size_t(first + lane)];
      std::memcpy(other.result, fibers_[size_t(first + other.source)]->value, sizeof(other.result));
      other.state = Fiber::ready;
      --waiting_[size_t(first / kWarp)];
    }
    return true;
  }

  template <typename T>
  void put_in_order(std::vector<T>& ids) {
    std::iota(ids.begin(), ids.end(), T(0));
    if (order == Order::reverse) std::reverse(ids.begin(), ids.end());
    if (order == Order::shuffled) std::shuffle(ids.begin(), ids.end(), random_);
  }

  void run_blocks(size_t shared_bytes) {
    std::vector<int64_t> blocks(size_t(gridDim.x) * gridDim.y * gridDim.z);
    put_in_order(blocks);
    for (const int64_t block : blocks) {
      blockIdx = dim3(unsigned(block % gridDim.x), unsigned(block / gridDim.x % gridDim.y),
                      unsigned(block / gridDim.x / gridDim.y));
      std::memset(shared_, 0xff, shared_bytes);
      run_threads();
    }
  }

  void run_threads() {
    for (int t = 0; t < threads_; ++t) fibers_[size_t(t)]->state = Fiber::ready;
    waiting_.fill(0);
    at_barrier_ = 0;
    std::vector<int> ids(static_cast<size_t>(threads_));
    for (bool moved = true; moved;) {
      moved = false;
      put_in_order(ids);
      for (const int t : ids) {
        if (fibers_[size_t(t)]->state != Fiber::ready) continue;
        moved = true;
        resume(t);
      }
    }
    for (current_ = 0; current_ < threads_; ++current_)
      if (fibers_[size_t(current_)]->state == Fiber::waiting)
        fail("waits for ever at " + std::string(fibers_[size_t(current_)]->operation) +
             ": other threads have exited or wait elsewhere");
  }

  void resume(int thread) {
    current_ = thread;
    threadIdx = dim3(unsigned(thread) % blockDim.x, unsigned(thread) / blockDim.x % blockDim.y,
                     unsigned(thread) / blockDim.x / blockDim.y);
    Fiber& fiber = *fibers_[size_t(thread)];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.start);
  }

  void yield() {
    Fiber& self = *fibers_[size_t(current_)];
    if (_setjmp(self.resume) == 0) _longjmp(scheduler_, 1);
  }

  static void fiber_main();
  static void on_bad_access(int, siginfo_t* info, void*);

  void finish_thread() {
    Fiber& self = *fibers_[size_t(current_)];
    self.state = Fiber::finished;
    const int lane = current_ % kWarp, first = current_ - lane;
    for (int t = first; t < std::min(first + kWarp, threads_); ++t) {
      const Fiber& other = *fibers_[size_t(t)];
      if (other.state == Fiber::waiting && (other.mask >> lane & 1))
        fail("it exits while lane " + std::to_string(t - first) + " waits for it at " + std::string(other.operation));
    }
    yield();
  }

  [[noreturn]] void fail(const std::string& what, cudaError_t error = cudaErrorLaunchFailure) {
    message = "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(current_) + ": " + what;
    error_ = error;
    _longjmp(failed_, 1);
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;  // of a block; they live on from launch to launch
  const std::function<void()>* body_ = nullptr;
  int threads_ = 0, current_ = 0;
  std::array<int, 1024 / kWarp> waiting_{};  // lanes of each warp that wait for others of it
  int at_barrier_ = 0;
  char* shared_ = nullptr;
  std::mt19937 random_;
  cudaError_t error_ = cudaSuccess;
  jmp_buf scheduler_, failed_;
};

inline Device device;

inline void Device::fiber_main() {
  for (;;) {
    (*device.body_)();
    device.finish_thread();
  }
}

inline void Device::on_bad_access(int, siginfo_t* info, void*) {
  char address[32];
  std::snprintf(address, sizeof(address), "%p", info->si_addr);
  device.fail(std::string("access outside of every array, at ") + address, cudaErrorIllegalAddress);
}

template <typename T>
T shuffle(const char* operation, unsigned mask, T value, int source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16, "a shuffle carries plain values");
  T result;
  device.meet(operation, mask, source, &value, sizeof(T), &result);
  return result;
}

inline int lane() { return int((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) % kWarp; }

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = emulator::kWarp) {
  const int lane = emulator::lane();
  return emulator::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = emulator::kWarp) {
  const int lane = emulator::lane(), source = lane ^ bits;
  return emulator::shuffle("__shfl_xor_sync", mask, value, source <= (lane | (width - 1)) ? source : lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, int delta, int width = emulator::kWarp) {
  const int lane = emulator::lane(), source = lane + delta;
  return emulator::shuffle("__shfl_down_sync", mask, value, source <= (lane | (width - 1)) ? source : lane);
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::device.meet("__syncwarp", mask, emulator::lane(), nullptr, 0, nullptr);
}

inline void __syncthreads() { emulator::device.barrier(); }

namespace advkern {

template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
                   const Args&... args) {
  return emulator::device.run(grid, block, shared_bytes, [&] { kernel(Params(args)...); });
}

template <typename T>
T* shared_memory() {
  return static_cast<T*>(emulator::device.shared());
}

}  // namespace advkern
