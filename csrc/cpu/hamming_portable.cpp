// The Hamming scan with 128-bit vectors, which every 64-bit CPU has; the compiler maps them.
#include "hamming_direct.h"

namespace hashfast::portable {
namespace {

struct Simd {
  using V = uint64_t __attribute__((vector_size(16)));
  static constexpr bool kPopcount = false;
  static HASHFAST_INLINE V xor3(V a, V b, V c) { return a ^ b ^ c; }
  static HASHFAST_INLINE V majority(V a, V b, V c) { return (a & b) | ((a ^ b) & c); }
  template <int Pattern>
  static HASHFAST_INLINE V majority_of(V a, V b, V c) {
    return majority(Pattern & 4 ? ~a : a, Pattern & 2 ? ~b : b, Pattern & 1 ? ~c : c);
  }
  static HASHFAST_INLINE bool any(V a) { return (a[0] | a[1]) != 0; }
  static HASHFAST_INLINE int64_t rows_of(V a, uint16_t* out) { return set_bits(a, out); }
  static void planes(const uint8_t* codes, int64_t bytes, int64_t word, V* out) {
    transpose_planes(codes, bytes, word, out);
  }
};

bool is_faster(int64_t, int64_t queries, double) { return queries <= 2; }

void arrange(const Block&, int64_t) {}

}  // namespace

constinit const HammingKernels hamming_kernels = Slices<Simd>::kernels(
    {is_faster, arrange, scan_scalar<Simd, Find<Simd>>, scan_scalar<Simd, Count>});

}  // namespace hashfast::portable
