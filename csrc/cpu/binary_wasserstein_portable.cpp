// binary_wasserstein with 128-bit vectors, which every 64-bit CPU has.
#include "binary_wasserstein_columns.h"

namespace hashfast::portable {
namespace {

struct Simd {
  static constexpr int kBytes = 16;
  template <class Mask>
  static HASHFAST_INLINE bool any(Mask mask) {
    uint64_t words[2];
    std::memcpy(words, &mask, sizeof(mask));
    return (words[0] | words[1]) != 0;
  }
  template <class Keys>
  static HASHFAST_INLINE Keys count_below(Keys counts, Keys keys, Keys pivot) {
    return counts - (keys < pivot);
  }
};

}  // namespace

constinit const WassersteinKernels wasserstein_kernels = wasserstein_kernels_of<Simd>();

}  // namespace hashfast::portable
