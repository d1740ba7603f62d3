// class_mmd with 256-bit vectors.
#include <cstdint>
#include <cstring>

#include "../cpu_level.h"
#include "class_mmd_kernels.h"

#if HASHFAST_X86

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
#include "class_mmd_rows.h"

namespace hashfast::avx2 {
constinit const ClassKernels class_kernels = class_kernels_of<32>();
}  // namespace hashfast::avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
