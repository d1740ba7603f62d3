// Copies from global to shared memory that pass by registers and caches of a processor.
#pragma once

#include "device.cuh"

#ifndef __CUDACC__
#include "async_copies.h"  // of the tests
#else
namespace hashfast {

// Starts to copy 16 bytes, of which those from `bytes` on become 0. Both addresses are aligned.
__device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(bytes)
               : "memory");
#endif
}

// Waits for the copies that this thread has started.
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace hashfast
#endif
