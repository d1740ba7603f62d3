// masked_contrastive with 512-bit vectors.
#include <cstdint>
#include <cstring>

#include "../cpu_level.h"
#include "masked_contrastive_kernels.h"

#if HASHFAST_X86

#ifdef __clang__
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#include "masked_contrastive_tiles.h"

namespace hashfast::avx512 {
constinit const ContrastKernels contrast_kernels = contrast_kernels_of<64, 4>();
}  // namespace hashfast::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
