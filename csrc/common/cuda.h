// SPDX-License-Identifier: MIT
// What a CUDA glue file needs of torch and of the runtime: the device, its stream, and errors that say what to do.
#pragma once

#ifndef USE_CUDA
#define USE_CUDA  // torch's header then declares what its CUDA library has; include this file before its others
#endif

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "common/check.h"

namespace advkern {

// A kernel only to be asked whether this library has code for a device.
static __global__ void any_kernel() {}

#define ADVKERN_AS_TEXT(...) #__VA_ARGS__
#define ADVKERN_TEXT_OF(...) ADVKERN_AS_TEXT(__VA_ARGS__)
constexpr const char* kBuiltArchs = ADVKERN_TEXT_OF(__CUDA_ARCH_LIST__);  // 800,900,...

inline void check_cuda(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, "advkern: ", what, ": ", cudaGetErrorString(error));
}

// The device of `t` for as long as this lives, and its current stream.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t) : index_(t.get_device_index()), guard_(index_) { check_architecture(); }

  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  void check_architecture() const {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, any_kernel) == cudaSuccess) return;
    const cudaError_t error = cudaGetLastError();  // and forget it: it is reported here
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index_);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index_);
    STD_TORCH_CHECK(false, "advkern: no kernel for this device of compute capability ", major, ".", minor,
                    ": built for ", kBuiltArchs, " (", cudaGetErrorString(error),
                    "); name its architecture in TORCH_CUDA_ARCH_LIST and build again");
  }

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace advkern
