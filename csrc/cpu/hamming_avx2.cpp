// The Hamming scan with 256-bit vectors.
#include <cstdint>
#include <cstring>

#include "../cpu_level.h"
#include "hamming_kernels.h"

#if HASHFAST_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
#include "hamming_plain.h"

namespace hashfast::avx2 {
namespace {

struct Simd : PlainSimd<uint64_t __attribute__((vector_size(32)))> {
  static HASHFAST_INLINE bool any(V a) {
    return !_mm256_testz_si256(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(a));
  }
};

bool is_faster(int64_t, int64_t queries, double) { return queries <= 4; }

void arrange(const Block&, int64_t) {}

}  // namespace

constinit const HammingKernels hamming_kernels = Slices<Simd>::kernels(
    {is_faster, arrange, scan_scalar<Simd, Find<Simd>>, scan_scalar<Simd, Count>});

}  // namespace hashfast::avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
