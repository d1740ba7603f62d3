// Launches kernels on the stream that PyTorch has chosen for a tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "device.cuh"

namespace hashfast {

class Launch {
 public:
  explicit Launch(const torch::stable::Tensor& tensor) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    STD_CUDA_CHECK(cudaGetDevice(&device_));
  }

  // Starts kernel(arguments...) by `threads` a block, with at most kSharedMemory bytes.
  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                  Arguments... arguments) const {
    kernel<<<grid, threads, shared, stream_>>>(static_cast<Parameters>(arguments)...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  void zero(void* data, size_t bytes) const {
    if (bytes == 0) return;
    STD_CUDA_CHECK(cudaMemsetAsync(data, 0, bytes, stream_));
  }

  int processors() const { return attribute(cudaDevAttrMultiProcessorCount); }

  // Whether tensor cores multiply single bits themselves (Ampere to Hopper; later ones emulate it).
  bool multiplies_bits() const {
    const int major = attribute(cudaDevAttrComputeCapabilityMajor);
    return major == 8 || major == 9;
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device_));
    return value;
  }

  cudaStream_t stream_ = nullptr;
  int device_ = 0;
};

}  // namespace hashfast
