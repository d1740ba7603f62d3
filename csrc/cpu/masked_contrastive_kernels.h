// The parts of masked_contrastive that are compiled once for each instruction set. What lies behind
// this interface must not use library templates: the linker could keep the copy of one instruction
// set for all.
//
// Forward, the rows are anchors and the columns keys; backward, which is about the keys, it is the
// other way round. Values are double for float64, otherwise float.
#pragma once

#include "binary_wasserstein_kernels.h"

namespace hashfast {

// A tile's weights and its rows stay in the first two caches.
constexpr int64_t kContrastRows = 48, kContrastColumns = 64;
// Rows that are multiplied together; a last group of fewer is computed with what lies behind it.
constexpr int64_t kContrastGroup = 6;

// Divides rows by their lengths. A row of zeros stays zero and has length infinity; one with a
// value that is not finite becomes NaN.
struct ContrastUnits {
  const void* rows;
  int64_t row_stride;  // in entries; those of a row are adjacent
  int64_t count, bits, stride;
  void* unit;      // [count, stride], 0 from `bits` on
  double* length;  // [count]
};

// What a pass reads of kContrastColumns columns, beside their values: [bits] unit entries, what
// their logits are lowered by (infinity where there is no column), low and high half of their
// group.
constexpr int64_t kContrastExtraLines = 3;

struct ContrastTile {
  int64_t count, bits, stride;
  const double *factor, *shift;  // [count], 1 and 0 where there are none
  const int64_t* groups;         // [count], none if null
  void* values;  // [count, stride]: unit columns, which become factor * unit, 0 where not finite
  void* tile;  // [bits + kContrastExtraLines, kContrastColumns]; NaN where the factor is not finite
};

// At most kContrastRows rows with all columns: sums of weights exp(cosine / temperature - shift),
// and of weights times values.
struct ContrastPass {
  const void *tiles, *values;
  int64_t columns, bits, stride;
  double inverse_temperature;
  const void* unit;  // [rows up to a whole group, stride]
  int64_t rows;
  const int64_t* groups;  // [rows], null if columns have none
  // Columns not allowed for row i, ascending: excluded[offsets[i]] up to offsets[i + 1]; or null.
  const int64_t *offsets, *excluded;
  bool running_shift;     // shift by the largest logit so far, which `shift` then gets
  void* pull;             // [rows, stride], null if not wanted; room for 2 kContrastRows rows
  double *total, *shift;  // [rows]
};

// The gradient in rows of the gradient pull / divisor in their unit rows.
struct ContrastGradient {
  const void *pull, *unit;
  const double *divisor, *length;
  int64_t count, bits, stride;
  void* gradient;  // [count, bits]
};

struct ContrastKernels {
  void (*units[kFloatings])(const ContrastUnits&);
  void (*gradient[kFloatings])(const ContrastGradient&);
  void (*tile[kFloat32 + 1])(const ContrastTile&);
  void (*pass[kFloat32 + 1])(const ContrastPass&);
};

namespace portable {
extern const ContrastKernels contrast_kernels;
}
namespace avx2 {
extern const ContrastKernels contrast_kernels;
}
namespace avx512 {
extern const ContrastKernels contrast_kernels;
}

}  // namespace hashfast
