// Instruction sets are chosen at run time, so that one binary serves every x86-64 (and any other)
// CPU.
#pragma once

namespace hashfast {

enum class CpuLevel : int { portable = 0, avx2 = 1, avx512 = 2 };

// The best level this CPU has, or a lower one named by HASHFAST_CPU=portable|avx2|avx512.
CpuLevel cpu_level();

}  // namespace hashfast

#if defined(__x86_64__)
#define HASHFAST_X86 1
#define HASHFAST_AVX2 "avx2,bmi,bmi2,popcnt"
#define HASHFAST_AVX512                                                          \
  HASHFAST_AVX2                                                                  \
  ",avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512bitalg,avx512vbmi," \
  "avx512vbmi2,gfni"
#define HASHFAST_TARGET_AVX2 __attribute__((target(HASHFAST_AVX2)))
#define HASHFAST_TARGET_AVX512 __attribute__((target(HASHFAST_AVX512)))
#else
#define HASHFAST_X86 0
#endif
#define HASHFAST_INLINE inline __attribute__((always_inline))
