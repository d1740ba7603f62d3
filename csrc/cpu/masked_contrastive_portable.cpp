// masked_contrastive with 128-bit vectors, which every 64-bit CPU has.
#include "masked_contrastive_tiles.h"

namespace hashfast::portable {
constinit const ContrastKernels contrast_kernels = contrast_kernels_of<16, 2>();
}  // namespace hashfast::portable
