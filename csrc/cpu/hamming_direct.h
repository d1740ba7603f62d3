// Hamming search for few queries: distances of the codes as they lie, by popcount. Of each group of
// codes the least distance is compared with the threshold; only where it is within are the hits
// looked for.
#pragma once

#include "hamming_slices.h"

namespace hashfast {

// What becomes of the n hits `rows` of a block.
template <class Simd>
struct Find {
  template <int64_t Bytes>
  static HASHFAST_INLINE void add(const Block& block, Search& search, const uint8_t* rows,
                                  int64_t first, int64_t n) {
    Block group = block;
    group.codes += first * block.bytes;
    group.first += first;
    Slices<Simd>::template add_hits<Bytes>(group, search, rows, n);
  }
};

struct Count {
  template <int64_t Bytes>
  static HASHFAST_INLINE void add(const Block&, Search& search, const uint8_t*, int64_t,
                                  int64_t n) {
    search.size += n;
  }
};

constexpr int64_t kGroupRows = 64;  // one word of a block's valid rows

// Adds the rows of a group from `first` on whose bits are set.
template <class Action, int64_t Bytes>
HASHFAST_INLINE void add_group(const Block& block, Search& search, int64_t first, uint64_t hits) {
  uint8_t rows[kGroupRows];
  int64_t n = 0;
  for (hits &= block.valid[first / 64]; hits; hits &= hits - 1)
    rows[n++] = static_cast<uint8_t>(__builtin_ctzll(hits));
  Action::template add<Bytes>(block, search, rows, first, n);
}

// With the popcount of general registers. Bytes is 0 when it is not known at compile time.
template <class Simd, int64_t Bytes, class Action>
void scan_scalar(const Block& block, Search* searches, int64_t n) {
  using Sliced = Slices<Simd>;
  const int64_t bytes = Bytes ? Bytes : block.bytes;
  for (int64_t i = 0; i < n; ++i) {
    Search& search = searches[i];
    const uint8_t* const code = search.code;
    const uint8_t* upcoming = i ? nullptr : block.upcoming;
    for (int64_t first = 0; first < Sliced::kLanes; first += kGroupRows) {
      const uint8_t* const codes = block.codes + first * bytes;
      const int64_t threshold = search.threshold;
      int64_t least = INT64_MAX;
      for (int64_t row = 0; row < kGroupRows; ++row) {
        const int64_t distance = Sliced::template distance<Bytes>(code, codes + row * bytes, bytes);
        least = distance < least ? distance : least;
      }
      if (upcoming)
        for (int64_t byte = 0; byte < kGroupRows * bytes; byte += 64)
          __builtin_prefetch(upcoming + first * bytes + byte);
      if (least > threshold) [[likely]]
        continue;
      uint64_t hits = 0;
      for (int64_t row = 0; row < kGroupRows; ++row)
        hits |= uint64_t{Sliced::template distance<Bytes>(code, codes + row * bytes, bytes) <=
                         threshold}
                << row;
      add_group<Action, Bytes>(block, search, first, hits);
    }
  }
}

template <class Simd, class Action>
void scan_scalar(const Block& block, Search* searches, int64_t n) {
  Slices<Simd>::for_width(block.bytes, [&]<int64_t N, int64_t Words, int64_t Bytes>() {
    scan_scalar<Simd, Bytes, Action>(block, searches, n);
  });
}

}  // namespace hashfast
