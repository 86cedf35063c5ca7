// SPDX-License-Identifier: MIT
// The one way in which kernels are launched and get their shared memory. Under a host compiler the emulator of
// tests/csrc takes the place of the device, so that the same kernels run where there is no GPU.
#pragma once

#ifndef __CUDACC__
#include "emulator.h"
#else

#include <cuda_runtime.h>

namespace advkern {

template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Args... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

// The block's shared memory, of the size that `launch` was given.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

}  // namespace advkern

#endif
