// The parts of class_mmd that are compiled once for each instruction set. What lies behind this
// interface must not use library templates: the linker could keep the copy of one instruction set
// for all.
#pragma once

#include "binary_wasserstein_kernels.h"

namespace hashfast {

// Columns that are summed together: their totals and eight rows fit the first cache.
constexpr int64_t kClassColumns = 1024;

// Some columns of the rows of one class; entries of a row are adjacent.
struct ClassRows {
  const void* features;  // the first column of row 0
  int64_t row_stride;    // in entries
  const int64_t* rows;
  int64_t count;
};

// Means of one class on both sides, neither of them empty, over at most kClassColumns columns.
struct ClassGap {
  ClassRows real, synthetic;
  int64_t columns;
  void* difference;  // [columns] real mean - synthetic mean, double for float64, otherwise float
  double* squared;   // sum of its squares
};

// The gradient of a class mean: every row of the class gets the same.
struct ClassSpread {
  const void* grad;  // [columns], double for float64, otherwise float
  double scale;
  int64_t columns;
  const int64_t* rows;
  int64_t count;   // at least 1
  void* gradient;  // [n, columns], contiguous: row r becomes scale * grad
};

struct ClassKernels {
  void (*gap[kFloatings])(const ClassGap&);
  void (*spread[kFloatings])(const ClassSpread&);
};

namespace portable {
extern const ClassKernels class_kernels;
}
namespace avx2 {
extern const ClassKernels class_kernels;
}
namespace avx512 {
extern const ClassKernels class_kernels;
}

}  // namespace hashfast
