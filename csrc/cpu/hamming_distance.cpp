// XOR and popcount of packed codes, compiled once for each instruction set.
#include <cstring>

#include "cpu_level.h"
#include "hamming.h"

namespace hashfast {
namespace {

template <class Word>
HASHFAST_INLINE Word load(const uint8_t* p) {
  Word word;
  std::memcpy(&word, p, sizeof(Word));  // codes may be unaligned, in a memory-mapped file say
  return word;
}

// Bytes is the width when it is known at compile time, 0 otherwise.
template <int64_t Bytes>
HASHFAST_INLINE void distances(const uint8_t* query, const uint8_t* codes, int64_t n, int64_t bytes,
                               uint16_t* out) {
  const int64_t width = Bytes ? Bytes : bytes;
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t* code = codes + i * width;
    uint32_t distance = 0;
    int64_t at = 0;
    for (; at + 8 <= width; at += 8)
      distance += __builtin_popcountll(load<uint64_t>(query + at) ^ load<uint64_t>(code + at));
    if (at + 4 <= width) {
      distance += __builtin_popcount(load<uint32_t>(query + at) ^ load<uint32_t>(code + at));
      at += 4;
    }
    for (; at < width; ++at) distance += __builtin_popcount(query[at] ^ code[at]);
    out[i] = static_cast<uint16_t>(distance);
  }
}

template <int64_t Bytes>
void portable(const uint8_t* q, const uint8_t* c, int64_t n, int64_t b, uint16_t* out) {
  distances<Bytes>(q, c, n, b, out);
}

#if HASHFAST_X86
template <int64_t Bytes>
HASHFAST_TARGET_AVX2 void avx2(const uint8_t* q, const uint8_t* c, int64_t n, int64_t b,
                               uint16_t* out) {
  distances<Bytes>(q, c, n, b, out);
}

template <int64_t Bytes>
HASHFAST_TARGET_AVX512 void avx512(const uint8_t* q, const uint8_t* c, int64_t n, int64_t b,
                                   uint16_t* out) {
  distances<Bytes>(q, c, n, b, out);
}
#endif

template <int64_t Bytes>
DistanceKernel at_level() {
#if HASHFAST_X86
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512<Bytes>;
    case CpuLevel::avx2: return avx2<Bytes>;
    case CpuLevel::portable: break;
  }
#endif
  return portable<Bytes>;
}

}  // namespace

DistanceKernel distance_kernel(int64_t bytes) {
  switch (bytes) {
    case 2: return at_level<2>();
    case 4: return at_level<4>();
    case 8: return at_level<8>();
    case 16: return at_level<16>();
    case 32: return at_level<32>();
    case 64: return at_level<64>();
    default: return at_level<0>();
  }
}

}  // namespace hashfast
