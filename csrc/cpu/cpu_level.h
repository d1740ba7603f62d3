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
#else
#define HASHFAST_X86 0
#endif
#define HASHFAST_INLINE inline __attribute__((always_inline))
