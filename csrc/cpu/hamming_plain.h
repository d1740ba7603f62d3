// The vectors of hamming_slices.h in terms that every compiler maps to the vectors of its target.
#pragma once

#include "hamming_direct.h"

namespace hashfast {

// Planes of 64-bit words by the transpose of 64 x 64 bits, one matrix a lane (Warren, Hacker's
// Delight, 7-3).
template <class V>
void transpose_planes(const uint8_t* codes, int64_t bytes, int64_t word, V* planes) {
  constexpr int64_t kWords = sizeof(V) / 8;
  const int64_t offset = 8 * word, width = bytes - offset < 8 ? bytes - offset : 8;
  auto* out = reinterpret_cast<uint64_t*>(planes);
  for (int64_t lane = 0; lane < kWords; ++lane)
    for (int64_t i = 0; i < 64; ++i) {
      out[kWords * i + lane] = load_word(codes + (64 * lane + i) * bytes + offset, width);
    }
  uint64_t mask = 0xFFFFFFFFu;
  for (int step = 32; step; step >>= 1, mask ^= mask << step)
    for (int i = 0; i < 64; i = (i + step + 1) & ~step) {
      const V swap = ((planes[i] >> step) ^ planes[i + step]) & (V{} + mask);
      planes[i] ^= swap << step;
      planes[i + step] ^= swap;
    }
}

template <class Vector>
struct PlainSimd {
  using V = Vector;
  static constexpr bool kPopcount = false;

  static HASHFAST_INLINE V xor3(V a, V b, V c) { return a ^ b ^ c; }
  static HASHFAST_INLINE V majority(V a, V b, V c) { return (a & b) | ((a ^ b) & c); }
  template <int Pattern>
  static HASHFAST_INLINE V majority_of(V a, V b, V c) {
    return majority(Pattern & 4 ? ~a : a, Pattern & 2 ? ~b : b, Pattern & 1 ? ~c : c);
  }
  static HASHFAST_INLINE bool any(V a) {
    uint64_t bits = 0;
    for (int word = 0; word < kWords; ++word) bits |= a[word];
    return bits != 0;
  }
  static HASHFAST_INLINE int64_t rows_of(V a, uint16_t* out) {
    int64_t n = 0;
    for (int word = 0; word < kWords; ++word)
      for (uint64_t bits = a[word]; bits; bits &= bits - 1)
        out[n++] = static_cast<uint16_t>(64 * word + __builtin_ctzll(bits));
    return n;
  }
  static void planes(const uint8_t* codes, int64_t bytes, int64_t word, V* out) {
    transpose_planes(codes, bytes, word, out);
  }

 private:
  static constexpr int kWords = sizeof(V) / 8;
};

}  // namespace hashfast
