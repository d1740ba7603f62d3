"""Exact Hamming search on a GPU: the codes, what else could be used, and what is right."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from _codes import CLASSES, CLUSTERS, DIGITS, FLIPS, SURE_FLIPS, UNSURE
from _gpu_search_cases import Case
from torch import Tensor

from hashfast import ops

# Entries of a matrix of distances that is held at once by those who make one.
MATRIX = 2**28
# Queries whose whole result is compared with a full ranking.
COMPARED_WHOLE = 2
# torch._int_mm wants more than 16 rows, and multiples of 8.
FEWEST_ROWS, ROW_UNIT = 32, 8

Answer = tuple[Tensor, Tensor]  # distances int32 [q, k], ids int64 [q, k]
Search = Callable[[int], Answer]  # of k


# ---- codes ---------------------------------------------------------------------------------


def codes(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Queries uint8 [q, b / 8] and database uint8 [n, b / 8], the same ones every time.

    "clustered" and "learned" are those of _codes.py, drawn on the device.
    """
    generator = torch.Generator(device).manual_seed(0)
    size = case.bits // 8
    learned = case.codes == "learned"
    centres = _bytes(CLASSES if learned else CLUSTERS, size, generator)

    def drawn(rows: int) -> Tensor:
        if case.codes == "random":
            return _bytes(rows, size, generator)
        of = torch.randint(len(centres), (rows,), generator=generator, device=device)
        found = centres[of]
        if not learned:
            return found ^ _flips(rows, size, FLIPS, generator)
        unsure = torch.rand(rows, 1, generator=generator, device=device) < UNSURE
        few, many = (_flips(rows, size, share, generator) for share in (SURE_FLIPS, FLIPS))
        return found ^ few ^ many * unsure

    return drawn(case.queries), drawn(case.n)


def _bytes(rows: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(
        256, (rows, size), dtype=torch.uint8, generator=generator, device=generator.device
    )


def _flips(rows: int, size: int, probability: float, generator: torch.Generator) -> Tensor:
    """Bytes whose bits are 1 with the probability, as those of _codes.flips."""
    digits = round(probability * 2**DIGITS)
    found = torch.zeros(rows, size, dtype=torch.uint8, device=generator.device)
    for digit in range(DIGITS):
        fair = _bytes(rows, size, generator)
        found = found | fair if digits >> digit & 1 else found & fair
    return found


# ---- what else could be used ---------------------------------------------------------------


def nearest_by_chunks(
    n: int, k: int, chunk: int, matrix: Callable[[int, int], Tensor], largest: bool
) -> Answer:
    """Values and columns of the k best of every row of a matrix [q, n], `chunk` columns at a time.

    matrix: of the first column and the one behind the last.
    """
    best: Answer | None = None
    for start in range(0, n, chunk):
        end = min(start + chunk, n)
        values, ids = matrix(start, end).topk(min(k, end - start), dim=1, largest=largest)
        values, ids = values.int(), ids + start
        if best is not None:
            values = torch.cat([best[0], values], dim=1)
            values, at = values.topk(min(k, values.shape[1]), dim=1, largest=largest)
            ids = torch.cat([best[1], ids], dim=1).gather(1, at)
        best = values, ids
    assert best is not None
    return best


def gemm(query: Tensor, database: Tensor) -> Search:
    """Products of codes -1 and 1, unpacked beforehand: the largest are the nearest."""
    (q, size), n = query.shape, len(database)
    bits = 8 * size
    rows = max(FEWEST_ROWS, -(-q // ROW_UNIT) * ROW_UNIT)
    chunk = max(MATRIX // rows // ROW_UNIT, 1) * ROW_UNIT
    left = signs(query, rows)
    right = signs(database, -(-n // ROW_UNIT) * ROW_UNIT)

    def products(start: int, end: int) -> Tensor:
        behind = start + -(-(end - start) // ROW_UNIT) * ROW_UNIT
        return torch._int_mm(left, right[start:behind].t())[:q, : end - start]

    def search(k: int) -> Answer:
        found, ids = nearest_by_chunks(n, k, chunk, products, largest=True)
        return (bits - found) // 2, ids

    return search


def signs(packed: Tensor, rows: int) -> Tensor:
    """Codes -1 and 1 of packed codes [n, b / 8], int8 [rows, b]; rows beyond them are 0."""
    n, size = packed.shape
    made = torch.zeros(rows, 8 * size, dtype=torch.int8, device=packed.device)
    step = max(MATRIX // (8 * size), 1)
    for start in range(0, n, step):
        part = packed[start : start + step]
        made[start : start + len(part)] = ops.unpack(part, 8 * size)
    return made


def popcount(
    query: Tensor, database: Tensor, distances: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Search:
    """A matrix of distances by XOR and popcount, then torch.topk.

    distances: makes the matrix; a plain Triton kernel if it is not given.
    """
    if distances is None:
        from _gpu_distances import distances
    n, chunk = len(database), max(MATRIX // len(query), 1)

    def block(start: int, end: int) -> Tensor:
        return distances(query, database[start:end])

    return lambda k: nearest_by_chunks(n, k, chunk, block, largest=False)


def has_faiss_gpu() -> bool:
    try:
        import faiss
    except ImportError:
        return False
    return hasattr(faiss, "GpuIndexBinaryFlat")


def faiss_gpu(query: Tensor, database: Tensor) -> Search:
    """GpuIndexBinaryFlat, over arrays of NumPy: what comes back is in the memory of the host."""
    import faiss

    resources = faiss.StandardGpuResources()
    # Events are recorded on the stream that is timed: the same one.
    resources.setDefaultNullStreamAllDevices()
    index = faiss.GpuIndexBinaryFlat(resources, 8 * database.shape[1])
    index.add(database.cpu().numpy())
    asked = query.cpu().numpy()

    def search(k: int, _: object = resources) -> Answer:
        found, ids = index.search(asked, k)
        return torch.from_numpy(found), torch.from_numpy(ids)

    return search


# ---- what is right -------------------------------------------------------------------------


@functools.cache
def _ones(device: torch.device) -> Tensor:
    """Set bits of every byte, uint8 [256]."""
    return torch.tensor([i.bit_count() for i in range(256)], dtype=torch.uint8, device=device)


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """Distances of codes uint8 [..., B], broadcast against each other: int32 [...]."""
    total = torch.zeros((), dtype=torch.int32, device=a.device)
    for byte in range(a.shape[-1]):
        total = total + _ones(a.device)[(a[..., byte] ^ b[..., byte]).int()]
    return total


def judge(query: Tensor, database: Tensor, answer: Answer) -> str:
    """Why this is not the answer; empty if it is.

    Rows are in order of (distance, id) and have the distances that are claimed; the first
    COMPARED_WHOLE queries are compared with a full ranking.
    """
    distances, ids = answer
    n, k = len(database), ids.shape[1]
    if distances.dtype != torch.int32 or ids.dtype != torch.int64:
        return f"{distances.dtype} distances and {ids.dtype} ids, expected int32 and int64"
    if int(ids.min()) < 0 or int(ids.max()) >= n:
        return f"ids from {int(ids.min())} to {int(ids.max())}, expected 0 to {n - 1}"
    key = distances.long() * n + ids
    if bool((key.diff(dim=1) <= 0).any()):
        return "not in order of (distance, id)"
    wrong = sum(int(part) for part in _wrong_distances(query, database, distances, ids))
    if wrong:
        return f"{wrong} of {ids.numel()} distances are not of their ids"
    for row in range(min(len(query), COMPARED_WHOLE)):
        every = hamming(query[row], database).long() * n + torch.arange(n, device=query.device)
        expected = every.topk(k, largest=False).values % n
        different = int((ids[row] != expected).sum())
        if different:
            return f"{different} of {k} ids of query {row} are not the first nearest"
    return ""


def _wrong_distances(
    query: Tensor, database: Tensor, distances: Tensor, ids: Tensor
) -> Iterator[Tensor]:
    step = max(MATRIX // (ids.shape[1] * query.shape[1]), 1)
    for start in range(0, len(query), step):
        rows = slice(start, start + step)
        found = hamming(query[rows, None], database[ids[rows]])
        yield (found != distances[rows]).sum()


class Contender(NamedTuple):
    """One way to search. capturable: whether a CUDA graph is meant to hold it."""

    provider: str
    backend: str
    prepare: Callable[[Tensor, Tensor], Search]
    capturable: bool = False
