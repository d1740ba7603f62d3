// The parts of binary_wasserstein that are compiled once for each instruction set. What lies behind
// this interface must not use library templates: the linker could keep the copy of one instruction
// set for all.
#pragma once

#include <cstdint>

#include "floating.h"

namespace hashfast {

// A matrix as it lies in memory; strides count entries.
struct Matrix {
  const void* data;
  int64_t rows, columns, row_stride, column_stride;
};

// Adjacent columns, at most as many as a vector has lanes.
struct Columns {
  Matrix outputs;
  const int64_t* negatives;  // how many entries of each column have target -1, 0 to rows
  bool median;               // the entry after them has target 0
  int8_t* target;            // where the first entry's goes
  int64_t target_stride;     // between rows
  double* sums;              // of each column: squared differences to the target
  void* keys;                // room for `rows` vectors, aligned to vector_bytes
};

struct Gradient {
  Matrix outputs;
  const int8_t* target;  // [rows, columns], contiguous
  const void* scale;     // [columns], double for float64, otherwise float
  void* gradient;        // [rows, columns], contiguous: scale (outputs - target)
};

struct WassersteinKernels {
  int64_t vector_bytes;  // a column takes 8 of them for float64, otherwise 4
  void (*columns[kFloatings])(const Columns&);
  void (*gradient[kFloatings])(const Gradient&);
  // Binomial(rows, 1/2) of the columns from `first` on, as hashfast/ops/_philox.py draws it.
  void (*binomial_half)(uint64_t seed, int64_t rows, int64_t first, int64_t columns,
                        int64_t* counts);
};

namespace portable {
extern const WassersteinKernels wasserstein_kernels;
}
namespace avx2 {
extern const WassersteinKernels wasserstein_kernels;
}
namespace avx512 {
extern const WassersteinKernels wasserstein_kernels;
}

}  // namespace hashfast
