// Packed codes, their distances and their substrings.
#pragma once

#include <cstdint>
#include <cstring>

#include "../cpu_level.h"

namespace hashfast::index {

// The `bytes` <= 8 bytes at `code` as a number, the first byte its lowest.
HASHFAST_INLINE uint64_t load_word(const uint8_t* code, int64_t bytes) {
  uint64_t word = 0;
  std::memcpy(&word, code, bytes);
  return word;
}

// Bits first .. first + width - 1 of a code, counted from the lowest of its first byte.
class Substring {
 public:
  // Of codes of so many bytes; width is at most 32.
  Substring(int64_t first, int64_t width, int64_t bytes)
      : width_(width), mask_((uint64_t{1} << width) - 1) {
    offset_ = bytes < 8 ? 0 : first / 8 < bytes - 8 ? first / 8 : bytes - 8;
    shift_ = first - 8 * offset_;
  }

  int64_t width() const { return width_; }

  // Bytes is 0 where it is not known at compile time.
  template <int64_t Bytes>
  HASHFAST_INLINE uint32_t of(const uint8_t* code, int64_t bytes) const {
    const int64_t size = Bytes ? Bytes : bytes;
    const uint64_t word = load_word(code + offset_, size < 8 ? size : 8);
    return static_cast<uint32_t>(word >> shift_ & mask_);
  }

 private:
  int64_t width_, offset_, shift_;
  uint64_t mask_;
};

template <int64_t Bytes>
HASHFAST_INLINE int64_t distance(const uint8_t* a, const uint8_t* b, int64_t bytes) {
  const int64_t size = Bytes ? Bytes : bytes;
  int64_t sum = 0, at = 0;
  for (; at + 8 <= size; at += 8)
    sum += __builtin_popcountll(load_word(a + at, 8) ^ load_word(b + at, 8));
  if (at < size)
    sum += __builtin_popcountll(load_word(a + at, size - at) ^ load_word(b + at, size - at));
  return sum;
}

// Calls f<Bytes>() with the width of codes where it is a usual one, else with 0.
template <class F>
HASHFAST_INLINE void for_width(int64_t bytes, F&& f) {
  switch (bytes) {
    case 4: return f.template operator()<4>();
    case 8: return f.template operator()<8>();
    case 16: return f.template operator()<16>();
    case 32: return f.template operator()<32>();
    default: return f.template operator()<0>();
  }
}

}  // namespace hashfast::index
