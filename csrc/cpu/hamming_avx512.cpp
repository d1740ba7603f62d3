// The Hamming scan with 512-bit vectors: three-input logic for the adders, and for few queries the
// vector popcount on the codes as they lie.
#include <cstdint>
#include <cstring>

#include "../cpu_level.h"
#include "hamming_kernels.h"

#if HASHFAST_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(                                                                                                  \
    __attribute__((target(                                                                                                     \
        "avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512bitalg,avx512vbmi,gfni,avx512vbmi2"))), \
    apply_to = function)
#else
#pragma GCC push_options
// What intrinsics leave undefined on purpose, GCC 12 warns of.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target( \
    "avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512bitalg,avx512vbmi,gfni,avx512vbmi2")
#endif
#include "hamming_direct.h"

namespace hashfast::avx512 {
namespace {

constexpr int majority_table(int pattern) {
  int table = 0;
  for (int i = 0; i < 8; ++i) {
    const int in = i ^ pattern;
    if ((in >> 2 & 1) + (in >> 1 & 1) + (in & 1) >= 2) table |= 1 << i;
  }
  return table;
}

// Between eight vectors of eight words: row i's word j becomes row j's word i.
HASHFAST_INLINE void transpose_words(__m512i* rows) {
  __m512i a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_epi64(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi64(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[i] = _mm512_shuffle_i64x2(a[i], a[2 + i], 0x88);
    b[2 + i] = _mm512_shuffle_i64x2(a[i], a[2 + i], 0xDD);
    b[4 + i] = _mm512_shuffle_i64x2(a[4 + i], a[6 + i], 0x88);
    b[6 + i] = _mm512_shuffle_i64x2(a[4 + i], a[6 + i], 0xDD);
  }
  for (int i = 0; i < 2; ++i) {
    rows[i] = _mm512_shuffle_i64x2(b[i], b[4 + i], 0x88);
    rows[4 + i] = _mm512_shuffle_i64x2(b[i], b[4 + i], 0xDD);
    rows[2 + i] = _mm512_shuffle_i64x2(b[2 + i], b[6 + i], 0x88);
    rows[6 + i] = _mm512_shuffle_i64x2(b[2 + i], b[6 + i], 0xDD);
  }
}

// One 64-bit word of eight consecutive codes, zero-extended.
HASHFAST_INLINE __m512i words_of_rows(const uint8_t* codes, int64_t bytes, int64_t word) {
  const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  switch (bytes) {
    case 1: return _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    case 2: return _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    case 4:
      return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    case 8: return _mm512_loadu_si512(codes);
    case 16: {
      const __m512i pick =
          _mm512_add_epi64(_mm512_add_epi64(lanes, lanes), _mm512_set1_epi64(word));
      return _mm512_permutex2var_epi64(_mm512_loadu_si512(codes), pick,
                                       _mm512_loadu_si512(codes + 64));
    }
    case 32: {
      const __m512i pick =
          _mm512_add_epi64(_mm512_set_epi64(12, 8, 4, 0, 12, 8, 4, 0), _mm512_set1_epi64(word));
      const __m512i low = _mm512_permutex2var_epi64(_mm512_loadu_si512(codes), pick,
                                                    _mm512_loadu_si512(codes + 64));
      const __m512i high = _mm512_permutex2var_epi64(_mm512_loadu_si512(codes + 128), pick,
                                                     _mm512_loadu_si512(codes + 192));
      return _mm512_mask_blend_epi64(0xF0, low, high);
    }
    default: break;
  }
  alignas(64) uint64_t words[8];
  const uint8_t* const from = codes + 8 * word;
  for (int64_t i = 0; i < 8; ++i) words[i] = load_word(from + i * bytes, bytes - 8 * word);
  return _mm512_load_si512(words);
}

struct Simd {
  using V = __m512i;
  static constexpr bool kPopcount = true;
  static HASHFAST_INLINE V xor3(V a, V b, V c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
  static HASHFAST_INLINE V majority(V a, V b, V c) {
    return _mm512_ternarylogic_epi64(a, b, c, majority_table(0));
  }
  template <int Pattern>
  static HASHFAST_INLINE V majority_of(V a, V b, V c) {
    return _mm512_ternarylogic_epi64(a, b, c, majority_table(Pattern));
  }
  static HASHFAST_INLINE bool any(V a) { return _mm512_test_epi64_mask(a, a) != 0; }
  static HASHFAST_INLINE V add_popcounts(V sum, V a, V b, V c, V d) {
    const V low =
        _mm512_add_epi64(_mm512_popcnt_epi64(a), _mm512_slli_epi64(_mm512_popcnt_epi64(b), 16));
    const V high =
        _mm512_add_epi64(_mm512_popcnt_epi64(c), _mm512_slli_epi64(_mm512_popcnt_epi64(d), 16));
    return _mm512_add_epi64(_mm512_add_epi64(sum, low), _mm512_slli_epi64(high, 32));
  }

  // Without a branch for each bit or word: they would be mispredicted.
  static HASHFAST_INLINE int64_t rows_of(V a, uint16_t* out) {
    alignas(64) uint64_t words[8];
    _mm512_store_si512(words, a);
    V rows = _mm512_cvtepu8_epi16(_mm256_set_epi64x(0x1F1E1D1C1B1A1918, 0x1716151413121110,
                                                    0x0F0E0D0C0B0A0908, 0x0706050403020100));
    const V next = _mm512_set1_epi16(32);
    int64_t n = 0;
    for (int half = 0; half < 16; ++half) {
      const auto mask = static_cast<__mmask32>(words[half / 2] >> (32 * (half % 2)));
      _mm512_storeu_si512(out + n, _mm512_maskz_compress_epi16(mask, rows));
      n += __builtin_popcount(mask);
      rows = _mm512_add_epi16(rows, next);
    }
    return n;
  }

  // 512 codes: bits within 8 x 8 blocks by affine maps, then bytes and words by permutations.
  static void planes(const uint8_t* codes, int64_t bytes, int64_t word, V* out) {
    alignas(64) static constexpr auto kBytes = [] {
      struct {
        uint8_t plain[64], reversed[64];
      } order{};
      for (int column = 0; column < 8; ++column)
        for (int row = 0; row < 8; ++row) {
          order.plain[8 * column + row] = static_cast<uint8_t>(8 * row + column);
          order.reversed[8 * column + row] = static_cast<uint8_t>(8 * (7 - row) + column);
        }
      return order;
    }();
    const V plain = _mm512_load_si512(kBytes.plain), reversed = _mm512_load_si512(kBytes.reversed);
    const V identity = _mm512_set1_epi64(0x8040201008040201);
    V rows[64];
    for (int group = 0; group < 64; group += 8) {
      V* const eight = rows + group;
      for (int i = 0; i < 8; ++i) {
        // The affine map numbers the rows of its matrix from the top.
        const V columns = _mm512_permutexvar_epi8(
            reversed, words_of_rows(codes + 8 * (group + i) * bytes, bytes, word));
        eight[i] = _mm512_gf2p8affine_epi64_epi8(identity, columns, 0);
      }
      transpose_words(eight);
      for (int i = 0; i < 8; ++i) eight[i] = _mm512_permutexvar_epi8(plain, eight[i]);
    }
    for (int column = 0; column < 8; ++column) {
      V* const eight = out + 8 * column;
      for (int i = 0; i < 8; ++i) eight[i] = rows[8 * i + column];
      transpose_words(eight);
    }
  }
};

using V = Simd::V;

// --- few queries, or wide codes: popcounts of the codes as they lie -----------------------------

// Lanes of a word of Bytes each: 2, 4 or 8.
template <int64_t Bytes>
struct Lanes;

template <>
struct Lanes<2> {
  using Mask = __mmask32;
  static HASHFAST_INLINE V broadcast(const uint64_t* word) {
    return _mm512_set1_epi16(static_cast<int16_t>(*word));
  }
  static HASHFAST_INLINE V number(int64_t x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
  static HASHFAST_INLINE V popcount(V a) { return _mm512_popcnt_epi16(a); }
  static HASHFAST_INLINE V least(V a, V b) { return _mm512_min_epi16(a, b); }
  static HASHFAST_INLINE Mask within(V a, V b) { return _mm512_cmple_epi16_mask(a, b); }
};

template <>
struct Lanes<4> {
  using Mask = __mmask16;
  static HASHFAST_INLINE V broadcast(const uint64_t* word) {
    return _mm512_set1_epi32(static_cast<int32_t>(*word));
  }
  static HASHFAST_INLINE V number(int64_t x) { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
  static HASHFAST_INLINE V popcount(V a) { return _mm512_popcnt_epi32(a); }
  static HASHFAST_INLINE V least(V a, V b) { return _mm512_min_epi32(a, b); }
  static HASHFAST_INLINE Mask within(V a, V b) { return _mm512_cmple_epi32_mask(a, b); }
};

template <>
struct Lanes<8> {
  using Mask = __mmask8;
  static HASHFAST_INLINE V broadcast(const uint64_t* word) {
    return _mm512_set1_epi64(static_cast<int64_t>(*word));
  }
  static HASHFAST_INLINE V number(int64_t x) { return _mm512_set1_epi64(x); }
  static HASHFAST_INLINE V popcount(V a) { return _mm512_popcnt_epi64(a); }
  // Distances fit 32 bits, whose minimum is the cheaper one.
  static HASHFAST_INLINE V least(V a, V b) { return _mm512_min_epi32(a, b); }
  static HASHFAST_INLINE Mask within(V a, V b) { return _mm512_cmple_epi64_mask(a, b); }
};

using Sliced = Slices<Simd>;

// The words of eight consecutive codes, one vector for each word.
template <int64_t Words>
HASHFAST_INLINE void words_of_codes(const uint8_t* codes, V* out) {
  for (int64_t i = 0; i < Words; ++i) out[i] = _mm512_loadu_si512(codes + 64 * i);
  if constexpr (Words == 2) {
    const V low = _mm512_unpacklo_epi64(out[0], out[1]),
            high = _mm512_unpackhi_epi64(out[0], out[1]);
    const V order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    out[0] = _mm512_permutexvar_epi64(order, low);
    out[1] = _mm512_permutexvar_epi64(order, high);
  } else if constexpr (Words == 4) {
    const V first = _mm512_set_epi64(13, 9, 5, 1, 12, 8, 4, 0);
    const V second = _mm512_set_epi64(15, 11, 7, 3, 14, 10, 6, 2);
    const V a = _mm512_permutex2var_epi64(out[0], first, out[1]);
    const V b = _mm512_permutex2var_epi64(out[0], second, out[1]);
    const V c = _mm512_permutex2var_epi64(out[2], first, out[3]);
    const V d = _mm512_permutex2var_epi64(out[2], second, out[3]);
    out[0] = _mm512_shuffle_i64x2(a, c, 0x44);
    out[1] = _mm512_shuffle_i64x2(a, c, 0xEE);
    out[2] = _mm512_shuffle_i64x2(b, d, 0x44);
    out[3] = _mm512_shuffle_i64x2(b, d, 0xEE);
  } else if constexpr (Words == 8) {
    transpose_words(out);
  }
}

// Words of 64 bits, 0 if their number is not known at compile time, in lanes of Bytes. InPlace says
// that the codes are read as they lie, and not as arrange left them.
template <int64_t Bytes, int64_t Words, bool InPlace, class Action>
struct Direct {
  using L = Lanes<Bytes>;
  static constexpr int64_t kRows = 64 / Bytes;           // a vector
  static constexpr int64_t kSteps = kGroupRows / kRows;  // vectors of a group, for each word

  template <int64_t Queries>
  static HASHFAST_INLINE void distances(const uint8_t* rows, const uint64_t* const* code,
                                        int64_t words, V* sums) {
    if constexpr (InPlace) {
      V of_words[Words];
      words_of_codes<Words>(rows, of_words);
      for (int64_t q = 0; q < Queries; ++q) {
        sums[q] = L::popcount(of_words[0] ^ L::broadcast(code[q]));
        for (int64_t word = 1; word < Words; ++word)
          sums[q] =
              _mm512_add_epi64(sums[q], L::popcount(of_words[word] ^ L::broadcast(code[q] + word)));
      }
    } else {
      const V* of_words = reinterpret_cast<const V*>(rows);
      for (int64_t q = 0; q < Queries; ++q)
        sums[q] = L::popcount(of_words[0] ^ L::broadcast(code[q]));
      for (int64_t word = 1; word < words; ++word)
        for (int64_t q = 0; q < Queries; ++q)
          sums[q] =
              _mm512_add_epi64(sums[q], L::popcount(of_words[word] ^ L::broadcast(code[q] + word)));
    }
  }

  static __attribute__((noinline)) void add_hits(const Block& block, Search& search,
                                                 const uint8_t* rows, int64_t first,
                                                 int64_t words) {
    const uint64_t* const code = search.words;
    const V threshold = L::number(search.threshold);
    typename L::Mask masks[kSteps];
    for (int64_t step = 0; step < kSteps; ++step, rows += 64 * words) {
      V found;
      distances<1>(rows, &code, words, &found);
      masks[step] = L::within(found, threshold);
    }
    uint64_t hits;
    static_assert(sizeof(masks) == sizeof(hits));
    std::memcpy(&hits, masks, sizeof(hits));
    add_group<Action, InPlace ? Bytes * Words : 0>(block, search, first, hits);
  }

  template <int64_t Queries>
  static HASHFAST_INLINE void scan(const Block& block, Search* searches, const uint8_t* upcoming) {
    const int64_t words = Words ? Words : Sliced::words_of(block.bytes);
    const auto* rows = InPlace ? block.codes : reinterpret_cast<const uint8_t*>(block.tables);
    V threshold[Queries];
    const uint64_t* code[Queries];
    for (int64_t q = 0; q < Queries; ++q) {
      threshold[q] = L::number(searches[q].threshold);
      code[q] = searches[q].words;
    }
    for (int64_t first = 0; first < Sliced::kLanes;
         first += kGroupRows, rows += 64 * kSteps * words) {
      V near[Queries];
      distances<Queries>(rows, code, words, near);
      for (int64_t step = 1; step < kSteps; ++step) {
        V found[Queries];
        distances<Queries>(rows + 64 * step * words, code, words, found);
        for (int64_t q = 0; q < Queries; ++q) near[q] = L::least(near[q], found[q]);
      }
      if (upcoming)
        for (int64_t byte = 0; byte < kGroupRows * block.bytes; byte += 64)
          __builtin_prefetch(upcoming + first * block.bytes + byte);
      uint64_t any = 0;
      for (int64_t q = 0; q < Queries; ++q) any |= L::within(near[q], threshold[q]);
      if (any) [[unlikely]]
        for (int64_t q = 0; q < Queries; ++q)
          if (L::within(near[q], threshold[q])) {
            add_hits(block, searches[q], rows, first, words);
            threshold[q] = L::number(searches[q].threshold);
          }
    }
  }

  static void run(const Block& block, Search* searches, int64_t n) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) scan<4>(block, searches + i, i ? nullptr : block.upcoming);
    for (; i < n; ++i) scan<1>(block, searches + i, i ? nullptr : block.upcoming);
  }
};

// Codes are arranged, the words of eight rows in eight lanes, when it pays for so many queries.
bool in_place(int64_t bytes, int64_t queries) {
  if (bytes == 2 || bytes == 4 || bytes == 8) return true;
  if (bytes == 16 || bytes == 32 || bytes == 64) return queries <= 4;
  return bytes > 8 && queries <= 2;
}

template <int64_t Words>
void arrange_words(const Block& block) {
  auto* out = reinterpret_cast<V*>(block.tables);
  for (int64_t first = 0; first < Sliced::kLanes; first += 8, out += Words)
    words_of_codes<Words>(block.codes + first * 8 * Words, out);
}

void arrange(const Block& block, int64_t queries) {
  if (in_place(block.bytes, queries)) return;
  switch (block.bytes) {
    case 16: return arrange_words<2>(block);
    case 32: return arrange_words<4>(block);
    case 64: return arrange_words<8>(block);
    default: break;
  }
  auto* out = reinterpret_cast<V*>(block.tables);
  for (int64_t first = 0; first < Sliced::kLanes; first += 8)
    for (int64_t word = 0; word < Sliced::words_of(block.bytes); ++word)
      *out++ = words_of_rows(block.codes + first * block.bytes, block.bytes, word);
}

template <class Action>
void direct(const Block& block, Search* searches, int64_t n) {
  const bool as_is = in_place(block.bytes, n);
  switch (block.bytes) {
    case 2: return Direct<2, 1, true, Action>::run(block, searches, n);
    case 4: return Direct<4, 1, true, Action>::run(block, searches, n);
    case 8: return Direct<8, 1, true, Action>::run(block, searches, n);
    case 16:
      return as_is ? Direct<8, 2, true, Action>::run(block, searches, n)
                   : Direct<8, 2, false, Action>::run(block, searches, n);
    case 32:
      return as_is ? Direct<8, 4, true, Action>::run(block, searches, n)
                   : Direct<8, 4, false, Action>::run(block, searches, n);
    case 64:
      return as_is ? Direct<8, 8, true, Action>::run(block, searches, n)
                   : Direct<8, 8, false, Action>::run(block, searches, n);
    default:
      return as_is ? scan_scalar<Simd, Action>(block, searches, n)
                   : Direct<8, 0, false, Action>::run(block, searches, n);
  }
}

// Tables pay for themselves when many queries read them, and not at all beyond the cache; but where
// hits are frequent they are found faster by tables.
bool prefers_direct(int64_t bytes, int64_t queries, double hits) {
  return bytes > 8 || queries < 16 || (queries <= 64 && hits < 0.5);
}

}  // namespace

constinit const HammingKernels hamming_kernels =
    Sliced::kernels({prefers_direct, arrange, direct<Find<Simd>>, direct<Count>});

}  // namespace hashfast::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
