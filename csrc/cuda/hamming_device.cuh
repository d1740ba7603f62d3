// Packed codes on the GPU: their words, which rows count, and how results are ordered.
#pragma once

#include "device.cuh"

namespace hashfast {

constexpr unsigned kFullWarp = ~0u;

__host__ __device__ constexpr int64_t parts(int64_t all, int64_t each) {
  return (all + each - 1) / each;
}

template <class Number>
__device__ __forceinline__ Number warp_sum(Number value) {
  for (int step = 16; step; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

// Distance and row in one number, which orders as they do.
using Key = unsigned long long;
constexpr int kRowBits = 40;
constexpr Key kNoKey = ~Key{0};
__host__ __device__ constexpr Key make_key(int distance, int64_t row) {
  return static_cast<Key>(distance) << kRowBits | static_cast<Key>(row);
}
__host__ __device__ constexpr int key_distance(Key key) {
  return static_cast<int>(key >> kRowBits);
}
__host__ __device__ constexpr int64_t key_row(Key key) {
  return static_cast<int64_t>(key & ((Key{1} << kRowBits) - 1));
}

constexpr int kPaddingDistance = 2147483647;

struct PackedCodes {
  const uint8_t* data;
  int64_t rows;
  int bytes;
  bool in_words;  // every row starts at a whole word

  PackedCodes(const uint8_t* first, int64_t n, int width)
      : data(first),
        rows(n),
        bytes(width),
        in_words(width % 4 == 0 && reinterpret_cast<uintptr_t>(first) % 4 == 0) {}
  __host__ __device__ int words() const { return (bytes + 3) / 4; }
  __host__ __device__ int bits() const { return 8 * bytes; }

  // Word w of a row; bytes beyond a code are 0. kInWords says what in_words does.
  template <bool kInWords>
  __device__ __forceinline__ uint32_t word(int64_t row, int w) const {
    const uint8_t* const code = data + row * bytes;
    if (kInWords) return __ldg(reinterpret_cast<const uint32_t*>(code) + w);
    uint32_t word = 0;
    for (int i = 0; i < 4 && 4 * w + i < bytes; ++i)
      word |= uint32_t{__ldg(code + 4 * w + i)} << 8 * i;
    return word;
  }
  __device__ __forceinline__ uint32_t word(int64_t row, int w) const {
    return in_words ? word<true>(row, w) : word<false>(row, w);
  }

  // The bits of word w that belong to a code.
  __device__ __forceinline__ uint32_t word_mask(int w) const {
    const int held = bytes - 4 * w;
    return held >= 4 ? ~0u : held <= 0 ? 0u : (1u << 8 * held) - 1;
  }
};

// Whether a bitmap (null: all) lets a row through.
__device__ __forceinline__ bool is_allowed(const uint8_t* allowed, int64_t row) {
  return !allowed || (__ldg(allowed + row / 8) >> (7 - row % 8) & 1);
}

}  // namespace hashfast
