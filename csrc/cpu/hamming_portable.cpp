// The Hamming scan with 128-bit vectors, which every 64-bit CPU has.
#include "hamming_plain.h"

namespace hashfast::portable {
namespace {

struct Simd : PlainSimd<uint64_t __attribute__((vector_size(16)))> {};

// Without a popcount instruction it soon is the slower one.
bool is_faster(int64_t, int64_t queries, double) { return queries <= 2; }

void arrange(const Block&, int64_t) {}

}  // namespace

constinit const HammingKernels hamming_kernels = Slices<Simd>::kernels(
    {is_faster, arrange, scan_scalar<Simd, Find<Simd>>, scan_scalar<Simd, Count>});

}  // namespace hashfast::portable
