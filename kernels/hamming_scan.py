"""Scans of packed codes by Triton: distances of blocks of pairs, and how many rows have each.

The database is cut into segments, one a program, for any number of queries. Only integers are
added up, so counts are the same in every run.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that keep a large GPU busy, pairs of codes that one compares at a time, and bytes that
# counts of distances may take.
PROGRAMS = 2048
PAIRS = 2048
WORKSPACE = 1 << 28

UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


@triton.jit
def _popcount(x):
    """Set bits of unsigned words, int32: LLVM turns these steps into the machine's popcount."""
    if x.dtype.primitive_bitwidth == 64:
        x = x - ((x >> 1) & 0x5555555555555555)
        x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
        x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
        x = (x * 0x0101010101010101) >> 56
    else:
        x = x.to(tl.uint32)
        x = x - ((x >> 1) & 0x55555555)
        x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
        x = (x + (x >> 4)) & 0x0F0F0F0F
        x = (x * 0x01010101) >> 24
    return x.to(tl.int32)


@triton.jit
def queries_and_segment(num_queries, BLOCK_QUERIES: tl.constexpr):
    """Which queries [block], int64, and which segment of the rows this program scans."""
    blocks = (num_queries + BLOCK_QUERIES - 1) // BLOCK_QUERIES
    program = tl.program_id(0).to(tl.int64)
    first = (program % blocks) * BLOCK_QUERIES
    return first + tl.arange(0, BLOCK_QUERIES), program // blocks


@triton.jit
def distances_of(
    query, database, queries, rows, in_queries, in_rows,
    WORDS: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Hamming distances int32 [queries, rows]."""
    total = tl.zeros((BLOCK_QUERIES, BLOCK_ROWS), tl.int32)
    word = 0
    while word < WORDS:
        ours = tl.load(query + queries * WORDS + word, mask=in_queries, other=0)
        theirs = tl.load(database + rows * WORDS + word, mask=in_rows, other=0)
        total += _popcount(ours[:, None] ^ theirs[None, :])
        word += 1
    return total


@triton.jit
def related(
    query_labels, database_labels, queries, rows, in_queries, in_rows,
    LABEL_WORDS: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Pairs of one class: equal ids where LABEL_WORDS is None, else a common bit of the words."""
    if LABEL_WORDS is None:
        ours = tl.load(query_labels + queries, mask=in_queries, other=0)
        theirs = tl.load(database_labels + rows, mask=in_rows, other=0)
        common = ours[:, None] == theirs[None, :]
    else:
        common = tl.full((BLOCK_QUERIES, BLOCK_ROWS), 0, tl.int1)
        word = 0
        while word < LABEL_WORDS:
            ours = tl.load(query_labels + queries * LABEL_WORDS + word, mask=in_queries, other=0)
            theirs = tl.load(database_labels + rows * LABEL_WORDS + word, mask=in_rows, other=0)
            common |= (ours[:, None] & theirs[None, :]) != 0
            word += 1
    return common


@triton.jit
def rows_in(rows, end, allowed):
    """Rows before the end that the bitmap, if there is one, lets through."""
    inside = rows < end
    if allowed is not None:
        byte = tl.load(allowed + rows // 8, mask=inside, other=0).to(tl.int32)
        inside &= ((byte >> (7 - rows % 8).to(tl.int32)) & 1) != 0
    return inside


@triton.jit
def count_kernel(
    query, database, allowed, query_labels, database_labels, left_out, bounds, counts,
    num_queries, num_rows, rows_each, step, bins, kept,
    WORDS: tl.constexpr, LABEL_WORDS: tl.constexpr, BY_DISTANCE: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Adds the rows at most `bounds` away to counts [q, bins, kept], kept: the segments, or one.

    A segment is rows_each rows, of which the first BLOCK_ROWS of every `step` are scanned. Only
    those that share a class with a query count, if there are labels, and not its row left out.
    Without BY_DISTANCE all count in one bin.
    """
    queries, segment = queries_and_segment(num_queries, BLOCK_QUERIES)
    in_queries = queries < num_queries
    at = counts + queries * bins * kept + segment % kept
    found = tl.zeros((BLOCK_QUERIES,), tl.int64)
    first = segment * rows_each
    last = tl.minimum(first + rows_each, num_rows)
    while first < last:  # not range(): triton 3.6 interprets it wrongly beside NumPy 2.4
        rows = first + tl.arange(0, BLOCK_ROWS)
        in_rows = rows_in(rows, last, allowed)
        distances = distances_of(
            query, database, queries, rows, in_queries, in_rows, WORDS, BLOCK_QUERIES, BLOCK_ROWS
        )
        hit = in_queries[:, None] & in_rows[None, :]
        if bounds is not None:
            hit &= distances <= tl.load(bounds + queries, mask=in_queries, other=-1)[:, None]
        if query_labels is not None:
            hit &= related(
                query_labels, database_labels, queries, rows, in_queries, in_rows,
                LABEL_WORDS, BLOCK_QUERIES, BLOCK_ROWS,
            )  # fmt: skip
        if left_out is not None:
            own = tl.load(left_out + queries, mask=in_queries, other=-1)
            hit &= rows[None, :] != own[:, None]
        if BY_DISTANCE:
            # Value by value: one addition to memory a query and value, however the data lie.
            value = tl.min(tl.where(hit, distances, bins)).to(tl.int64)
            if value < bins:
                distances = tl.where(hit, distances, -1)
                largest = tl.max(distances)
                while value <= largest:
                    equal = tl.sum((distances == value).to(tl.int32), axis=1)
                    tl.atomic_add(
                        at + value * kept, equal.to(counts.dtype.element_ty),
                        mask=equal > 0, sem="relaxed",
                    )  # fmt: skip
                    value += 1
        else:
            found += tl.sum(hit.to(tl.int32), axis=1)
        first += step
    if not BY_DISTANCE:
        tl.atomic_add(
            at, found.to(counts.dtype.element_ty), mask=in_queries & (found > 0), sem="relaxed"
        )


def configuration(num_queries: int) -> dict[str, int]:
    """Blocks of queries and rows; each is compiled and checked for spills.

    More queries would read the rows less often, but take more registers and more counts.
    """
    queries = min(4, triton.next_power_of_2(num_queries))
    return {"BLOCK_QUERIES": queries, "BLOCK_ROWS": PAIRS // queries, "num_warps": 8}


def as_words(*codes: Tensor) -> list[Tensor]:
    """uint8 [n, B] each -> [n, words], of the widest words at which all their rows are aligned."""
    codes = tuple(x.contiguous() for x in codes)
    widths = [x for c in codes for x in (c.shape[1], c.stride(0))]  # of one row: any stride
    starts = [x for c in codes for x in (c.data_ptr(), c.storage_offset())]
    word = UNSIGNED[math.gcd(8, *widths, *starts)]
    return [x.view(word) for x in codes]


class Labels(NamedTuple):
    """Labels as the kernels take them."""

    query: Tensor | None
    database: Tensor | None
    words: int | None


NO_LABELS = Labels(None, None, None)


def as_labels(query: Tensor, database: Tensor) -> Labels:
    """int64 [q] and [n] ids, or uint8 [q, W] and [n, W] multi-hot rows."""
    if query.dim() == 1:
        return Labels(query.contiguous(), database.contiguous(), None)
    query, database = as_words(query, database)
    return Labels(query, database, query.shape[1])


class Scan:
    """Queries, a database and what is left out of it, as the kernels take them."""

    def __init__(
        self,
        query: Tensor,
        database: Tensor,
        allowed: Tensor | None = None,
        left_out: Tensor | None = None,
    ):
        self.blocks = configuration(len(query))
        self.query, self.database = as_words(query, database)
        self.words = self.query.shape[1]
        self.allowed = None if allowed is None else allowed.contiguous()
        self.left_out = None if left_out is None else left_out.contiguous()

    @property
    def query_blocks(self) -> int:
        return triton.cdiv(len(self.query), self.blocks["BLOCK_QUERIES"])

    def cut(self, step: int, most: int) -> tuple[int, int]:
        """(segments, rows of each) from shapes alone: programs enough, if `most` segments are."""
        pieces = triton.cdiv(len(self.database), step)
        wanted = max(1, min(pieces, most, triton.cdiv(PROGRAMS, self.query_blocks)))
        rows_each = triton.cdiv(pieces, wanted) * step
        return triton.cdiv(len(self.database), rows_each), rows_each

    def count(
        self,
        counts: Tensor,
        segments: int,
        rows_each: int,
        *,
        bounds: Tensor | None = None,
        labels: Labels = NO_LABELS,
        step: int | None = None,
    ) -> Tensor:
        """Adds to counts [q, bins, segments or 1]; a single bin is that of all distances."""
        bins, kept = counts.shape[1:]
        with torch.cuda.device_of(self.query):  # Triton launches on the current device
            count_kernel[(self.query_blocks * segments,)](
                self.query, self.database, self.allowed, labels.query, labels.database,
                self.left_out, bounds, counts, len(self.query), len(self.database), rows_each,
                step or self.blocks["BLOCK_ROWS"], bins, kept,
                WORDS=self.words, LABEL_WORDS=labels.words, BY_DISTANCE=bins > 1,
                **self.blocks,
            )  # fmt: skip
        return counts


def before(counts: Tensor) -> Tensor:
    """Sums of what comes before, along the last dimension."""
    return counts.cumsum(-1, dtype=counts.dtype) - counts
