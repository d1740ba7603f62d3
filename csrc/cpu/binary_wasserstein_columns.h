// One column a lane: select the k smallest entries, give them target -1 and the others +1, add up
// squared differences. Selection replaces the sort, because the target takes two values only.
//
// A column is searched for a key with k smaller keys by counting those below two pivots at a time.
// Simd gives kBytes of a vector, any(mask), and count_below(counts, keys, pivot), which adds 1 to
// the counts of lanes whose key is below the pivot.
#pragma once

#include "binary_wasserstein_kernels.h"
#include "lanes.h"

namespace hashfast {

// What the entries of a type are computed in, and how vectors of them are read and written.
template <class Scalar, int Bytes>
struct Stored : Ordered<float, Bytes> {  // 16-bit types
  using Raw = typename Ordered<float, Bytes>::Halves;
  static HASHFAST_INLINE auto from_raw(Raw raw) {
    return widened<Lanes<float, Bytes>>(Scalar{}, raw);
  }
  static HASHFAST_INLINE Raw to_raw(typename Ordered<float, Bytes>::Values values) {
    return narrowed<Lanes<float, Bytes>>(Scalar{}, values);
  }
};

template <class Value, int Bytes>
struct StoredAsIs : Ordered<Value, Bytes> {
  using Raw = typename Ordered<Value, Bytes>::Values;
  static HASHFAST_INLINE Raw from_raw(Raw raw) { return raw; }
  static HASHFAST_INLINE Raw to_raw(Raw values) { return values; }
};
template <int Bytes>
struct Stored<float, Bytes> : StoredAsIs<float, Bytes> {};
template <int Bytes>
struct Stored<double, Bytes> : StoredAsIs<double, Bytes> {};

template <class Simd, class Scalar>
struct Wasserstein {
  using S = Stored<Scalar, Simd::kBytes>;
  using Value = typename S::Value;
  using Key = typename S::Key;
  using Keys = typename S::Keys;
  using Values = typename S::Values;
  using Raw = typename S::Raw;
  using Signs = typename S::Signs;
  static constexpr int kLanes = S::kLanes;
  static constexpr int64_t kSummed = 32;  // rows added up before the sum goes to double precision

  // Adjacent entries of a row; lanes beyond `columns` repeat the first.
  template <class Vector, class Entry>
  static HASHFAST_INLINE Vector load(const Entry* from, int64_t columns, int64_t stride = 1) {
    Vector vector;
    if (columns >= kLanes && stride == 1) {
      std::memcpy(&vector, from, sizeof(vector));
    } else {
      Entry row[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane)
        row[lane] = from[lane < columns ? lane * stride : 0];
      std::memcpy(&vector, row, sizeof(vector));
    }
    return vector;
  }

  template <class Vector, class Entry>
  static HASHFAST_INLINE void store(Vector vector, Entry* to, int64_t columns) {
    if (columns >= kLanes) {
      std::memcpy(to, &vector, sizeof(vector));
    } else {
      Entry row[kLanes];
      std::memcpy(row, &vector, sizeof(vector));
      for (int64_t lane = 0; lane < columns; ++lane) to[lane] = row[lane];
    }
  }

  struct Range {
    Keys least, most;
  };

  static Range make_keys(const Matrix& in, Keys* keys) {
    Range range{S::all(S::kMost), S::all(~S::kMost)};
    const auto* row = static_cast<const Scalar*>(in.data);
    for (int64_t i = 0; i < in.rows; ++i, row += in.row_stride) {
      const Keys key = S::keys(S::from_raw(load<Raw>(row, in.columns, in.column_stride)));
      range.least = S::min(range.least, key);
      range.most = S::max(range.most, key);
      keys[i] = key;
    }
    return range;
  }

  // Keys below `pivot` are negatives, and so are the first `ties` of those equal to it.
  struct Split {
    Keys pivot, ties;
  };

  static Split search(const Keys* keys, int64_t rows, Keys wanted, Range range) {
    // So many keys lie below low and high: below_low <= wanted <= below_high.
    Keys low = range.least, high = range.most + 1, below_low{};
    Keys below_high = S::all(static_cast<Key>(rows)), before = S::all(S::kMost);
    while (Simd::any((below_low != wanted) & (below_high != wanted) & (high != low + 1))) {
      const Keys between = below_high - below_low;
      const Keys middle = S::middle(low, high);
      // As if the values between were spread evenly: one standard deviation of the wanted rank to
      // each side. Where that did not halve their number, quarters of the keys.
      const Values n = __builtin_convertvector(between, Values);
      const Values rank = __builtin_convertvector(wanted - below_low, Values);
      const Values deviation = S::square_root(rank * (n - rank) / (n + 1));
      const Values start = S::values(low), unit = (S::values(high) - start) / (n + 1);
      const Values centre = rank + Value{0.5};
      const Keys uneven = between > (before >> 1);
      Keys first = S::keys(start + unit * (centre - deviation));
      Keys second = S::keys(start + unit * (centre + deviation));
      first = uneven ? S::middle(low, middle) : first;
      second = uneven ? S::middle(middle, high) : second;
      first = S::min(S::max(first, low + 1), high - 1);
      second = S::min(S::max(second, low + 1), high - 1);
      before = between;

      Keys below_first{}, below_second{};
#pragma GCC unroll 4
      for (int64_t i = 0; i < rows; ++i) {
        below_first = Simd::count_below(below_first, keys[i], first);
        below_second = Simd::count_below(below_second, keys[i], second);
      }
      raise(low, below_low, first, below_first, wanted);
      raise(low, below_low, second, below_second, wanted);
      lower(high, below_high, second, below_second, wanted);
      lower(high, below_high, first, below_first, wanted);
    }
    const Keys at_high = below_high == wanted, exact = at_high | (below_low == wanted);
    return {at_high ? high : low, exact ? Keys{} : wanted - below_low};
  }

  // A pivot may become low if not more than the wanted keys lie below it, and high if not fewer.
  static HASHFAST_INLINE void raise(Keys& low, Keys& below_low, Keys pivot, Keys below,
                                    Keys wanted) {
    const Keys fits = below <= wanted;
    low = fits ? pivot : low;
    below_low = fits ? below : below_low;
  }
  static HASHFAST_INLINE void lower(Keys& high, Keys& below_high, Keys pivot, Keys below,
                                    Keys wanted) {
    const Keys fits = below >= wanted;
    high = fits ? pivot : high;
    below_high = fits ? below : below_high;
  }

  // Moves a pivot that equals no key up to the next one.
  static void move_to_key(const Keys* keys, int64_t rows, Split& split) {
    Keys next = S::all(S::kMost);
    for (int64_t i = 0; i < rows; ++i)
      next = S::min(next, keys[i] < split.pivot ? S::all(S::kMost) : keys[i]);
    split.pivot = next;
  }

  // Writes the targets and adds up. InOrder: some keys equal to the pivot are negatives or, the
  // next of them, the median.
  template <bool InOrder>
  static void finish(const Columns& tile, const Keys* keys, Split split) {
    const int64_t rows = tile.outputs.rows, columns = tile.outputs.columns;
    const Keys median = S::all(tile.median ? -1 : 0);
    Keys equal_so_far{};
    int8_t* target = tile.target;
    for (int64_t first = 0; first < rows; first += kSummed) {
      const int64_t end = rows - first < kSummed ? rows : first + kSummed;
      Values sum{};
      for (int64_t i = first; i < end; ++i, target += tile.target_stride) {
        Keys negative = keys[i] < split.pivot, zero{};
        if constexpr (InOrder) {
          const Keys equal = keys[i] == split.pivot;
          negative |= equal & (equal_so_far < split.ties);
          zero = equal & (equal_so_far == split.ties) & median;
          equal_so_far -= equal;
        }
        const Keys sign = negative | (1 & ~zero);
        store(S::narrow(sign), target, columns);
        const Values gap = S::values(keys[i]) - __builtin_convertvector(sign, Values);
        sum += gap * gap;
      }
      Value sums[kLanes];
      std::memcpy(sums, &sum, sizeof(sum));
      for (int64_t lane = 0; lane < columns; ++lane) tile.sums[lane] += sums[lane];
    }
  }

  static void columns(const Columns& tile) {
    auto* const keys = static_cast<Keys*>(tile.keys);
    const int64_t rows = tile.outputs.rows;
    const Range range = make_keys(tile.outputs, keys);
    Key wanted[kLanes] = {};  // 0 beyond the columns: found at once
    for (int64_t lane = 0; lane < tile.outputs.columns; ++lane) {
      wanted[lane] = static_cast<Key>(tile.negatives[lane]);
      tile.sums[lane] = 0;
    }
    Keys negatives;
    std::memcpy(&negatives, wanted, sizeof(negatives));
    Split split = search(keys, rows, negatives, range);
    if (tile.median) move_to_key(keys, rows, split);
    if (tile.median || Simd::any(split.ties))
      finish<true>(tile, keys, split);
    else
      finish<false>(tile, keys, split);
  }

  static void gradient(const Gradient& task) {
    const Matrix& in = task.outputs;
    const auto* row = static_cast<const Scalar*>(in.data);
    auto* out = static_cast<Scalar*>(task.gradient);
    const int8_t* target = task.target;
    for (int64_t i = 0; i < in.rows; ++i) {
      for (int64_t j = 0; j < in.columns; j += kLanes) {
        const int64_t left = in.columns - j;
        const auto raw = load<Raw>(row + j * in.column_stride, left, in.column_stride);
        const Keys sign = S::widen(load<Signs>(target + j, left));
        const auto scale = load<Values>(static_cast<const Value*>(task.scale) + j, left);
        const Values gap = S::from_raw(raw) - __builtin_convertvector(sign, Values);
        store(S::to_raw(scale * gap), out + j, left);
      }
      row += in.row_stride;
      out += in.columns;
      target += in.columns;
    }
  }
};

// Random bits of adjacent columns by Philox-4x32-10 (Salmon et al. 2011), a 32-bit word a lane.
template <class Simd>
struct Philox {
  static constexpr int kLanes = Simd::kBytes / 8;
  using Words = typename Lanes<double, Simd::kBytes>::Words;
  static constexpr uint64_t kLow = 0xFFFFFFFF;

  static HASHFAST_INLINE void rounds(Words (&c)[4], uint64_t key) {
    uint64_t k0 = key & kLow, k1 = key >> 32;
    for (int round = 0; round < 10; ++round) {
      const Words p0 = c[0] * 0xD2511F53, p1 = c[2] * 0xCD9E8D57;
      c[0] = (p1 >> 32) ^ c[1] ^ k0;
      c[1] = p1 & kLow;
      c[2] = (p0 >> 32) ^ c[3] ^ k1;
      c[3] = p0 & kLow;
      k0 = (k0 + 0x9E3779B9) & kLow;
      k1 = (k1 + 0xBB67AE85) & kLow;
    }
  }

  static HASHFAST_INLINE Words ones(Words x) {
    x -= x >> 1 & 0x5555555555555555;
    x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F;
    x += x >> 8;
    x += x >> 16;
    return (x + (x >> 32)) & 0x7F;
  }

  static void binomial_half(uint64_t seed, int64_t rows, int64_t first, int64_t columns,
                            int64_t* counts) {
    for (int64_t start = 0; start < columns; start += kLanes) {
      Words lanes{}, sum{};
      for (int j = 0; j < kLanes; ++j) lanes[j] = static_cast<uint32_t>(first + start + j);
      for (int64_t block = 0; block * 128 < rows; ++block) {
        Words c[4] = {Words{} + (static_cast<uint64_t>(block) & kLow), {}, lanes, {}};
        rounds(c, seed);
        for (int pair = 0; pair < 2; ++pair) {
          const int64_t used = rows - 128 * block - 64 * pair;
          if (used <= 0) break;
          const uint64_t mask = used >= 64 ? ~uint64_t{0} : (uint64_t{1} << used) - 1;
          sum += ones((c[2 * pair] | c[2 * pair + 1] << 32) & mask);
        }
      }
      for (int64_t j = 0; j < kLanes && start + j < columns; ++j)
        counts[start + j] = static_cast<int64_t>(sum[j]);
    }
  }
};

template <class Simd>
constexpr WassersteinKernels wasserstein_kernels_of() {
  return {Simd::kBytes,
          {Wasserstein<Simd, double>::columns, Wasserstein<Simd, float>::columns,
           Wasserstein<Simd, Half>::columns, Wasserstein<Simd, BFloat>::columns},
          {Wasserstein<Simd, double>::gradient, Wasserstein<Simd, float>::gradient,
           Wasserstein<Simd, Half>::gradient, Wasserstein<Simd, BFloat>::gradient},
          Philox<Simd>::binomial_half};
}

}  // namespace hashfast
