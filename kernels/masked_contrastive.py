"""Triton masked_contrastive: cosines a tile at a time, in registers; no atomics.

The products are taken of rows scaled by powers of two, which is exact, and the norms divide the
products: codes in half precision, +-1 and 0, lose nothing, and float32 rows are multiplied in three
tf32 parts. A program holds some rows and passes over a part of the columns; sums of exponentials
need no shift at usual temperatures, so parts are simply added. How columns are split depends on
shapes only, and every sum is taken in a fixed order: results are bit-identical from run to run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that keep a large GPU busy.
PROGRAMS = 264
# As in the operation: up to exp(this) no shift is needed.
LARGEST_LOGIT = 40.0
# Entries of the rows that a program of the last stage combines.
COMBINED = 1024


@triton.jit
def scale_rows_kernel(
    rows, stride_row, stride_dim, scaled, inverse, power, num_dims,
    BLOCK_DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """scaled [n, D] = rows / power of two, largest entry in [1, 2); inverse [n] = 1 / norm of it.

    A zero row has inverse 0; a row with NaN or infinity has inverse NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, BLOCK_DIMS)
    values = tl.load(
        rows + row * stride_row + dims * stride_dim, mask=dims < num_dims, other=0.0
    ).to(ACC)
    largest = tl.max(tl.abs(values), axis=0)
    wide: tl.constexpr = ACC.primitive_bitwidth == 64
    if wide:
        exponent = largest.to(tl.int64, bitcast=True) & 0x7FF0000000000000
        scale = tl.maximum(exponent, 0x0010000000000000).to(ACC, bitcast=True)
    else:
        exponent = largest.to(tl.int32, bitcast=True) & 0x7F800000
        scale = tl.maximum(exponent, 0x00800000).to(ACC, bitcast=True)
    values = values / scale
    square = tl.sum(values * values, axis=0)
    zero = square == 0
    tl.store(inverse + row, tl.where(zero, 0.0, 1 / tl.sqrt(tl.where(zero, 1.0, square))))
    tl.store(power + row, scale)
    tl.store(
        scaled + row * num_dims + dims, values.to(scaled.dtype.element_ty), mask=dims < num_dims
    )


@triton.jit
def _allowed(
    allowed, anchor, key, anchor_groups, key_groups, excluded, num_anchors, num_excluded,
    KEYS: tl.constexpr, GROUPS: tl.constexpr, EXCLUDED: tl.constexpr,
):  # fmt: skip
    """Masks of pairs: [anchors, keys], or with KEYS [keys, anchors]."""
    valid = anchor < num_anchors
    if GROUPS:
        ours = tl.load(anchor_groups + anchor, mask=valid, other=0)
        theirs = tl.load(key_groups + key)
        if KEYS:
            allowed &= theirs[:, None] != ours[None, :]
        else:
            allowed &= ours[:, None] != theirs[None, :]
    if EXCLUDED:
        at = 0
        while at < num_excluded:
            none = tl.load(excluded + anchor * num_excluded + at, mask=valid, other=-1)
            if KEYS:
                allowed &= key[:, None] != none[None, :]
            else:
                allowed &= none[:, None] != key[None, :]
            at += 1
    return allowed


@triton.jit
def _block(matrix, row, in_rows, dims, num_dims):
    at = matrix + row[:, None] * num_dims + dims[None, :]
    return tl.load(at, mask=in_rows[:, None] & (dims < num_dims)[None, :], other=0.0)


@triton.jit
def contrast_kernel(
    rows, row_scale, cols, col_inverse, anchor_groups, key_groups, excluded,
    logsumexp, factor, pulls, totals, shifts,
    num_rows, num_cols, num_dims, num_excluded, cols_each,
    KEYS: tl.constexpr, GROUPS: tl.constexpr, EXCLUDED: tl.constexpr, SHIFTED: tl.constexpr,
    PULL: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_DIMS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """A part of the columns' sums for some rows; grid (row blocks, parts, dimension blocks).

    Rows are anchors and columns keys: totals [parts, n] of exp(logit - shift) and pulls
    [parts, n, D] of its products with the unit keys; shifts [parts, n] where SHIFTED. With KEYS
    rows are keys and columns anchors: pulls of the unit anchors, by softmax weight and `factor`.
    Pulls of wide rows do not fit a program: products are taken anew for every block of dimensions.
    """
    part = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    dims = tl.program_id(2) * BLOCK_DIMS + tl.arange(0, BLOCK_DIMS)
    in_rows = row < num_rows
    scale = tl.load(row_scale + row, mask=in_rows, other=0.0)
    total = tl.zeros((BLOCK_ROWS,), ACC)
    shift = tl.full((BLOCK_ROWS,), float("-inf"), ACC)
    pull = tl.zeros((BLOCK_ROWS, BLOCK_DIMS), ACC)
    first = part * cols_each
    last = tl.minimum(first + cols_each, num_cols)
    while first < last:  # not range(): triton 3.6 interprets it wrongly beside NumPy 2.4
        col = first + tl.arange(0, BLOCK_COLS)
        in_cols = col < last
        inverse = tl.load(col_inverse + col, mask=in_cols, other=0.0)
        dots = tl.zeros((BLOCK_ROWS, BLOCK_COLS), ACC)
        start = 0
        while start < num_dims:
            some = start + tl.arange(0, CHUNK)
            x = _block(rows, row, in_rows, some, num_dims)
            y = tl.trans(_block(cols, col, in_cols, some, num_dims))
            dots = tl.dot(x, y, dots, input_precision=PRECISION, out_dtype=ACC)
            start += CHUNK
        logits = dots * scale[:, None] * inverse[None, :]
        allowed = in_rows[:, None] & in_cols[None, :]
        if KEYS:
            allowed = _allowed(
                allowed, col, tl.where(in_rows, row, 0), anchor_groups, key_groups, excluded,
                num_cols, num_excluded, KEYS, GROUPS, EXCLUDED,
            )  # fmt: skip
            times = tl.load(factor + col, mask=in_cols, other=0.0)
            if SHIFTED:
                logits -= tl.load(logsumexp + col, mask=in_cols, other=0.0)[None, :]
            # where, not *: NaN reaches only those it is allowed to.
            weights = tl.where(allowed, tl.exp(logits) * times[None, :], 0.0)
        else:
            allowed = _allowed(
                allowed, row, tl.where(in_cols, col, 0), anchor_groups, key_groups, excluded,
                num_rows, num_excluded, KEYS, GROUPS, EXCLUDED,
            )  # fmt: skip
            logits = tl.where(allowed, logits, float("-inf"))
            if SHIFTED:
                largest = tl.maximum(shift, tl.max(logits, axis=1))
                finite = tl.where(largest == float("-inf"), 0.0, largest)
                before = tl.exp(shift - finite)
                total *= before
                pull *= before[:, None]
                logits -= finite[:, None]
                shift = largest
            weights = tl.exp(logits)
            total += tl.sum(weights, axis=1)
        if PULL:
            values = _block(cols, col, in_cols, dims, num_dims).to(ACC) * inverse[:, None]
            values = tl.where(values == values, values, 0.0)
            pull = tl.dot(weights, values, pull, input_precision=PRECISION, out_dtype=ACC)
        first += BLOCK_COLS
    at = part * num_rows + row
    if not KEYS:
        tl.store(totals + at, total, mask=in_rows)
        if SHIFTED:
            tl.store(shifts + at, shift, mask=in_rows)
    if PULL:
        tl.store(
            pulls + at[:, None] * num_dims + dims[None, :], pull,
            mask=in_rows[:, None] & (dims < num_dims)[None, :],
        )  # fmt: skip


@triton.jit
def combine_kernel(
    pulls, totals, shifts, scaled, inverse, row_scale, power, logsumexp, gradient,
    num_rows, num_dims, parts,
    KEYS: tl.constexpr, SHIFTED: tl.constexpr, PULL: tl.constexpr, ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_DIMS: tl.constexpr,
):  # fmt: skip
    """Parts added up: logsumexp [n], unless KEYS, and the gradient [n, D] of the rows."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    dims = tl.arange(0, BLOCK_DIMS)
    in_rows = row < num_rows
    inside = in_rows[:, None] & (dims < num_dims)[None, :]
    offset = row[:, None] * num_dims + dims[None, :]
    step = tl.full((), 0, tl.int64) + num_rows
    total = tl.zeros((BLOCK_ROWS,), ACC)
    pull = tl.zeros((BLOCK_ROWS, BLOCK_DIMS), ACC)
    shift = tl.zeros((BLOCK_ROWS,), ACC)
    if SHIFTED and not KEYS:
        largest = tl.full((BLOCK_ROWS,), float("-inf"), ACC)
        part = tl.full((), 0, tl.int64)
        while part < parts:
            found = tl.load(shifts + part * step + row, mask=in_rows, other=0.0)
            largest = tl.maximum(largest, found)
            part += 1
        shift = tl.where(largest == float("-inf"), 0.0, largest)
    part = tl.full((), 0, tl.int64)
    while part < parts:
        times = tl.full((BLOCK_ROWS,), 1.0, ACC)
        if not KEYS:
            if SHIFTED:
                found = tl.load(shifts + part * step + row, mask=in_rows, other=0.0)
                times = tl.exp(found - shift)
            total += times * tl.load(totals + part * step + row, mask=in_rows, other=1.0)
        if PULL:
            at = pulls + part * step * num_dims + offset
            pull += times[:, None] * tl.load(at, mask=inside, other=0.0)
        part += 1
    if not KEYS:
        nothing = total == 0
        total = tl.where(nothing, 1.0, total)
        found = tl.where(nothing, float("-inf"), tl.log(total) + shift)
        tl.store(logsumexp + row, found, mask=in_rows)
        pull = pull / total[:, None]
    if PULL:
        length = tl.load(inverse + row, mask=in_rows, other=0.0)
        length = tl.where(length == length, length, 0.0)
        unit = tl.load(scaled + offset, mask=inside, other=0.0).to(ACC)
        unit = tl.where(unit == unit, unit, 0.0) * length[:, None]
        pull -= tl.sum(pull * unit, axis=1)[:, None] * unit
        scale = tl.load(row_scale + row, mask=in_rows, other=0.0)
        scale = tl.where(scale == scale, scale, 0.0)
        pull = pull * scale[:, None] / tl.load(power + row, mask=in_rows, other=1.0)[:, None]
        tl.store(gradient + offset, pull.to(gradient.dtype.element_ty), mask=inside)


def configuration(num_dims: int, dtype: torch.dtype, capability: int) -> dict[str, int]:
    """Blocks for rows of a width on a GPU of compute capability 80, 90, ...

    Each is compiled and checked for spills; before Hopper fragments take more registers.
    """
    dims = min(32 if dtype == torch.float64 else 64, max(16, triton.next_power_of_2(num_dims)))
    if dtype == torch.float64:
        blocks = {"BLOCK_ROWS": 16, "BLOCK_COLS": 16, "CHUNK": 16, "num_warps": 4}
    else:
        cols = 32 if capability >= 90 else 16
        blocks = {"BLOCK_ROWS": 64, "BLOCK_COLS": cols, "CHUNK": 16, "num_warps": 8}
    return blocks | {"BLOCK_DIMS": dims}


def combined_rows(width: int) -> int:
    """Rows that a program of the last stage combines; `width`: a power of two."""
    return max(1, COMBINED // width)


class _Side:
    """Rows scaled for the products, with what takes the scaling back."""

    def __init__(self, rows: Tensor, dtype: torch.dtype):
        n, dims = rows.shape
        self.acc = torch.float64 if dtype == torch.float64 else torch.float32
        self.scaled = torch.empty(n, dims, dtype=dtype, device=rows.device)
        self.inverse, self.power = torch.empty(2, n, dtype=self.acc, device=rows.device).unbind()
        if n:
            scale_rows_kernel[(n,)](
                rows, *rows.stride(), self.scaled, self.inverse, self.power, dims,
                max(16, triton.next_power_of_2(dims)), _triton_type(self.acc),
            )  # fmt: skip


def _triton_type(acc: torch.dtype):
    return tl.float64 if acc == torch.float64 else tl.float32


def _contrast(
    anchors: Tensor,
    keys: Tensor,
    masks: tuple[Tensor | None, Tensor | None, Tensor | None],
    temperature: float,
    backward: tuple[Tensor, Tensor] | None,
    gradient: Tensor | None,
    logsumexp: Tensor | None,
) -> None:
    """Fills logsumexp and the anchors' gradient or, with (factor, logsumexp), the keys'."""
    dtype = anchors.dtype if anchors.dtype == keys.dtype else torch.float32
    shifted = 1 / temperature > LARGEST_LOGIT
    with torch.cuda.device_of(anchors):  # Triton launches on the current device
        sides = _Side(anchors, dtype), _Side(keys, dtype)
        rows, cols = sides if backward is None else sides[::-1]
        row_scale = rows.inverse / temperature  # a number given to a kernel becomes float32
        (num_rows, dims), num_cols = rows.scaled.shape, len(cols.scaled)
        major = torch.cuda.get_device_capability()[0] if anchors.is_cuda else 0
        constants = configuration(dims, dtype, 10 * major)
        blocks = triton.cdiv(num_rows, constants["BLOCK_ROWS"])
        each = triton.cdiv(num_cols, max(1, PROGRAMS // blocks))
        each = triton.cdiv(each, constants["BLOCK_COLS"]) * constants["BLOCK_COLS"]
        parts = triton.cdiv(num_cols, max(1, each))
        acc, device = rows.acc, anchors.device
        totals, shifts = torch.empty(2, parts, num_rows, dtype=acc, device=device).unbind()
        held = dims if gradient is not None else 0
        pulls = torch.empty(parts, num_rows, held, dtype=acc, device=device)
        anchor_groups, key_groups, excluded = (
            None if mask is None else mask.contiguous() for mask in masks
        )
        groups = anchor_groups is not None and key_groups is not None
        factor, given = (None, None) if backward is None else backward
        flags = {"SHIFTED": shifted, "PULL": gradient is not None, "KEYS": backward is not None}
        flags["ACC"] = _triton_type(acc)
        dim_blocks = triton.cdiv(dims, constants["BLOCK_DIMS"]) if gradient is not None else 1
        if parts:
            contrast_kernel[blocks, parts, dim_blocks](
                rows.scaled, row_scale, cols.scaled, cols.inverse,
                anchor_groups, key_groups, excluded, given, factor, pulls, totals, shifts,
                num_rows, num_cols, dims, 0 if excluded is None else excluded.shape[1], each,
                GROUPS=groups, EXCLUDED=excluded is not None,
                PRECISION=precision(dtype), **flags, **constants,
            )  # fmt: skip
        width = max(16, triton.next_power_of_2(dims))
        together = combined_rows(width)
        combine_kernel[(triton.cdiv(num_rows, together),)](
            pulls, totals, shifts, rows.scaled, rows.inverse, row_scale, rows.power,
            logsumexp, gradient, num_rows, dims, parts,
            BLOCK_ROWS=together, BLOCK_DIMS=width, **flags,
        )  # fmt: skip


def precision(dtype: torch.dtype) -> str:
    """How float32 numbers are multiplied; float64 has one way."""
    return "ieee" if dtype == torch.float64 else "tf32x3"


def forward(
    anchors: Tensor,
    keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """(logsumexp, gradient) as the reference in hashfast/ops/masked_contrastive.py."""
    masks = anchor_groups, key_groups, excluded
    acc = torch.float64 if anchors.dtype == torch.float64 else torch.float32
    logsumexp = torch.empty(len(anchors), dtype=acc, device=anchors.device)
    gradient = torch.empty(
        anchors.shape if with_gradient else (0,), dtype=acc, device=anchors.device
    )
    if len(anchors):
        wanted = gradient if with_gradient else None
        _contrast(anchors, keys, masks, temperature, None, wanted, logsumexp)
    return logsumexp, gradient


def backward(
    grad: Tensor,
    logsumexp: Tensor,
    anchors: Tensor,
    keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    temperature: float,
) -> Tensor:
    """Gradient [R, b] of the keys as masked_contrastive_backward's reference."""
    masks = anchor_groups, key_groups, excluded
    gradient = torch.empty(keys.shape, dtype=keys.dtype, device=keys.device)
    if len(keys):
        shifted = 1 / temperature > LARGEST_LOGIT
        factor = grad if shifted else grad * (-logsumexp).exp()
        factor = factor.masked_fill(logsumexp == -torch.inf, 0.0).contiguous()
        backward = factor, logsumexp.contiguous()
        _contrast(anchors, keys, masks, temperature, backward, gradient, None)
    return gradient
