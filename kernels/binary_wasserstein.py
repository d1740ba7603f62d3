"""Triton forward of binary_wasserstein: one program a column, radix selection by comparisons.

A column's entries become integers that order like them. The one of rank k is found four bits at a
time, by counting the entries below fifteen pivots. No atomics: results are the same in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of a block in the loop over a column that does not fit into registers.
LOOP_ROWS = 1024
# Random numbers drawn at a time, 128 bits each.
RANDOM_BLOCKS = 64

INTEGERS = {
    torch.float64: tl.int64,
    torch.float32: tl.int32,
    torch.float16: tl.int16,
    torch.bfloat16: tl.int16,
}


@triton.jit
def _ones(words, used):
    """How many of the first `used` bits of 32-bit words are set."""
    full = tl.full(words.shape, 0xFFFFFFFF, tl.uint32)
    used = tl.minimum(tl.maximum(used, 0), 32)
    keep = tl.where(used > 0, full >> tl.where(used > 0, 32 - used, 0).to(tl.uint32), 0)
    x = words & keep.to(tl.uint32)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return ((x + (x >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def _binomial_half(seed, column, num_rows, BLOCKS: tl.constexpr):
    """Ones among a column's first num_rows random bits, as hashfast/ops/_philox.py counts them."""
    total = tl.zeros((BLOCKS,), tl.int32)
    zero = tl.zeros((BLOCKS,), tl.uint32)
    first = 0
    while first * 128 < num_rows:
        block = first + tl.arange(0, BLOCKS)
        left = num_rows - block.to(tl.int64) * 128
        w0, w1, w2, w3 = tl.philox(
            seed, block.to(tl.uint32), zero, zero + column.to(tl.uint32), zero
        )
        total += _ones(w0, left) + _ones(w1, left - 32)
        total += _ones(w2, left - 64) + _ones(w3, left - 96)
        first += BLOCKS
    return tl.sum(total, axis=0)


@triton.jit
def _load(column, first, num_rows, stride, BLOCK: tl.constexpr):
    rows = first + tl.arange(0, BLOCK)
    return tl.load(column + rows.to(tl.int64) * stride, mask=rows < num_rows, other=0.0), rows


@triton.jit
def _keys(values, rows, num_rows, KEY: tl.constexpr, ACC: tl.constexpr):
    """Integers that order like the values: zeros equal, NaN above all, and above NaN no row."""
    width: tl.constexpr = KEY.primitive_bitwidth
    most: tl.constexpr = 2 ** (width - 1) - 1
    bits = values.to(KEY, bitcast=True)
    key = bits ^ ((bits >> (width - 1)) & most)
    wide = values.to(ACC)  # the interpreter compares bfloat16 by its bits
    key = tl.where(wide == 0, 0, key)
    key = tl.where(wide != wide, most - 1, key)
    return tl.where(rows < num_rows, key, most).to(KEY)


@triton.jit
def binary_wasserstein_kernel(
    outputs, row_stride, column_stride, negatives, seed,
    target, target_row_stride, target_column_stride, distances, num_rows,
    MODE: tl.constexpr, KEY: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    HELD: tl.constexpr, DIGIT: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """MODE: where the number of -1s is from, "given", "seeded" or "balanced"; HELD: one block."""
    column = tl.program_id(0).to(tl.int64)
    at = outputs + column * column_stride
    if MODE == "given":
        wanted = tl.minimum(tl.maximum(tl.load(negatives + column), 0), num_rows)
    elif MODE == "seeded":
        wanted = _binomial_half(tl.load(seed), column, num_rows, BLOCKS)
    else:
        wanted = num_rows // 2
    median = (MODE == "balanced") & (num_rows % 2 == 1)

    width: tl.constexpr = KEY.primitive_bitwidth
    values, rows = _load(at, 0, num_rows, row_stride, BLOCK)
    keys = _keys(values, rows, num_rows, KEY, ACC)

    # The largest pivot with at most `wanted` keys below it: the key of that rank.
    digit = tl.arange(0, 2**DIGIT).to(KEY)
    pivot = tl.full((), -(2 ** (width - 1)), KEY)
    below = tl.full((), 0, tl.int32)
    shift = width - DIGIT
    while shift >= 0:
        pivots = pivot + (digit << shift.to(KEY))
        counts = tl.zeros((2**DIGIT,), tl.int32)
        if HELD:
            counts += tl.sum((keys[:, None] < pivots[None, :]).to(tl.int32), axis=0)
        else:
            first = 0
            while first < num_rows:
                values, rows = _load(at, first, num_rows, row_stride, BLOCK)
                keys = _keys(values, rows, num_rows, KEY, ACC)
                counts += tl.sum((keys[:, None] < pivots[None, :]).to(tl.int32), axis=0)
                first += BLOCK
        fits = counts <= wanted
        pivot = tl.max(tl.where(fits, pivots, pivot), axis=0).to(KEY)  # max widens short integers
        below = tl.max(tl.where(fits, counts, 0), axis=0)
        shift -= DIGIT

    # Of the keys equal to the pivot the first `ties` rows are negatives.
    ties = wanted - below
    equal_before = tl.full((), 0, tl.int32)
    total = tl.zeros((BLOCK,), ACC)
    first = 0
    while first < num_rows:
        if not HELD:
            values, rows = _load(at, first, num_rows, row_stride, BLOCK)
            keys = _keys(values, rows, num_rows, KEY, ACC)
        equal = (keys == pivot).to(tl.int32)
        order = equal_before + tl.cumsum(equal, axis=0) - equal
        negative = (keys < pivot) | ((equal == 1) & (order < ties))
        sign = tl.where(negative, -1, 1)
        sign = tl.where((equal == 1) & (order == ties) & median, 0, sign)
        mask = rows < num_rows
        place = target + rows.to(tl.int64) * target_row_stride + column * target_column_stride
        tl.store(place, sign.to(tl.int8), mask=mask)
        gap = values.to(ACC) - sign.to(ACC)
        total += tl.where(mask, gap * gap, 0.0)
        equal_before += tl.sum(equal, axis=0)
        first += BLOCK
    tl.store(distances + column, tl.sum(total, axis=0) / num_rows)


def configuration(n: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of the kernel for columns of n rows; each is compiled and checked for spills.

    Short columns are held in registers, longer ones are read again for every digit.
    """
    block = max(16, triton.next_power_of_2(n))
    held = block <= (2048 if dtype == torch.float64 else 4096)
    block = block if held else LOOP_ROWS
    return {
        "BLOCK": block,
        "HELD": held,
        "DIGIT": 4 if block <= 1024 else 2,
        "BLOCKS": RANDOM_BLOCKS,
        "num_warps": max(1, min(16, block // 128)),
    }


def forward(
    outputs: Tensor, negatives: Tensor | None, seed: Tensor | None, mean: bool
) -> tuple[Tensor, Tensor]:
    """(distances [b] or their mean, target int8 [n, b]) as hashfast/ops/binary_wasserstein.py."""
    n, bits = outputs.shape
    acc = torch.float64 if outputs.dtype == torch.float64 else torch.float32
    distances = outputs.new_zeros(bits, dtype=acc)
    target = outputs.new_empty((n, bits), dtype=torch.int8)
    if n and bits:
        constants = configuration(n, outputs.dtype)
        held = constants["HELD"]
        # Long columns are read many times: each of them in one piece.
        source = outputs if held else outputs.t().contiguous().t()
        signs = target if held else outputs.new_empty((bits, n), dtype=torch.int8).t()
        mode = "given" if negatives is not None else "seeded" if seed is not None else "balanced"
        with torch.cuda.device_of(outputs):  # Triton launches on the current device
            binary_wasserstein_kernel[(bits,)](
                source, *source.stride(),
                None if negatives is None else negatives.contiguous(), seed,
                signs, *signs.stride(), distances, n,
                mode, INTEGERS[outputs.dtype],
                tl.float64 if acc == torch.float64 else tl.float32, **constants,
            )  # fmt: skip
        if not held:
            target = signs.contiguous()
    return distances.mean() if mean else distances, target
