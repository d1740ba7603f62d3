// Sums over the rows of a class, adjacent columns in the lanes of a vector. A column's sum does not
// depend on the columns beside it: eight rows at a time are added as a tree, these sums in order.
#pragma once

#include "class_mmd_kernels.h"
#include "entries.h"

namespace hashfast {

template <class Scalar, int Bytes>
struct ClassMeans {
  using E = Entries<Scalar, Bytes>;
  using Value = typename E::Value;
  using Values = typename E::Values;
  static constexpr int64_t kLanes = Bytes / sizeof(Value);
  static constexpr int64_t kVectors = kClassColumns / kLanes;

  // The sum of Rows rows, one column a lane.
  template <int Rows>
  static HASHFAST_INLINE Values tree(const Scalar* const* row, int64_t column, int64_t columns) {
    if constexpr (Rows == 1)
      return load_entries<Scalar, Bytes>(row[0] + column, columns);
    else
      return tree<Rows / 2>(row, column, columns) + tree<Rows / 2>(row + Rows / 2, column, columns);
  }

  template <int Rows>
  static HASHFAST_INLINE int64_t add(const ClassRows& side, int64_t first, int64_t columns,
                                     Values* total) {
    const Scalar* row[Rows];
    for (int i = 0; i < Rows; ++i)
      row[i] = static_cast<const Scalar*>(side.features) + side.rows[first + i] * side.row_stride;
    int64_t column = 0, vector = 0;
    for (; column + kLanes <= columns; column += kLanes)
      total[vector++] += tree<Rows>(row, column, kLanes);
    if (column < columns) total[vector] += tree<Rows>(row, column, columns - column);
    return first + Rows;
  }

  static void sum(const ClassRows& side, int64_t columns, Values* total) {
    for (int64_t vector = 0; vector * kLanes < columns; ++vector) total[vector] = Values{};
    int64_t first = 0;
    while (first + 8 <= side.count) first = add<8>(side, first, columns, total);
    if (side.count & 4) first = add<4>(side, first, columns, total);
    if (side.count & 2) first = add<2>(side, first, columns, total);
    if (side.count & 1) add<1>(side, first, columns, total);
  }

  static void gap(const ClassGap& task) {
    Values real[kVectors], synthetic[kVectors];
    sum(task.real, task.columns, real);
    sum(task.synthetic, task.columns, synthetic);
    const auto real_count = static_cast<Value>(task.real.count);
    const auto synthetic_count = static_cast<Value>(task.synthetic.count);
    auto* const difference = static_cast<Value*>(task.difference);
    Values squares{};
    for (int64_t column = 0; column < task.columns; column += kLanes) {
      const int64_t vector = column / kLanes;
      // Lanes beyond the columns are 0 - 0.
      const Values gap = real[vector] / real_count - synthetic[vector] / synthetic_count;
      store_entries<Value, Bytes>(gap, difference + column, task.columns - column);
      squares += gap * gap;
    }
    double squared = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) squared += static_cast<double>(squares[lane]);
    *task.squared = squared;
  }

  static void spread(const ClassSpread& task) {
    const auto* const grad = static_cast<const Value*>(task.grad);
    auto* const out = static_cast<Scalar*>(task.gradient);
    Scalar* const first = out + task.rows[0] * task.columns;
    const auto scale = static_cast<Value>(task.scale);
    for (int64_t column = 0; column < task.columns; column += kLanes) {
      const int64_t left = task.columns - column;
      const Values values = load_entries<Value, Bytes>(grad + column, left);
      store_entries<Scalar, Bytes>(scale * values, first + column, left);
    }
    for (int64_t i = 1; i < task.count; ++i)
      std::memcpy(out + task.rows[i] * task.columns, first, task.columns * sizeof(Scalar));
  }
};

template <int Bytes>
constexpr ClassKernels class_kernels_of() {
  return {{ClassMeans<double, Bytes>::gap, ClassMeans<float, Bytes>::gap,
           ClassMeans<Half, Bytes>::gap, ClassMeans<BFloat, Bytes>::gap},
          {ClassMeans<double, Bytes>::spread, ClassMeans<float, Bytes>::spread,
           ClassMeans<Half, Bytes>::spread, ClassMeans<BFloat, Bytes>::spread}};
}

}  // namespace hashfast
