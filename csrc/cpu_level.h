// Instruction sets are chosen at run time, so that one binary serves every x86-64 (and any other)
// CPU.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#define HASHFAST_X86 1
#else
#define HASHFAST_X86 0
#endif
#define HASHFAST_INLINE inline __attribute__((always_inline))

namespace hashfast {

enum class CpuLevel : int { portable = 0, avx2 = 1, avx512 = 2 };

inline CpuLevel best_cpu_level() {
#if HASHFAST_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
      __builtin_cpu_supports("gfni"))
    return CpuLevel::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("popcnt"))
    return CpuLevel::avx2;
#endif
  return CpuLevel::portable;
}

// The best level this CPU has, or a lower one named by HASHFAST_CPU=portable|avx2|avx512.
inline CpuLevel cpu_level() {
  static const CpuLevel level = [] {
    const char* wanted = std::getenv("HASHFAST_CPU");
    const std::string name = wanted ? wanted : "avx512";
    if (name == "portable") return CpuLevel::portable;
    if (name == "avx2") return std::min(best_cpu_level(), CpuLevel::avx2);
    if (name != "avx512")
      throw std::runtime_error("HASHFAST_CPU is '" + name + "'; expected portable, avx2 or avx512");
    return best_cpu_level();
  }();
  return level;
}

}  // namespace hashfast
