// binary_wasserstein with 512-bit vectors.
#include <cstdint>
#include <cstring>

#include "../cpu_level.h"
#include "binary_wasserstein_kernels.h"

#if HASHFAST_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(                                                           \
    __attribute__((target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#include "binary_wasserstein_columns.h"

namespace hashfast::avx512 {
namespace {

struct Simd {
  static constexpr int kBytes = 64;
  template <class Mask>
  static HASHFAST_INLINE bool any(Mask mask) {
    const auto bits = reinterpret_cast<__m512i>(mask);
    return _mm512_test_epi64_mask(bits, bits) != 0;
  }
  // Compilers expand the mask of a comparison to a vector first.
  template <class Keys>
  static HASHFAST_INLINE Keys count_below(Keys counts, Keys keys, Keys pivot) {
    const auto sum = reinterpret_cast<__m512i>(counts), a = reinterpret_cast<__m512i>(keys),
               b = reinterpret_cast<__m512i>(pivot);
    if constexpr (sizeof(keys[0]) == 4) {
      const __mmask16 below = _mm512_cmplt_epi32_mask(a, b);
      return reinterpret_cast<Keys>(_mm512_mask_add_epi32(sum, below, sum, _mm512_set1_epi32(1)));
    } else {
      const __mmask8 below = _mm512_cmplt_epi64_mask(a, b);
      return reinterpret_cast<Keys>(_mm512_mask_add_epi64(sum, below, sum, _mm512_set1_epi64(1)));
    }
  }
};

}  // namespace

constinit const WassersteinKernels wasserstein_kernels = wasserstein_kernels_of<Simd>();

}  // namespace hashfast::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
