"""Triton forward of class_mmd: one program per class and block of dimensions, no atomics.

Every sum is taken in a fixed order, so results are bit-identical from run to run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 8
BLOCK_DIMS = 128


@triton.jit
def _class_mean(
    features, stride_row, stride_dim, rows, start, end, dims, in_range,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((BLOCK_DIMS,), ACC)
    first = start
    while first < end:  # not range(): triton 3.6 interprets it wrongly beside NumPy 2.4
        position = first + tl.arange(0, BLOCK_ROWS)
        row = tl.load(rows + position, mask=position < end, other=0)
        mask = (position < end)[:, None] & in_range[None, :]
        at = features + row[:, None] * stride_row + dims[None, :] * stride_dim
        total += tl.sum(tl.load(at, mask=mask, other=0.0).to(ACC), axis=0)
        first += BLOCK_ROWS
    return total / tl.maximum(end - start, 1).to(ACC)


@triton.jit
def class_mmd_kernel(
    real, real_stride_row, real_stride_dim, real_rows, real_offsets,
    synthetic, synthetic_stride_row, synthetic_stride_dim, synthetic_rows, synthetic_offsets,
    difference, partial, num_dims,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """difference [C, D] = mean real - mean synthetic; partial [C, D blocks] = its squared sums."""
    group = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1).to(tl.int64) * BLOCK_DIMS + tl.arange(0, BLOCK_DIMS)
    in_range = dims < num_dims
    real_start = tl.load(real_offsets + group)
    real_end = tl.load(real_offsets + group + 1)
    synthetic_start = tl.load(synthetic_offsets + group)
    synthetic_end = tl.load(synthetic_offsets + group + 1)
    gap = _class_mean(
        real, real_stride_row, real_stride_dim, real_rows, real_start, real_end, dims, in_range,
        BLOCK_ROWS, BLOCK_DIMS, ACC,
    ) - _class_mean(
        synthetic, synthetic_stride_row, synthetic_stride_dim, synthetic_rows,
        synthetic_start, synthetic_end, dims, in_range, BLOCK_ROWS, BLOCK_DIMS, ACC,
    )  # fmt: skip
    present = (real_end > real_start) & (synthetic_end > synthetic_start)
    gap = tl.where(present, gap, 0.0)
    tl.store(difference + group * num_dims + dims, gap, mask=in_range)
    squared = tl.sum(tl.where(in_range, gap * gap, 0.0), axis=0)
    tl.store(partial + group * tl.num_programs(1) + tl.program_id(1), squared)


def forward(
    real: Tensor,
    synthetic: Tensor,
    real_rows: Tensor,
    real_offsets: Tensor,
    synthetic_rows: Tensor,
    synthetic_offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """(loss, difference [C, D]) as the reference in hashfast/ops/class_mmd.py."""
    num_classes, num_dims = len(real_offsets) - 1, real.shape[1]
    dtype = torch.float64 if real.dtype == torch.float64 else torch.float32
    difference = torch.empty(num_classes, num_dims, dtype=dtype, device=real.device)
    blocks = triton.cdiv(num_dims, BLOCK_DIMS)
    partial = torch.empty(num_classes, blocks, dtype=dtype, device=real.device)
    if partial.numel():
        with torch.cuda.device_of(real):  # Triton launches on the current device
            class_mmd_kernel[num_classes, blocks](
                real, *real.stride(), real_rows, real_offsets,
                synthetic, *synthetic.stride(), synthetic_rows, synthetic_offsets,
                difference, partial, num_dims,
                BLOCK_ROWS, BLOCK_DIMS, tl.float64 if dtype == torch.float64 else tl.float32,
            )  # fmt: skip
    return partial.sum(), difference
