// With the popcount instruction, which CPUs with AVX2 have.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "../cpu_level.h"
#include "hits.h"
#include "multi_hash.h"

#if HASHFAST_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
#include "probe.h"

namespace hashfast::index::avx2 {
namespace {

struct Simd : Plain {};

}  // namespace

const Probes probes{probe<Simd, Nearest>, probe<Simd, Within>};

}  // namespace hashfast::index::avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
