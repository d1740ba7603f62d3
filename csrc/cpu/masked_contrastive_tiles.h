// A tile of weights at a time: cosines as a product of matrices, their exponentials in place, and a
// second product that sums up the gradient. Nothing else of the size of all pairs is touched.
#pragma once

#include "entries.h"
#include "masked_contrastive_kernels.h"

namespace hashfast {

template <class Floating>
struct Exponential;  // of which values it is computed, and how

template <>
struct Exponential<float> {
  // Below, the result is 0 (it would be subnormal); above, that of the limit.
  static constexpr float kLowest = -87.3f, kHighest = 88.7f;
  static constexpr float kRounds = 0x1.8p23f;  // adding it rounds to integers
  static constexpr float kLog2High = 0x1.63p-1f, kLog2Low = -0x1.bd0106p-13f;
  static constexpr int kMantissa = 23, kDegree = 7;
};

template <>
struct Exponential<double> {
  static constexpr double kLowest = -708, kHighest = 709;
  static constexpr double kRounds = 0x1.8p52;
  static constexpr double kLog2High = 0x1.62e42feep-1, kLog2Low = 0x1.a39ef35793c76p-33;
  static constexpr int kMantissa = 52, kDegree = 13;
};

constexpr double inverse_factorial(int n) { return n < 2 ? 1 : inverse_factorial(n - 1) / n; }

// `Vectors`: of columns, that kContrastGroup rows are multiplied with in registers.
template <class Floating, int Bytes, int Vectors>
struct Contrast {
  using Value = Floating;
  using L = Lanes<Value, Bytes>;
  using Keys = typename L::Keys;
  using Key = typename L::Key;
  using Values = typename L::Values;
  using E = Exponential<Value>;
  static constexpr int64_t kLanes = Bytes / sizeof(Value), kGroup = kContrastGroup;
  static constexpr int64_t kTilesSummed = 16;
  static constexpr Value kInfinity = __builtin_inf();

  static HASHFAST_INLINE Values load(const Value* from) {
    Values values;
    std::memcpy(&values, from, sizeof(values));
    return values;
  }
  static HASHFAST_INLINE Keys load_keys(const Value* from) {
    return reinterpret_cast<Keys>(load(from));
  }
  static HASHFAST_INLINE void store(Values values, Value* to) {
    std::memcpy(to, &values, sizeof(values));
  }
  static HASHFAST_INLINE Key low_half(int64_t group) {
    return static_cast<Key>(static_cast<uint32_t>(group));
  }
  static HASHFAST_INLINE Key high_half(int64_t group) { return static_cast<Key>(group >> 32); }
  static HASHFAST_INLINE Values max(Values a, Values b) { return b > a ? b : a; }

  // Sum of the terms x^n / n! from n = First on, divided by x^First.
  template <int First>
  static HASHFAST_INLINE Values taylor(Values x) {
    constexpr auto coefficient = static_cast<Value>(inverse_factorial(First));
    if constexpr (First == E::kDegree)
      return Values{} + coefficient;
    else
      return taylor<First + 1>(x) * x + coefficient;
  }

  // Within two units in the last place; NaN stays NaN.
  static HASHFAST_INLINE Values exponential(Values x) {
    const Values limited = x > E::kHighest ? Values{} + E::kHighest : x;
    const Values shifted = limited * static_cast<Value>(0x1.71547652b82fep0) + E::kRounds;
    const Values power = shifted - E::kRounds;
    const Values rest = limited - power * E::kLog2High - power * E::kLog2Low;
    const Keys bits = reinterpret_cast<Keys>(taylor<0>(rest));
    const Keys scaled = bits + (reinterpret_cast<Keys>(shifted) << E::kMantissa);
    // A NaN must not have its exponent changed.
    const Values found = x != x ? x : reinterpret_cast<Values>(scaled);
    return x < E::kLowest ? Values{} : found;
  }

  static HASHFAST_INLINE Value sum(Values values) {
    double total = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) total += static_cast<double>(values[lane]);
    return static_cast<Value>(total);
  }

  // result [kGroup, N vectors] = rows [kGroup, depth] times columns [depth, N vectors], or that
  // more.
  template <int N>
  static __attribute__((noinline)) void multiply(const Value* rows, int64_t row_stride,
                                                 const Value* columns, int64_t column_stride,
                                                 int64_t depth, Value* result,
                                                 int64_t result_stride, bool add) {
    Values total[kGroup][N] = {};
    for (int64_t k = 0; k < depth; ++k) {
      Values line[N];
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) line[v] = load(columns + k * column_stride + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kGroup; ++r) {
        const Value entry = rows[r * row_stride + k];
#pragma GCC unroll 8
        for (int v = 0; v < N; ++v) total[r][v] += entry * line[v];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kGroup; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) {
        Value* const to = result + r * result_stride + v * kLanes;
        store(add ? load(to) + total[r][v] : total[r][v], to);
      }
  }

  static void multiply_all(const Value* rows, int64_t row_stride, const Value* columns,
                           int64_t column_stride, int64_t depth, int64_t width, Value* result,
                           int64_t result_stride, bool add) {
    int64_t at = 0;
    for (; at + Vectors * kLanes <= width; at += Vectors * kLanes)
      multiply<Vectors>(rows, row_stride, columns + at, column_stride, depth, result + at,
                        result_stride, add);
    if constexpr (Vectors > 2)
      for (; at + 2 * kLanes <= width; at += 2 * kLanes)
        multiply<2>(rows, row_stride, columns + at, column_stride, depth, result + at,
                    result_stride, add);
    for (; at < width; at += kLanes)
      multiply<1>(rows, row_stride, columns + at, column_stride, depth, result + at, result_stride,
                  add);
  }

  static void tile(const ContrastTile& task) {
    auto* const values = static_cast<Value*>(task.values);
    auto* const tile = static_cast<Value*>(task.tile);
    Value* const shift = tile + task.bits * kContrastColumns;
    Value *const low = shift + kContrastColumns, *const high = low + kContrastColumns;
    Value factors[kContrastColumns], bad[kContrastColumns];
    for (int64_t c = 0; c < kContrastColumns; ++c) {
      const bool there = c < task.count;
      factors[c] = there && task.factor ? static_cast<Value>(task.factor[c]) : 1;
      bad[c] = 0 * factors[c];
      shift[c] = !there ? kInfinity : task.shift ? static_cast<Value>(task.shift[c]) : 0;
      const int64_t group = there && task.groups ? task.groups[c] : 0;
      const Key halves[2] = {low_half(group), high_half(group)};
      std::memcpy(low + c, halves, sizeof(Key));
      std::memcpy(high + c, halves + 1, sizeof(Key));
    }
    for (int64_t k = 0; k < task.bits; ++k) {
      Value* const line = tile + k * kContrastColumns;
      for (int64_t c = 0; c < task.count; ++c) line[c] = values[c * task.stride + k] + bad[c];
      for (int64_t c = task.count; c < kContrastColumns; ++c) line[c] = 0;
    }
    for (int64_t c = 0; c < task.count; ++c)
      for (int64_t k = 0; k < task.stride; k += kLanes) {
        Value* const at = values + c * task.stride + k;
        const Values found = factors[c] * load(at);
        store(found - found == Values{} ? found : Values{}, at);
      }
  }

  // A row of a pass.
  struct Row {
    Key group_low, group_high;
    Values total;  // sums of weights
    Value shift;   // the largest logit so far
  };

  // Logits of a row with the columns of a tile from `cosines` on, -inf where they are not allowed.
  template <bool Groups>
  static HASHFAST_INLINE Values logits(Values cosines, const Value* shift, Value inverse,
                                       const Row& row) {
    const Values none = Values{} - kInfinity, lowered = load(shift);
    Values found = cosines * inverse - lowered;
    found = lowered == kInfinity ? none : found;
    if constexpr (Groups) {
      const Keys low = load_keys(shift + kContrastColumns) ^ row.group_low;
      const Keys high = load_keys(shift + 2 * kContrastColumns) ^ row.group_high;
      found = (low | high) == 0 ? none : found;
    }
    return found;
  }

  // Raises the row's shift to the largest logit so far.
  template <bool Groups>
  static HASHFAST_INLINE void raise_shift(const Value* cosines, const Value* shift, int64_t width,
                                          Value inverse, Value* pull, int64_t stride, Row& row) {
    Values largest = Values{} - kInfinity;
    for (int64_t c = 0; c < width; c += kLanes)
      largest = max(largest, logits<Groups>(load(cosines + c), shift + c, inverse, row));
    Value highest = row.shift;
    for (int64_t lane = 0; lane < kLanes; ++lane)
      highest = largest[lane] > highest ? largest[lane] : highest;
    if (highest > row.shift) {
      const Values smaller = exponential(Values{} + (row.shift - highest));
      row.total *= smaller;
      if (pull)
        for (int64_t k = 0; k < stride; k += kLanes) {
          Value* const part = pull + kContrastRows * stride + k;
          store(load(pull + k) * smaller, pull + k);
          store(load(part) * smaller, part);
        }
      row.shift = highest;
    }
  }

  // Weights in place of a row's cosines with the columns of a tile.
  template <bool Running, bool Groups>
  static HASHFAST_INLINE void weigh(const Value* shift, int64_t width, Value inverse,
                                    Value* cosines, Value* pull, int64_t stride, Row& row) {
    Value base = 0;
    if constexpr (Running) {
      raise_shift<Groups>(cosines, shift, width, inverse, pull, stride, row);
      base = row.shift == -kInfinity ? 0 : row.shift;
    }
    Values sum{};
    for (int64_t c = 0; c < width; c += kLanes) {
      const Values found = logits<Groups>(load(cosines + c), shift + c, inverse, row);
      const Values weights = exponential(found - base);
      sum += weights;
      store(weights, cosines + c);
    }
    row.total += sum;
  }

  template <bool Running, bool Groups>
  static void run(const ContrastPass& task) {
    alignas(Bytes) Value cosines[kContrastRows * kContrastColumns];
    Row rows[kContrastRows];
    int64_t next[kContrastRows];
    for (int64_t i = 0; i < task.rows; ++i) {
      const int64_t group = Groups ? task.groups[i] : 0;
      rows[i] = {low_half(group), high_half(group), Values{}, -kInfinity};
      next[i] = task.offsets ? task.offsets[i] : 0;
    }
    const auto* const unit = static_cast<const Value*>(task.unit);
    auto* const pull = static_cast<Value*>(task.pull);
    const auto inverse = static_cast<Value>(task.inverse_temperature);
    const int64_t groups = (task.rows + kGroup - 1) / kGroup;
    const int64_t pulls = pull ? kContrastRows * task.stride : 0;
    // That of the last tiles, added when they are kTilesSummed: a plain sum over many columns would
    // lose digits of float32.
    Value* const part = pull + pulls;
    for (int64_t k = 0; k < 2 * pulls; k += kLanes) store(Values{}, pull + k);
    for (int64_t start = 0; start < task.columns; start += kContrastColumns) {
      const auto* const tile =
          static_cast<const Value*>(task.tiles) + start * (task.bits + kContrastExtraLines);
      const int64_t left = task.columns - start;
      const int64_t columns = left < kContrastColumns ? left : kContrastColumns;
      const int64_t width = (columns + kLanes - 1) / kLanes * kLanes;
      for (int64_t g = 0; g < groups; ++g)
        multiply_all(unit + g * kGroup * task.stride, task.stride, tile, kContrastColumns,
                     task.bits, width, cosines + g * kGroup * kContrastColumns, kContrastColumns,
                     false);
      for (int64_t i = 0; i < task.rows; ++i) {
        Value* const line = cosines + i * kContrastColumns;
        if (task.offsets)
          for (; next[i] < task.offsets[i + 1] && task.excluded[next[i]] < start + columns;
               ++next[i])
            line[task.excluded[next[i]] - start] = -kInfinity;
        weigh<Running, Groups>(tile + task.bits * kContrastColumns, width, inverse, line,
                               pull ? pull + i * task.stride : nullptr, task.stride, rows[i]);
      }
      if (!pull) continue;
      for (int64_t g = 0; g < groups; ++g)
        multiply_all(cosines + g * kGroup * kContrastColumns, kContrastColumns,
                     static_cast<const Value*>(task.values) + start * task.stride, task.stride,
                     columns, task.stride, part + g * kGroup * task.stride, task.stride, true);
      if (left <= kContrastColumns || (start / kContrastColumns + 1) % kTilesSummed == 0)
        for (int64_t k = 0; k < groups * kGroup * task.stride; k += kLanes) {
          store(load(pull + k) + load(part + k), pull + k);
          store(Values{}, part + k);
        }
    }
    for (int64_t i = 0; i < task.rows; ++i) {
      task.total[i] = static_cast<double>(sum(rows[i].total));
      const bool shifted = Running && rows[i].shift > -kInfinity;
      task.shift[i] = shifted ? static_cast<double>(rows[i].shift) : 0;
    }
  }

  static void pass(const ContrastPass& task) {
    if (task.running_shift)
      task.groups ? run<true, true>(task) : run<true, false>(task);
    else
      task.groups ? run<false, true>(task) : run<false, false>(task);
  }
};

// What reads and writes rows as they lie in memory.
template <class Scalar, int Bytes>
struct ContrastRows {
  using Value = typename Entries<Scalar, Bytes>::Value;
  using C = Contrast<Value, Bytes, 1>;
  using Values = typename C::Values;
  static constexpr int64_t kLanes = C::kLanes;

  static void units(const ContrastUnits& task) {
    for (int64_t i = 0; i < task.count; ++i) {
      const auto* const row = static_cast<const Scalar*>(task.rows) + i * task.row_stride;
      Value* const unit = static_cast<Value*>(task.unit) + i * task.stride;
      Values largest{};
      for (int64_t k = 0; k < task.stride; k += kLanes) {
        const Values values =
            k < task.bits ? load_entries<Scalar, Bytes>(row + k, task.bits - k) : Values{};
        C::store(values, unit + k);
        largest = C::max(largest, values < 0 ? -values : values);
      }
      Value most = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane)
        most = largest[lane] > most ? largest[lane] : most;
      // Divided by the largest first: squares of float32 overflow from 2e19 on. Infinity becomes
      // NaN, which spreads over its row.
      const Value scale = most > 0 ? most : C::kInfinity;
      Values squares{};
      for (int64_t k = 0; k < task.stride; k += kLanes) {
        const Values values = C::load(unit + k) / scale;
        C::store(values, unit + k);
        squares += values * values;
      }
      const Value square = C::sum(squares);
      const Value norm = square == 0 ? 1 : static_cast<Value>(__builtin_sqrt(square));
      for (int64_t k = 0; k < task.stride; k += kLanes)
        C::store(C::load(unit + k) / norm, unit + k);
      task.length[i] = static_cast<double>(scale * norm);
    }
  }

  static HASHFAST_INLINE Values direction(const Value* unit) {
    const Values values = C::load(unit);
    return values == values ? values : Values{};
  }

  // A pull on unit rows is on the rows themselves its part across them, divided by their length.
  static void gradient(const ContrastGradient& task) {
    for (int64_t i = 0; i < task.count; ++i) {
      const Value* const pull = static_cast<const Value*>(task.pull) + i * task.stride;
      const Value* const unit = static_cast<const Value*>(task.unit) + i * task.stride;
      Scalar* const out = static_cast<Scalar*>(task.gradient) + i * task.bits;
      const auto divisor = static_cast<Value>(task.divisor[i]);
      auto length = static_cast<Value>(task.length[i]);
      if (length != length) length = C::kInfinity;
      Values products{};
      for (int64_t k = 0; k < task.stride; k += kLanes)
        products += C::load(pull + k) / divisor * direction(unit + k);
      const Value along = C::sum(products);
      for (int64_t k = 0; k < task.bits; k += kLanes)
        store_entries<Scalar, Bytes>(
            (C::load(pull + k) / divisor - along * direction(unit + k)) / length, out + k,
            task.bits - k);
    }
  }
};

template <int Bytes, int Vectors>
constexpr ContrastKernels contrast_kernels_of() {
  return {{ContrastRows<double, Bytes>::units, ContrastRows<float, Bytes>::units,
           ContrastRows<Half, Bytes>::units, ContrastRows<BFloat, Bytes>::units},
          {ContrastRows<double, Bytes>::gradient, ContrastRows<float, Bytes>::gradient,
           ContrastRows<Half, Bytes>::gradient, ContrastRows<BFloat, Bytes>::gradient},
          {Contrast<double, Bytes, Vectors>::tile, Contrast<float, Bytes, Vectors>::tile},
          {Contrast<double, Bytes, Vectors>::pass, Contrast<float, Bytes, Vectors>::pass}};
}

}  // namespace hashfast
