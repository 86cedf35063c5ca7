// SPDX-License-Identifier: MIT
// The emulator sees what is wrong with a kernel: each kernel below has one planted fault, and its repaired twin none.
#include <cstdio>
#include <cstring>

#include "common/launch.cuh"
#include "common/warp.cuh"

namespace {

using advkern::kAllLanes;
using emulator::device;
using emulator::GuardedArray;
using emulator::Order;

constexpr int kThreads = 64;
int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("%s (last message: %s)\n", what, device.message.c_str());
  ++failures;
}

template <typename... Params, typename... Args>
cudaError_t run(void (*kernel)(Params...), Order order, Args... args) {
  device.order = order;
  device.message.clear();
  return advkern::launch(kernel, dim3(2), dim3(kThreads), sizeof(float) * kThreads, nullptr, args...);
}

// Whether the launch fails in every order, with `words` in the message.
template <typename... Params, typename... Args>
bool fails_with(const char* words, void (*kernel)(Params...), Args... args) {
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled})
    if (run(kernel, order, args...) == cudaSuccess || device.message.find(words) == std::string::npos) return false;
  return true;
}

__global__ void mask_names_a_lane_that_never_comes(float* out) {
  if (threadIdx.x % 32 < 16) out[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

__global__ void lane_is_not_in_its_mask(float* out) {
  const float value = __shfl_xor_sync(0x0000ffffu, 1.0f, 1);
  if (threadIdx.x == 0) out[0] = value;
}

__global__ void source_is_not_in_the_mask(float* out) {
  if (threadIdx.x % 32 < 16) out[0] = __shfl_xor_sync(0x0000ffffu, 1.0f, 16);
}

__global__ void lanes_are_at_different_shuffles(float* out) {
  out[0] = threadIdx.x % 2 ? __shfl_xor_sync(kAllLanes, 1.0f, 1) : __shfl_sync(kAllLanes, 1.0f, 0);
}

__global__ void some_threads_skip_the_barrier(float* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[0] = 1;
}

__global__ void warps_part_at_the_barrier(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    out[0] = __shfl_sync(kAllLanes, 1.0f, 0);
  }
}

template <bool kBarrier>
__global__ void reverse_a_block(const float* in, float* out) {
  float* const shared = advkern::shared_memory<float>();
  const int t = int(threadIdx.x), base = int(blockIdx.x) * kThreads;
  shared[t] = in[base + t];
  if (kBarrier) __syncthreads();
  out[base + t] = shared[kThreads - 1 - t];
}

template <int kShift>
__global__ void read_at(const float* in, float* out) {
  const int t = int(blockIdx.x) * kThreads + int(threadIdx.x);
  out[t] = in[t + kShift];
}

__global__ void shared_memory_overrun(float* out) { out[0] = advkern::shared_memory<float>()[threadIdx.x + 1]; }

__global__ void warp_total(float* out) {
  const float total = advkern::sum_over_lanes(float(threadIdx.x % 32), 1, 32);
  out[blockIdx.x * kThreads + threadIdx.x] = total + advkern::broadcast(float(threadIdx.x), 5);
}

bool reversal_is_right(bool barrier, Order order) {
  std::vector<float> values(2 * kThreads);
  for (size_t k = 0; k < values.size(); ++k) values[k] = float(k);
  GuardedArray<float> in(values.data(), values.size(), true), out(values.size(), true);
  run(barrier ? reverse_a_block<true> : reverse_a_block<false>, order, in.data(), out.data());
  for (int k = 0; k < 2 * kThreads; ++k)
    if (out.data()[k] != values[size_t(k / kThreads * kThreads + kThreads - 1 - k % kThreads)]) return false;
  return true;
}

}  // namespace

int main() {
  GuardedArray<float> out(2 * kThreads, true), at_end(2 * kThreads, true), at_start(2 * kThreads, false);
  float* const o = out.data();

  expect(fails_with("__shfl_xor_sync", mask_names_a_lane_that_never_comes, o), "a lane that never comes");
  expect(fails_with("not in its own mask", lane_is_not_in_its_mask, o), "a lane that is not in its own mask");
  expect(fails_with("not in the mask", source_is_not_in_the_mask, o), "a source that is not in the mask");
  expect(fails_with("waits for ever", lanes_are_at_different_shuffles, o), "lanes at different shuffles");
  expect(fails_with("waits for ever at __syncthreads", some_threads_skip_the_barrier, o), "a skipped barrier");
  expect(fails_with("waits for ever at __syncthreads", warps_part_at_the_barrier, o), "warps that part at a barrier");

  for (const Order order : {Order::forward, Order::reverse, Order::shuffled}) {
    expect(reversal_is_right(true, order), "a kernel with its barrier is right");
    expect(!reversal_is_right(false, order), "a missing barrier shows");
    run(read_at<0>, order, at_end.data(), o);
    expect(device.message.empty(), "reads inside of the array");
    run(warp_total, order, o);
    expect(o[0] == 496 + 5 && o[2 * kThreads - 1] == 496 + 37, "warp sums and broadcasts");
  }

  expect(fails_with("outside of every array", read_at<1>, at_end.data(), o), "a read past the end");
  expect(fails_with("outside of every array", read_at<-1>, at_start.data(), o), "a read before the start");
  expect(run(shared_memory_overrun, Order::forward, o) == cudaErrorIllegalAddress, "a read past the shared memory");

  device.order = Order::forward;
  expect(
      advkern::launch(read_at<0>, dim3(1), dim3(2048), 0, nullptr, at_end.data(), o) == cudaErrorInvalidConfiguration,
      "a block of more threads than a device takes");
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
