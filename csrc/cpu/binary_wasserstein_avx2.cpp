// binary_wasserstein with 256-bit vectors.
#include <cstdint>
#include <cstring>

#include "../cpu_level.h"
#include "binary_wasserstein_kernels.h"

#if HASHFAST_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
#include "binary_wasserstein_columns.h"

namespace hashfast::avx2 {
namespace {

struct Simd {
  static constexpr int kBytes = 32;
  template <class Mask>
  static HASHFAST_INLINE bool any(Mask mask) {
    const auto bits = reinterpret_cast<__m256i>(mask);
    return !_mm256_testz_si256(bits, bits);
  }
  template <class Keys>
  static HASHFAST_INLINE Keys count_below(Keys counts, Keys keys, Keys pivot) {
    return counts - (keys < pivot);
  }
};

}  // namespace

constinit const WassersteinKernels wasserstein_kernels = wasserstein_kernels_of<Simd>();

}  // namespace hashfast::avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
