// Products of single bits on tensor cores: d = popcount(a AND b) + c for 16 x 8 pairs of rows.
//
// Lane l of a warp has group l / 4 and place l % 4 (PTX ISA, mma.m16n8k128 and m16n8k256 with .b1):
//   a[0], a[1]  bits 32 place .. + 31 of rows group and group + 8; a[2], a[3] the same from bit 128
//   b[0], b[1]  bits 32 place .. + 31 of column group, and from bit 128
//   c[0..3]     row group: columns 2 place, 2 place + 1; row group + 8: the same columns
#pragma once

#include "device.cuh"

// Tensor cores before these do not multiply bits in such shapes, later ones only by emulation.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 1000)
#define HASHFAST_NO_B1_MMA
#endif

#ifdef __CUDACC__
namespace hashfast {

__device__ __forceinline__ void mma_b1(int (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1],
                                       const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

__device__ __forceinline__ void mma_b1(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                       const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
}

}  // namespace hashfast
#endif
