// What kernels are written with: CUDA under nvcc, and the tests' emulator under any other compiler.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>
// `name` is the block's dynamic shared memory, bytes aligned for any vector.
#define HASHFAST_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "cuda_on_cpu.h"
#endif

namespace hashfast {

// Shared memory that a block asks for at most: every GPU gives it, beside static variables.
constexpr size_t kSharedMemory = 40 * 1024;

}  // namespace hashfast
