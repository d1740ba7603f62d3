"""Small searches on the GPU for compute-sanitizer to watch; each must find what the CPU finds.

compute-sanitizer --tool memcheck python benchmarks/_sanitized.py

Every width that has kernels of its own, few and many queries, rows that are no multiple of
anything, codes that are all equal or all far, bitmaps, more results than are sorted in shared
memory; then ranges, histograms and hits, of codes too long to be counted in shared memory, too.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hashfast.ops import OPS, hamming_range, pack

# Rows from which a scan is worth it, and one more than a multiple of 32.
ROWS = 8193 + 1000
SHAPES = (
    (1, 8, 10),
    (70, 8, 100),
    (17, 4, 10),
    (3, 16, 50),
    (20, 32, 10),
    (5, 64, 10),
    (2, 128, 5),
    (1, 132, 5),
    (9, 200, 5),
)
LONG_ROWS, LONG = 700, 1300


def searches() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Operations and their arguments, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def codes(rows: int, size: int) -> Tensor:
        return torch.randint(256, (rows, size), dtype=torch.uint8, generator=generator)

    for queries, size, k in (*SHAPES, (9, 5, 20)):
        yield "hamming_topk", (codes(queries, size), codes(ROWS, size), k, None)
    query, database = codes(9, 8), codes(ROWS, 8)
    allowed = pack(torch.rand(ROWS, generator=generator) < 0.3)
    yield "hamming_topk", (query, database, 100, allowed)
    yield "hamming_topk", (query, database[:1].repeat(ROWS, 1), 100, None)
    yield "hamming_topk", (query, ~query[:1].repeat(ROWS, 1), 100, None)
    yield "hamming_topk", (query[:1], codes(8 * 4100, 8), 4100, None)
    yield "hamming_topk", (query, database[:300], 400, None)
    long = codes(2, LONG), codes(LONG_ROWS, LONG)
    yield "hamming_topk", (*long, 30, None)
    yield "hamming_histogram", (*long, None, None)
    labels = [torch.arange(len(rows)) % 5 for rows in (query, database)]
    yield "hamming_histogram", (query, database, None, None)
    yield "hamming_histogram", (query, database, *labels)
    yield "hamming_hits", (query, database, 1000, *labels, None)
    yield "hamming_hits", (*long, 30, labels[0][:2], labels[1][:LONG_ROWS], None)
    yield "hamming_range_count", (query, database, 24, allowed)
    limits = hamming_range(query, database, 24, allowed)[0]
    yield "hamming_range", (query, database, 24, limits, allowed)


def main() -> int:
    if not torch.cuda.is_available():
        print("this torch sees no CUDA GPU, and there is nothing to watch", file=sys.stderr)
        return 2
    wrong = 0
    for name, arguments in searches():
        there = [x.cuda() if isinstance(x, Tensor) else x for x in arguments]
        found, expected = OPS[name](*there), OPS[name](*arguments)
        pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (found, expected)), strict=True)
        if not all(torch.equal(ours.cpu(), truth) for ours, truth in pairs):
            shapes = [tuple(x.shape) for x in arguments if isinstance(x, Tensor)]
            print(f"WRONG: {name} of {shapes} is not what the CPU finds", file=sys.stderr)
            wrong = 1
    print("searched as the CPU does" if not wrong else "searched wrongly")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
