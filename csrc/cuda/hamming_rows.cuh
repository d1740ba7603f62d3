// Distances of packed codes: a database row a lane, to one query or several.
#pragma once

#include "hamming_device.cuh"

namespace hashfast::rows {

__device__ __forceinline__ int difference(uint8_t a, uint8_t b) { return __popc(a ^ b); }
__device__ __forceinline__ int difference(uint32_t a, uint32_t b) { return __popc(a ^ b); }
__device__ __forceinline__ int difference(uint2 a, uint2 b) {
  return __popc(a.x ^ b.x) + __popc(a.y ^ b.y);
}
__device__ __forceinline__ int difference(uint4 a, uint4 b) {
  return __popc(a.x ^ b.x) + __popc(a.y ^ b.y) + __popc(a.z ^ b.z) + __popc(a.w ^ b.w);
}

// Codes are read in words of one type; Whole: a code is a single word.
template <class Type, bool Whole>
struct Format {
  using Word = Type;
  static constexpr bool kWhole = Whole;
};

// Calls call(Format) with the widest words that the addresses and the width of the codes allow.
template <class Call>
void with_format(const uint8_t* queries, const uint8_t* database, int bytes, const Call& call) {
  const uintptr_t all = reinterpret_cast<uintptr_t>(queries) |
                        reinterpret_cast<uintptr_t>(database) | static_cast<uintptr_t>(bytes);
  if (all % 16 == 0) {
    bytes == 16 ? call(Format<uint4, true>{}) : call(Format<uint4, false>{});
  } else if (all % 8 == 0 && bytes == 8) {
    call(Format<uint2, true>{});
  } else if (all % 4 == 0) {
    bytes == 4 ? call(Format<uint32_t, true>{}) : call(Format<uint32_t, false>{});
  } else {
    call(Format<uint8_t, false>{});
  }
}

// The codes of Queries queries from `first` on; the last one stands in for those beyond it.
template <class Format, int Queries>
class QueryCodes {
  using Word = typename Format::Word;

 public:
  __device__ QueryCodes(const uint8_t* queries, int64_t first, int64_t q, int bytes)
      : words_(bytes / static_cast<int>(sizeof(Word))) {
#pragma unroll
    for (int j = 0; j < Queries; ++j) {
      codes_[j] = reinterpret_cast<const Word*>(queries + min(first + j, q - 1) * bytes);
      if constexpr (Format::kWhole) whole_[j] = *codes_[j];
    }
  }

  __device__ __forceinline__ void distances(const uint8_t* __restrict__ row,
                                            int (&out)[Queries]) const {
    const Word* const words = reinterpret_cast<const Word*>(row);
    if constexpr (Format::kWhole) {
      const Word word = *words;
#pragma unroll
      for (int j = 0; j < Queries; ++j) out[j] = difference(whole_[j], word);
    } else {
#pragma unroll
      for (int j = 0; j < Queries; ++j) out[j] = 0;
#pragma unroll 2
      for (int i = 0; i < words_; ++i) {
        const Word word = words[i];
#pragma unroll
        for (int j = 0; j < Queries; ++j) out[j] += difference(codes_[j][i], word);
      }
    }
  }

 private:
  const Word* codes_[Queries];
  Word whole_[Queries];
  int words_;
};

}  // namespace hashfast::rows
