// class_mmd with 128-bit vectors, which every 64-bit CPU has.
#include "class_mmd_rows.h"

namespace hashfast::portable {
constinit const ClassKernels class_kernels = class_kernels_of<16>();
}  // namespace hashfast::portable
