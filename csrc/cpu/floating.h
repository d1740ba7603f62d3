// Types of floating-point entries, as numbers that arrays of kernels are indexed by.
#pragma once

#include <cstdint>

namespace hashfast {

enum Floating : int { kFloat64, kFloat32, kFloat16, kBFloat16, kFloatings };

constexpr int64_t bytes_of(Floating type) {
  return type == kFloat64 ? 8 : type == kFloat32 ? 4 : 2;
}
// What entries are computed with.
constexpr Floating accumulator(Floating type) { return type == kFloat64 ? kFloat64 : kFloat32; }

}  // namespace hashfast
