"""Triton class_mmd in two stages, and the gradient of class means; no atomics.

Programs add up parts of the rows of a class, then others combine the parts: few classes with many
rows fill the GPU too. How classes are split depends on shapes only, and every sum is taken in a
fixed order, so results are bit-identical from run to run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 16
BLOCK_DIMS = 128
# Programs that keep a large GPU busy, and rows that are worth one of their own.
PROGRAMS = 2048
ROWS_EACH = 32


@triton.jit
def _part_of_class(
    features, stride_row, stride_dim, rows, offsets, group, part, parts, dims, in_range,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum of the rows of one of `parts` equal pieces of a class."""
    start = tl.load(offsets + group)
    end = tl.load(offsets + group + 1)
    length = (end - start + parts - 1) // parts
    first = start + part * length
    end = tl.minimum(first + length, end)
    total = tl.zeros((BLOCK_ROWS, BLOCK_DIMS), ACC)
    while first < end:  # not range(): triton 3.6 interprets it wrongly beside NumPy 2.4
        position = first + tl.arange(0, BLOCK_ROWS)
        row = tl.load(rows + position, mask=position < end, other=0)
        mask = (position < end)[:, None] & in_range[None, :]
        at = features + row[:, None] * stride_row + dims[None, :] * stride_dim
        total += tl.load(at, mask=mask, other=0.0).to(ACC)
        first += BLOCK_ROWS
    return tl.sum(total, axis=0)


@triton.jit
def class_sums_kernel(
    real, real_stride_row, real_stride_dim, real_rows, real_offsets,
    synthetic, synthetic_stride_row, synthetic_stride_dim, synthetic_rows, synthetic_offsets,
    sums, num_dims, real_parts, synthetic_parts,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """sums [real parts + synthetic parts, C, D]; grid (C, D blocks, parts)."""
    group = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1).to(tl.int64) * BLOCK_DIMS + tl.arange(0, BLOCK_DIMS)
    part = tl.program_id(2).to(tl.int64)
    in_range = dims < num_dims
    if part < real_parts:
        total = _part_of_class(
            real, real_stride_row, real_stride_dim, real_rows, real_offsets, group,
            part, real_parts, dims, in_range, BLOCK_ROWS, BLOCK_DIMS, ACC,
        )  # fmt: skip
    else:
        total = _part_of_class(
            synthetic, synthetic_stride_row, synthetic_stride_dim, synthetic_rows,
            synthetic_offsets, group, part - real_parts, synthetic_parts, dims, in_range,
            BLOCK_ROWS, BLOCK_DIMS, ACC,
        )  # fmt: skip
    at = (part * tl.num_programs(0) + group) * num_dims + dims
    tl.store(sums + at, total, mask=in_range)


@triton.jit
def _mean(sums, first, end, step, count, in_range, BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr):
    total = tl.zeros((BLOCK_DIMS,), ACC)
    part = first
    while part < end:
        total += tl.load(sums + part * step, mask=in_range, other=0.0)
        part += 1
    return total / tl.maximum(count, 1).to(ACC)


@triton.jit
def class_gaps_kernel(
    sums, real_offsets, synthetic_offsets, difference, squared,
    num_dims, real_parts, synthetic_parts,
    BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """difference [C, D] = mean real - mean synthetic; squared [C, D blocks] = sums of squares."""
    group = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1).to(tl.int64) * BLOCK_DIMS + tl.arange(0, BLOCK_DIMS)
    in_range = dims < num_dims
    real_count = tl.load(real_offsets + group + 1) - tl.load(real_offsets + group)
    synthetic_count = tl.load(synthetic_offsets + group + 1) - tl.load(synthetic_offsets + group)
    at = group * num_dims + dims
    step = tl.num_programs(0).to(tl.int64) * num_dims
    parts = real_parts + synthetic_parts
    gap = _mean(sums + at, 0, real_parts, step, real_count, in_range, BLOCK_DIMS, ACC) - _mean(
        sums + at, real_parts, parts, step, synthetic_count, in_range, BLOCK_DIMS, ACC
    )
    # where, not *: an absent class counts 0 even when its rows are infinite.
    gap = tl.where((real_count > 0) & (synthetic_count > 0) & in_range, gap, 0.0)
    tl.store(difference + at, gap, mask=in_range)
    tl.store(squared + group * tl.num_programs(1) + tl.program_id(1), tl.sum(gap * gap, axis=0))


@triton.jit
def class_mean_backward_kernel(
    grad, grad_stride_class, grad_stride_dim, scale, rows, offsets, gradient,
    num_rows, num_classes, num_dims,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIMS: tl.constexpr,
):  # fmt: skip
    """gradient [n, D]: scale * grad of each row's class / rows of the class; 0 without a class."""
    position = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    dims = tl.program_id(1).to(tl.int64) * BLOCK_DIMS + tl.arange(0, BLOCK_DIMS)
    valid = position < num_rows
    # Binary search: how many offsets are at most the position.
    low = tl.zeros((BLOCK_ROWS,), tl.int64)
    high = tl.zeros((BLOCK_ROWS,), tl.int64) + num_classes + 1
    width = num_classes + 1
    while width > 0:
        middle = (low + high) // 2
        open = low < high
        below = open & (tl.load(offsets + middle, mask=open, other=0) <= position)
        low = tl.where(below, middle + 1, low)
        high = tl.where(open & (below == 0), middle, high)
        width = width // 2
    group = low - 1
    inside = valid & (group >= 0) & (group < num_classes)
    start = tl.load(offsets + group, mask=inside, other=0)
    count = tl.load(offsets + group + 1, mask=inside, other=1) - start
    mask = inside[:, None] & (dims < num_dims)[None, :]
    at = grad + group[:, None] * grad_stride_class + dims[None, :] * grad_stride_dim
    values = tl.load(at, mask=mask, other=0.0)
    values = values * (tl.load(scale) / count.to(values.dtype))[:, None]
    values = tl.where(mask, values, 0.0)  # 0, not NaN, also where the scale is infinite
    row = tl.load(rows + position, mask=valid, other=0)
    out = gradient + row[:, None] * num_dims + dims[None, :]
    tl.store(
        out, values.to(gradient.dtype.element_ty), mask=valid[:, None] & (dims < num_dims)[None, :]
    )


def parts(num_rows: int, num_classes: int, blocks: int) -> int:
    """Into how many pieces every class is split, from shapes alone."""
    wanted = triton.cdiv(PROGRAMS, num_classes * blocks)
    return max(1, min(wanted, triton.cdiv(num_rows, num_classes * ROWS_EACH)))


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
    acc = tl.float64 if dtype == torch.float64 else tl.float32
    difference = torch.empty(num_classes, num_dims, dtype=dtype, device=real.device)
    blocks = triton.cdiv(num_dims, BLOCK_DIMS)
    squared = torch.empty(num_classes, blocks, dtype=dtype, device=real.device)
    if squared.numel():
        real_parts = parts(len(real), num_classes, blocks)
        synthetic_parts = parts(len(synthetic), num_classes, blocks)
        both = real_parts + synthetic_parts
        sums = torch.empty(both, num_classes, num_dims, dtype=dtype, device=real.device)
        real_offsets, synthetic_offsets = real_offsets.contiguous(), synthetic_offsets.contiguous()
        with torch.cuda.device_of(real):  # Triton launches on the current device
            class_sums_kernel[num_classes, blocks, both](
                real, *real.stride(), real_rows.contiguous(), real_offsets,
                synthetic, *synthetic.stride(), synthetic_rows.contiguous(), synthetic_offsets,
                sums, num_dims, real_parts, synthetic_parts, BLOCK_ROWS, BLOCK_DIMS, acc,
            )  # fmt: skip
            class_gaps_kernel[num_classes, blocks](
                sums, real_offsets, synthetic_offsets, difference, squared,
                num_dims, real_parts, synthetic_parts, BLOCK_DIMS, acc,
            )  # fmt: skip
    return squared.sum(), difference


def backward(
    grad: Tensor, scale: Tensor, rows: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """Gradient [n, D] as class_mean_backward's reference in hashfast/ops/class_mmd.py."""
    num_classes, num_dims = grad.shape
    gradient = torch.empty(len(rows), num_dims, dtype=dtype, device=grad.device)
    if gradient.numel():
        grid = triton.cdiv(len(rows), BLOCK_ROWS), triton.cdiv(num_dims, BLOCK_DIMS)
        with torch.cuda.device_of(grad):
            class_mean_backward_kernel[grid](
                grad, *grad.stride(), scale, rows.contiguous(), offsets.contiguous(), gradient,
                len(rows), num_classes, num_dims, BLOCK_ROWS, BLOCK_DIMS,
            )  # fmt: skip
    return gradient
