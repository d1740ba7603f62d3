// Hamming distances by bit slicing, for the vectors of one instruction set.
//
// A block of codes is turned into bit planes: bit i of plane p is bit p of code i, so that one
// vector operation works on one bit of `lanes` codes. A query then adds up the planes of its
// differing bits with full adders (Harley and Seal), least significant plane first. Three planes
// x, y, z and three query bits have a sum x ^ y ^ z, up to complement the same for every query, and
// one of eight carries. The carries go into tables, built once a block and read by every query; the
// sums are again planes to be added three by three. What is left for each query are planes of
// weight 2 and above: half of the work.
//
// A threshold t becomes the constant 2^P - 1 - t, added as further planes: plane P of the sum is
// set where the distance is above t, and nothing else of the sum need be computed.
//
// Simd gives: V, xor3(a, b, c), majority(a, b, c), majority_of<Pattern> of inputs complemented
// where Pattern has a bit, any(a), rows_of(a, out), the set bits of a in order, planes(codes,
// bytes, word, out[64]), and, if kPopcount says so, add_popcounts(sum, a, b, c, d), which adds the
// number of ones in each 64-bit word of a to d to the 16-bit fields of sum, a's to the lowest.
#pragma once

#include <bit>
#include <cstring>

#include "../cpu_level.h"
#include "hamming_kernels.h"

namespace hashfast {

static_assert(std::endian::native == std::endian::little, "words are read as little-endian bytes");

template <int64_t Bytes>
HASHFAST_INLINE uint64_t load_word(const uint8_t* p) {
  uint64_t word = 0;
  std::memcpy(&word, p, Bytes);
  return word;
}

// The first 1 to 8 bytes of p. Not memcpy, which would be called for a number it does not know.
HASHFAST_INLINE uint64_t load_word(const uint8_t* p, int64_t bytes) {
  if (bytes >= 8) return load_word<8>(p);
  if (bytes >= 4) return load_word<4>(p) | load_word<4>(p + bytes - 4) << (8 * (bytes - 4));
  if (bytes >= 2) return load_word<2>(p) | load_word<2>(p + bytes - 2) << (8 * (bytes - 2));
  return *p;
}

template <class Simd>
struct Slices {
  using V = typename Simd::V;
  static constexpr int64_t kLanes = 8 * sizeof(V);
  static constexpr int64_t kVectorWords = sizeof(V) / 8;
  static constexpr int64_t kUnit = sizeof(V) / 8;  // selectors count in units of 8 bytes
  // Planes of the widest codes: 2^16 bits are more than kMaxCodeBytes allows.
  static constexpr int kMostPlanes = 16;

  // Planes of one 64-bit word of a code, N = 16, 32 or 64 of them in use. Adding three by three
  // until two are left takes N / 2 - 1 tables of 8 vectors; the two are tables of 2.
  static constexpr int64_t tables(int64_t n) { return n / 2 - 1; }
  static constexpr int64_t table_vectors(int64_t n) { return 8 * tables(n) + 4; }
  static constexpr int64_t selectors(int64_t n) { return tables(n) + 2; }
  static constexpr int64_t selector_words(int64_t n) { return (selectors(n) + 7) / 8; }
  static constexpr int log2_of(int64_t n) { return n == 16 ? 4 : n == 32 ? 5 : 6; }

  static int64_t planes_of(int64_t bytes) { return bytes <= 2 ? 16 : bytes <= 4 ? 32 : 64; }
  static int64_t words_of(int64_t bytes) { return (bytes + 7) / 8; }
  // Planes of a distance but for the last carry: 2^P >= 8 * bytes.
  static constexpr int planes_for(int64_t n, int64_t words) {
    int planes = log2_of(n);
    while ((int64_t{1} << planes) < n * words) ++planes;
    return planes;
  }
  static int count_planes(int64_t bytes) { return planes_for(planes_of(bytes), words_of(bytes)); }

  // A record: the threshold, then the selectors of each word's tables; those of the threshold's
  // planes follow the first word's. It is short, because a scan reads all records for each block.
  static constexpr int64_t kHeader = 1;
  static constexpr int64_t first_selector_words(int64_t n, int64_t planes) {
    return (selectors(n) + planes + 7) / 8;
  }
  static int64_t record_words(int64_t bytes) {
    const int64_t n = planes_of(bytes);
    return kHeader + first_selector_words(n, count_planes(bytes)) +
           (words_of(bytes) - 1) * selector_words(n);
  }
  static int64_t table_words(int64_t bytes) {
    const int64_t sliced = table_vectors(planes_of(bytes)) * kVectorWords;
    return words_of(bytes) * (sliced > kLanes ? sliced : kLanes);  // or the codes' words
  }

  // --- tables ------------------------------------------------------------------------------------

  template <int Pattern>
  static HASHFAST_INLINE void store_carries(V* table, V a, V b, V c) {
    table[Pattern] = Simd::template majority_of<Pattern>(a, b, c);
    if constexpr (Pattern < 7) store_carries<Pattern + 1>(table, a, b, c);
  }

  // Adds N items three by three, level by level, until two are left; triple(a, b, c) sees each
  // three in the order of the tables, and gives their sum.
  template <int64_t N, class Item, class Triple>
  static HASHFAST_INLINE void reduce(Item* items, const Triple& triple) {
    if constexpr (N > 2) {
#pragma GCC unroll 24
      for (int64_t i = 0; i < N / 3; ++i)
        items[i] = triple(items[3 * i], items[3 * i + 1], items[3 * i + 2]);
      for (int64_t i = 0; i < N % 3; ++i) items[N / 3 + i] = items[N - N % 3 + i];
      reduce<N / 3 + N % 3>(items, triple);
    }
  }

  template <int64_t N>
  static HASHFAST_INLINE void build(V* planes, V* out) {
    reduce<N>(planes, [&](V a, V b, V c) {
      store_carries<0>(out, a, b, c);
      out += 8;
      return Simd::xor3(a, b, c);
    });
    for (int i = 0; i < 2; ++i) {
      *out++ = planes[i];
      *out++ = ~planes[i];
    }
  }

  static void slice(const Block& block, int64_t) {
    V planes[64];
    auto* out = reinterpret_cast<V*>(block.tables);
    const int64_t n = planes_of(block.bytes);
    for (int64_t word = 0; word < words_of(block.bytes); ++word, out += table_vectors(n)) {
      Simd::planes(block.codes, block.bytes, word, planes);
      if (n == 64)
        build<64>(planes, out);
      else if (n == 32)
        build<32>(planes, out);
      else
        build<16>(planes, out);
    }
  }

  // --- records -----------------------------------------------------------------------------------

  template <int64_t N>
  static void select(const uint8_t* code, int64_t bytes, uint8_t* out) {
    bool bits[64] = {};
    for (int64_t i = 0; i < (8 * bytes < N ? 8 * bytes : N); ++i)
      bits[i] = code[i / 8] >> (i % 8) & 1;
    reduce<N>(bits, [&](bool a, bool b, bool c) {
      *out++ = static_cast<uint8_t>(kUnit * (4 * a + 2 * b + c));
      return static_cast<bool>(a ^ b ^ c);
    });
    *out++ = static_cast<uint8_t>(kUnit * bits[0]);
    *out++ = static_cast<uint8_t>(kUnit * bits[1]);
  }

  static void make_record(const uint8_t* code, int64_t bytes, uint64_t* record) {
    const int64_t n = planes_of(bytes);
    std::memset(record, 0, 8 * record_words(bytes));
    uint64_t* out = record + kHeader;
    for (int64_t word = 0; word < words_of(bytes); ++word) {
      auto* const to = reinterpret_cast<uint8_t*>(out);
      if (n == 64)
        select<64>(code + 8 * word, bytes - 8 * word, to);
      else if (n == 32)
        select<32>(code, bytes, to);
      else
        select<16>(code, bytes, to);
      out += word ? selector_words(n) : first_selector_words(n, count_planes(bytes));
    }
  }

  static void set_threshold(uint64_t* record, int64_t bytes, int64_t threshold) {
    const int planes = count_planes(bytes);
    const int64_t most = (int64_t{1} << planes) - 1;
    record[0] = static_cast<uint64_t>(threshold);
    const int64_t bias = threshold < 0 || threshold > most ? 0 : most - threshold;
    auto* const out = reinterpret_cast<uint8_t*>(record + kHeader) + selectors(planes_of(bytes));
    for (int i = 0; i < planes; ++i) out[i] = static_cast<uint8_t>(kUnit * (bias >> i & 1));
  }

  // --- sums --------------------------------------------------------------------------------------

  // Selectors of one word, read eight at a time: single bytes would compete with the tables for the
  // load ports.
  template <int64_t Words>
  struct Selectors {
    uint64_t words[Words];
    HASHFAST_INLINE explicit Selectors(const uint64_t* from) {
      std::memcpy(words, from, 8 * Words);
    }
    HASHFAST_INLINE V at(const void* table, int64_t i) const {
      const uint64_t offset = 8 * uint64_t{static_cast<uint8_t>(words[i / 8] >> (8 * (i % 8)))};
      return *reinterpret_cast<const V*>(static_cast<const char*>(table) + offset);
    }
  };

  // The next plane of weight 2^Level out of a word's tables, from First on; the planes of lower
  // weight are added to sum.
  template <int64_t N, int Level, int64_t First, class S>
  static HASHFAST_INLINE V carry(const V* table, const S& selectors, V* sum) {
    V a, b;
    if constexpr (Level > 1) {
      a = carry<N, Level - 1, First>(table, selectors, sum);
      b = carry<N, Level - 1, First + (1 << (Level - 2))>(table, selectors, sum);
    } else if constexpr (First < tables(N)) {
      return selectors.at(table + 8 * First, First);
    } else {
      a = selectors.at(table + 8 * tables(N), tables(N));
      b = selectors.at(table + 8 * tables(N) + 2, tables(N) + 1);
    }
    const V old = sum[Level - 1];
    sum[Level - 1] = Simd::xor3(a, b, old);
    return Simd::majority(a, b, old);
  }

  // Adds the distances to sum[planes], zeros or the planes of the record's threshold; returns the
  // carry out of the last plane. Words is 0 when it is not known at compile time.
  template <int64_t N, int64_t Words, bool Threshold>
  static HASHFAST_INLINE V add(const Block& block, const uint64_t* record, int planes, V* sum) {
    constexpr int kFirst = log2_of(N);
    constexpr int kMost = Words ? planes_for(N, Words) : kMostPlanes;
    const V* table = reinterpret_cast<const V*>(block.tables);
    const uint64_t* next = record + kHeader;
    const auto ripple = [&](V c) {
      for (int i = kFirst; i < planes; ++i) {
        const V old = sum[i];
        sum[i] = old ^ c;
        c &= old;
      }
      return c;
    };
    const Selectors<first_selector_words(N, kMost)> first(next);
    for (int i = 0; i < planes; ++i)
      sum[i] = Threshold ? first.at(constants(), selectors(N) + i) : V{};
    V out = ripple(carry<N, kFirst, 0>(table, first, sum));
    next += first_selector_words(N, planes);
    for (int64_t word = 1; word < (Words ? Words : words_of(block.bytes)); ++word) {
      table += table_vectors(N);
      out |= ripple(carry<N, kFirst, 0>(table, Selectors<selector_words(N)>(next), sum));
      next += selector_words(N);
    }
    return out;
  }

  // The planes of a constant bit: zeros and ones.
  static HASHFAST_INLINE const void* constants() {
    alignas(kVectorBytes) static constexpr uint64_t kPlanes[16] = {
        0, 0, 0, 0, 0, 0, 0, 0, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull};
    return kPlanes + 8 - kVectorWords;
  }

  template <int64_t N, int64_t Words>
  static HASHFAST_INLINE V hits(const Block& block, const uint64_t* record, V valid) {
    const auto threshold = static_cast<int64_t>(record[0]);
    const int planes = Words ? planes_for(N, Words) : count_planes(block.bytes);
    if (static_cast<uint64_t>(threshold) >= uint64_t{1} << planes) [[unlikely]]
      return threshold < 0 ? V{} : valid;
    V sum[kMostPlanes];
    return ~add<N, Words, true>(block, record, planes, sum) & valid;
  }

  // --- hits --------------------------------------------------------------------------------------

  template <int64_t Bytes>
  static HASHFAST_INLINE int64_t distance(const uint8_t* a, const uint8_t* b, int64_t bytes) {
    const int64_t width = Bytes ? Bytes : bytes;
    int64_t sum = 0, at = 0;
    for (; at + 8 <= width; at += 8)
      sum += __builtin_popcountll(load_word<8>(a + at) ^ load_word<8>(b + at));
    if (at < width)
      sum += __builtin_popcountll(load_word(a + at, width - at) ^ load_word(b + at, width - at));
    return sum;
  }

  // Distances of one query to n consecutive codes.
  static void distances(const uint8_t* code, const uint8_t* codes, int64_t n, int64_t bytes,
                        uint16_t* out) {
    for_width(bytes, [&]<int64_t N, int64_t Words, int64_t Bytes>() {
      const int64_t width = Bytes ? Bytes : bytes;
      for (int64_t i = 0; i < n; ++i)
        out[i] = static_cast<uint16_t>(distance<Bytes>(code, codes + i * width, width));
    });
  }

  // Adds n rows of the block, which are within the threshold. Distances are computed again: few
  // codes are hits, and for all the others the kernels find out less than that.
  template <int64_t Bytes, class Row>
  static HASHFAST_INLINE void add_hits(const Block& block, Search& search, const Row* rows,
                                       int64_t n) {
    if (search.size + n > search.room) make_room(search, n);
    uint64_t* const out = search.hits + search.size;
    const uint8_t* const code = search.code;
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t* const other = block.codes + rows[i] * block.bytes;
      const auto found = static_cast<uint64_t>(distance<Bytes>(code, other, block.bytes));
      out[i] = found << kRowBits | (block.first + rows[i]);
    }
    search.size += n;
    search.within += n;
    if (search.within >= search.wanted) tighten(search);
  }

  template <int64_t Bytes>
  static __attribute__((noinline)) void add_masked(const Block& block, Search& search, V mask) {
    uint16_t rows[kLanes + kVectorBytes];
    add_hits<Bytes>(block, search, rows, Simd::rows_of(mask, rows));
  }

  // The block that comes next is fetched a few cache lines a query, while the adders are busy.
  class Prefetch {
   public:
    Prefetch(const Block& block, int64_t queries)
        : next_(block.upcoming), end_(next_ ? next_ + kLanes * block.bytes : next_) {
      if (next_) step_ = 64 * ((kLanes * block.bytes / 64 + queries - 1) / queries);
    }
    HASHFAST_INLINE void operator()() {
      const uint8_t* last = next_ + step_ < end_ ? next_ + step_ : end_;
      for (; next_ < last; next_ += 64) __builtin_prefetch(next_);
    }

   private:
    const uint8_t *next_, *end_;
    int64_t step_ = 0;
  };

  // Calls act(search, mask) for each query that has hits in the block.
  template <int64_t N, int64_t Words, class Act>
  static HASHFAST_INLINE void for_hits(const Block& block, Search* searches, int64_t n,
                                       const Act& act) {
    const V valid = *reinterpret_cast<const V*>(block.valid);
    const uint64_t* record = searches[0].record;
    const int64_t stride = record_words(block.bytes);
    Prefetch prefetch(block, n);
    for (int64_t i = 0; i < n; ++i, record += stride) {
      prefetch();
      const V mask = hits<N, Words>(block, record, valid);
      if (Simd::any(mask)) [[unlikely]]
        act(searches[i], mask);
    }
  }

  // Calls f.template operator()<N, Words, Bytes>() with what is known of a width.
  template <class F>
  static HASHFAST_INLINE void for_width(int64_t bytes, const F& f) {
    switch (bytes) {
      case 2: return f.template operator()<16, 1, 2>();
      case 4: return f.template operator()<32, 1, 4>();
      case 8: return f.template operator()<64, 1, 8>();
      case 16: return f.template operator()<64, 2, 16>();
      case 32: return f.template operator()<64, 4, 32>();
      case 64: return f.template operator()<64, 8, 64>();
      default: break;
    }
    if (bytes == 1) return f.template operator()<16, 1, 1>();
    if (bytes == 3) return f.template operator()<32, 1, 3>();
    if (bytes < 8) return f.template operator()<64, 1, 0>();
    return f.template operator()<64, 0, 0>();
  }

  static void find(const Block& block, Search* searches, int64_t n) {
    for_width(block.bytes, [&]<int64_t N, int64_t Words, int64_t Bytes>() {
      for_hits<N, Words>(block, searches, n,
                         [&](Search& search, V mask) { add_masked<Bytes>(block, search, mask); });
    });
  }

  static void count(const Block& block, Search* searches, int64_t n) {
    for_width(block.bytes, [&]<int64_t N, int64_t Words, int64_t Bytes>() {
      for_hits<N, Words>(block, searches, n, [](Search& search, V mask) {
        alignas(kVectorBytes) uint64_t bits[kVectorWords];
        *reinterpret_cast<V*>(bits) = mask;
        for (const uint64_t word : bits) search.size += __builtin_popcountll(word);
      });
    });
  }

  // --- histograms --------------------------------------------------------------------------------

  // Distances 4 j .. 4 j + 3 share a vector: 16-bit counters in each 64-bit lane, to which a block
  // adds at most 64. Without a vector popcount, and for widths that are not known at compile time,
  // codes are counted one by one.
  static bool sliced_histogram(int64_t bytes) {
    return Simd::kPopcount && (bytes <= 8 || bytes == 16 || bytes == 32 || bytes == 64);
  }

  static_assert(64 * kHistogramBlocks < 1 << 16);

  static void slice_for_histogram(const Block& block, int64_t queries) {
    if (sliced_histogram(block.bytes)) slice(block, queries);
  }

  // Counting a code, where keeping one as a hit costs 1.
  static double histogram_cost(int64_t bytes) {
    const double words = static_cast<double>(words_of(bytes));
    return sliced_histogram(bytes) ? 0.01 * words : 0.1 + 0.06 * words;
  }

  static int64_t histogram_words(int64_t bytes) {
    if (!sliced_histogram(bytes)) return 8 * bytes + 1;
    return ((int64_t{1} << count_planes(bytes)) / 4 + 1) * kVectorWords;
  }

  // Counts the codes of a mask by the bits of their distances: the mask is split by plane after
  // plane.
  template <int Plane>
  static HASHFAST_INLINE void count_by(const V* sum, V mask, V* out) {
    if constexpr (Plane >= 2) {
      count_by<Plane - 1>(sum, mask & ~sum[Plane], out);
      count_by<Plane - 1>(sum, mask & sum[Plane], out + (1 << (Plane - 2)));
    } else {
      const V high = mask & sum[1], low = mask & ~sum[1];
      *out = Simd::add_popcounts(*out, low & ~sum[0], low & sum[0], high & ~sum[0], high & sum[0]);
    }
  }

  template <int64_t N, int64_t Words>
  static HASHFAST_INLINE void histogram_in(const Block& block, const uint64_t* record, V mask,
                                           V* out) {
    constexpr int kPlanes = planes_for(N, Words);
    V sum[kPlanes];
    const V last = add<N, Words, false>(block, record, kPlanes, sum) & mask;
    count_by<kPlanes - 1>(sum, mask & ~last, out);
    V& of_last = out[1 << (kPlanes - 2)];
    of_last = Simd::add_popcounts(of_last, last, V{}, V{}, V{});
  }

  static void histogram(const Block& block, const uint8_t* code, const uint64_t* record,
                        const uint64_t* mask, uint64_t* out) {
    if constexpr (Simd::kPopcount) {
      if (sliced_histogram(block.bytes))
        return for_width(block.bytes, [&]<int64_t N, int64_t Words, int64_t Bytes>() {
          if constexpr (Words > 0)
            histogram_in<N, Words>(block, record, *reinterpret_cast<const V*>(mask),
                                   reinterpret_cast<V*>(out));
        });
    }
    for_width(block.bytes, [&]<int64_t N, int64_t Words, int64_t Bytes>() {
      for (int64_t word = 0; word < kVectorWords; ++word)
        for (uint64_t bits = mask[word]; bits; bits &= bits - 1) {
          const int64_t row = 64 * word + __builtin_ctzll(bits);
          ++out[distance<Bytes>(code, block.codes + row * block.bytes, block.bytes)];
        }
    });
  }

  static void flush(uint64_t* histogram, int64_t bytes, int64_t* counts) {
    const int64_t words = histogram_words(bytes), bins = 8 * bytes + 1;
    if (sliced_histogram(bytes)) {
      for (int64_t i = 0; i < words; ++i)
        for (int64_t field = 0; field < 4; ++field) {
          const int64_t distance = 4 * (i / kVectorWords) + field;
          if (distance < bins) counts[distance] += histogram[i] >> (16 * field) & 0xFFFF;
        }
    } else {
      for (int64_t i = 0; i < bins; ++i) counts[i] += histogram[i];
    }
    std::memset(histogram, 0, 8 * words);
  }

  static constexpr HammingKernels kernels(const HammingKernels::Direct& direct) {
    return {kLanes, table_words, record_words, make_record,    set_threshold,       slice,
            find,   count,       histogram,    histogram_cost, slice_for_histogram, histogram_words,
            flush,  distances,   direct};
  }
};

}  // namespace hashfast
