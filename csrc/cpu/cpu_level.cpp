#include "cpu_level.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace hashfast {
namespace {

CpuLevel detected() {
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

CpuLevel chosen() {
  const char* wanted = std::getenv("HASHFAST_CPU");
  const std::string name = wanted ? wanted : "avx512";
  if (name == "portable") return CpuLevel::portable;
  if (name == "avx2") return std::min(detected(), CpuLevel::avx2);
  STD_TORCH_CHECK(name == "avx512", "HASHFAST_CPU is '", name,
                  "'; expected portable, avx2 or avx512");
  return detected();
}

int64_t cpu_level_op() { return static_cast<int64_t>(cpu_level()); }

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = chosen();
  return level;
}

STABLE_TORCH_LIBRARY_IMPL(hashfast, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&cpu_level_op));
}

}  // namespace hashfast
