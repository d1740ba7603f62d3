// Codes of 32 and 64 bits are compared a vector of them at a time.
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
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(                                                                \
    __attribute__((                                                                          \
        target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")
#endif
#include "probe.h"

namespace hashfast::index::avx512 {
namespace {

struct Words32 {
  using Mask = __mmask16;
  static constexpr int64_t kLanes = 16;
  static __m512i all(uint64_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
  // Lanes of the mask within the limit.
  static HASHFAST_INLINE Mask within(const uint8_t* codes, Mask mask, __m512i query,
                                     __m512i limit) {
    const __m512i apart = _mm512_xor_si512(_mm512_maskz_loadu_epi32(mask, codes), query);
    return _mm512_mask_cmple_epi32_mask(mask, _mm512_popcnt_epi32(apart), limit);
  }
};

struct Words64 {
  using Mask = __mmask8;
  static constexpr int64_t kLanes = 8;
  static __m512i all(uint64_t value) { return _mm512_set1_epi64(static_cast<int64_t>(value)); }
  static HASHFAST_INLINE Mask within(const uint8_t* codes, Mask mask, __m512i query,
                                     __m512i limit) {
    const __m512i apart = _mm512_xor_si512(_mm512_maskz_loadu_epi64(mask, codes), query);
    return _mm512_mask_cmple_epi64_mask(mask, _mm512_popcnt_epi64(apart), limit);
  }
};

template <class Words, int64_t Bytes, class Hits, class Found>
HASHFAST_INLINE void scan_words(const uint8_t* codes, int64_t n, const uint8_t* query,
                                const Hits& hits, Found&& found) {
  const __m512i wanted = Words::all(load_word(query, Bytes));
  __m512i limit = Words::all(hits.threshold());
  for (int64_t first = 0; first < n; first += Words::kLanes) {
    const int64_t left = n - first;
    const auto mask =
        static_cast<typename Words::Mask>(left < Words::kLanes ? (1 << left) - 1 : -1);
    uint32_t lanes = Words::within(codes + first * Bytes, mask, wanted, limit);
    if (!lanes) [[likely]]
      continue;
    for (; lanes; lanes &= lanes - 1) {
      const int64_t i = first + __builtin_ctz(lanes);
      const int64_t apart = distance<Bytes>(codes + i * Bytes, query, Bytes);
      if (apart <= hits.threshold()) found(i, apart);
    }
    limit = Words::all(hits.threshold());
  }
}

struct Simd {
  template <int64_t Bytes, class Hits, class Found>
  static HASHFAST_INLINE void scan(const uint8_t* codes, int64_t n, const uint8_t* query,
                                   int64_t bytes, const Hits& hits, Found&& found) {
    if constexpr (Bytes == 4)
      scan_words<Words32, Bytes>(codes, n, query, hits, found);
    else if constexpr (Bytes == 8)
      scan_words<Words64, Bytes>(codes, n, query, hits, found);
    else
      Plain::scan<Bytes>(codes, n, query, bytes, hits, found);
  }
};

}  // namespace

const Probes probes{probe<Simd, Nearest>, probe<Simd, Within>};

}  // namespace hashfast::index::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
