"""Packed-code search against unpacked bits: awkward sizes, layouts, distances, masks and threads.

`python tests/test_hamming_property.py` runs the part that needs no pytest, between guard pages, on
the instruction set that HASHFAST_CPU names; a test does so for each of them.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hamming_oracle import all_distances, assert_same, brute_force, brute_force_range
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast import _ext, ops

SPECIALISED = [2, 4, 8, 16, 32, 64, 512]
WIDTHS = [*SPECIALISED, *range(1, 41)]
EDGES = [8, 64, 128, 512, 1024, 2048, 4096]
SIZES = sorted({0, 1, 2, 3, *(edge + step for edge in EDGES for step in (-1, 0, 1))})
QUERIES = [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 65, 129]
MOST_BITS = 1 << 23  # of one case, so that unpacking them takes milliseconds


@contextmanager
def threads(number):
    """That many threads, and new tensors filled with garbage, so that an unwritten result fails."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)


# ---- data -----------------------------------------------------------------------------------


def staircase(distances, width, generator):
    """Codes at the given distances from zero, the bits that differ in any place."""
    bits = np.arange(8 * width) < np.asarray(distances)[:, None]
    return np.packbits(generator.permuted(bits, axis=1), axis=1)


def random(n, width, generator):
    return generator.integers(0, 256, (n, width), dtype=np.uint8)


def repeated(n, width, generator):
    return random(3, width, generator)[generator.integers(0, 3, n)]


def equal(n, width, generator):
    return np.repeat(random(1, width, generator), n, axis=0)


def opposite(n, width, generator):
    """As far apart as codes can be, or not at all."""
    return np.repeat(generator.integers(0, 2, (n, 1), dtype=np.uint8) * 255, width, axis=1)


def rising(n, width, generator):
    return staircase(np.linspace(0, 8 * width, n).astype(int), width, generator)


def falling(n, width, generator):
    """Every code is nearer than those before it."""
    return rising(n, width, generator)[::-1].copy()


def late(n, width, generator):
    """All far, except a few of the last."""
    distances = np.full(n, 8 * width)
    distances[n - n // 20 - 1 :] = generator.integers(0, 3, n // 20 + 1)[:n]
    return staircase(distances, width, generator)


def early(n, width, generator):
    return late(n, width, generator)[::-1].copy()


def planted(n, width, generator):
    """All far, except 200 codes at places that an evenly spread sample of rows may all take."""
    distances = np.full(n, 8 * width)
    distances[np.arange(200) * (n // 256 // 128 * 128)] = generator.integers(0, 3, 200)
    return staircase(distances, width, generator)


KINDS = [random, repeated, equal, opposite, rising, falling, late, early]


def make_query(q, database, generator):
    """Codes of the database, codes near them, random ones, all zeros and all ones."""
    width = database.shape[1]
    query = random(q, width, generator)
    if len(database):
        query[::3] = database[generator.integers(0, len(database), len(query[::3]))]
        query[::6, 0] ^= 5
    query[1::4] = 0
    query[3::8] = 255
    return query


def make_mask(kind, n, generator):
    mask = np.zeros(n, bool)
    if kind == "all":
        mask[:] = True
    elif kind == "most":
        mask[:] = generator.random(n) < 0.9
    elif kind == "few":
        mask[:] = generator.random(n) < 0.03
    elif kind == "last":
        mask[n - 1 :] = True
    elif kind == "first":
        mask[:1] = True
    return mask


MASKS = ["all", "most", "few", "last", "first", "none"]

# ---- where the bytes lie --------------------------------------------------------------------


def contiguous(codes):
    return torch.from_numpy(codes.copy())


def unaligned(codes):
    """Behind a header of 33 bytes, as in an index file."""
    flat = torch.zeros(33 + codes.size, dtype=torch.uint8)
    flat[33:] = torch.from_numpy(codes).flatten()
    return flat[33:].view(codes.shape)


def columns(codes):
    wide = torch.full((len(codes), codes.shape[1] + 5), 0xAA, dtype=torch.uint8)
    wide[:, 3:-2] = torch.from_numpy(codes)
    return wide[:, 3:-2]


def every_third_row(codes):
    tall = torch.full((3 * len(codes) + 1, codes.shape[1]), 0x55, dtype=torch.uint8)
    tall[1::3] = torch.from_numpy(codes)
    return tall[1::3]


def column_major(codes):
    return torch.from_numpy(np.ascontiguousarray(codes.T)).T


LAYOUTS = [contiguous, unaligned, columns, every_third_row, column_major]


def bitmap_of(mask, stray, strided):
    """`ops.pack` of a mask; `stray` sets the bits behind its end, which mean nothing."""
    bitmap = ops.pack(torch.from_numpy(mask))
    if stray and len(mask) % 8:
        bitmap[-1] |= 0xFF >> (len(mask) % 8)
    return torch.stack([~bitmap, bitmap], dim=1)[:, 1] if strided else bitmap


# ---- checks ---------------------------------------------------------------------------------


def check_topk(query, database, k, expected, bitmap=None):
    assert_same([part.numpy() for part in ops.hamming_topk(query, database, k, bitmap)], expected)


def check_range(query, database, radius, expected, bitmap=None):
    found = ops.hamming_range(query, database, radius, bitmap)
    assert_same([part.numpy() for part in found], expected)


def check_histogram(query, database, pairs=None, labels=(None, None)):
    """pairs: bool [q, n], which are counted."""
    distances = all_distances(query.numpy(), database.numpy())
    bins = 8 * query.shape[1] + 1
    expected = np.zeros((len(query), bins), np.int64)
    for i, row in enumerate(distances):
        expected[i] = np.bincount(row if pairs is None else row[pairs[i]], minlength=bins)
    found = ops.hamming_histogram(query, database, *labels)
    assert_same([found.numpy()], [expected])


@st.composite
def cases(draw):
    width, n = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(SIZES))
    most = max(1, MOST_BITS // (8 * width * max(n, 1)))
    q = min(draw(st.sampled_from(QUERIES)), most)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    database = draw(st.sampled_from(KINDS))(n, width, generator)
    return make_query(q, database, generator), database, generator


@settings(max_examples=150, deadline=None)
@given(st.data(), cases(), st.integers(1, 3))
def test_topk(data, case, number):
    query, database, generator = case
    n = len(database)
    few = st.integers(1, 130)
    k = data.draw(few | st.sampled_from([max(n - 1, 1), max(n, 1), n + 1, n + 600]))
    rows, others = (data.draw(st.sampled_from(LAYOUTS))(codes) for codes in (query, database))
    with threads(number):
        check_topk(rows, others, k, brute_force(query, database, k))
        mask = make_mask(data.draw(st.sampled_from(MASKS)), n, generator)
        bitmap = bitmap_of(mask, data.draw(st.booleans()), data.draw(st.booleans()))
        check_topk(rows, others, k, brute_force(query, database, k, mask), bitmap)
    np.testing.assert_array_equal(rows, query)  # nothing was written to
    np.testing.assert_array_equal(others, database)


@settings(max_examples=150, deadline=None)
@given(st.data(), cases(), st.integers(1, 3))
def test_range(data, case, number):
    query, database, generator = case
    n, bits = len(database), 8 * database.shape[1]
    radii = [-(2**40), -1, 0, 1, bits // 2, bits - 1, bits, bits + 1, 2**40]
    radius = data.draw(st.sampled_from(radii) | st.integers(0, bits))
    rows, others = (data.draw(st.sampled_from(LAYOUTS))(codes) for codes in (query, database))
    with threads(number):
        check_range(rows, others, radius, brute_force_range(query, database, radius))
        mask = make_mask(data.draw(st.sampled_from(MASKS)), n, generator)
        bitmap = bitmap_of(mask, data.draw(st.booleans()), data.draw(st.booleans()))
        expected = brute_force_range(query, database, radius, mask)
        check_range(rows, others, radius, expected, bitmap)


@settings(max_examples=100, deadline=None)
@given(st.data(), cases(), st.integers(1, 3))
def test_histogram(data, case, number):
    query, database, generator = case
    rows, others = (data.draw(st.sampled_from(LAYOUTS))(codes) for codes in (query, database))
    with threads(number):
        check_histogram(rows, others)
        ids = [generator.integers(-1, 4, len(codes)) for codes in (query, database)]
        same = ids[0][:, None] == ids[1]
        check_histogram(rows, others, same, [torch.from_numpy(part) for part in ids])
        words = data.draw(st.integers(1, 9))
        sets = [
            random(len(codes), words, generator) & random(len(codes), words, generator) & 0x21
            for codes in (query, database)
        ]
        common = (sets[0][:, None] & sets[1]).any(2)
        check_histogram(rows, others, common, [torch.from_numpy(part) for part in sets])


# ---- known answers --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [*WIDTHS, 127, 255, 256, 600])
@pytest.mark.parametrize("q", [1, 3, 65])
def test_every_distance_once(width, q):
    """Codes at distance 0, 1 .. 8 B of the query, in any order: no counter may overflow."""
    generator = np.random.default_rng(width)
    bits = 8 * width
    at = generator.permutation(bits + 1)
    offset = random(1, width, generator)
    database = torch.from_numpy(staircase(at, width, generator) ^ offset)
    query = torch.from_numpy(offset).repeat(q, 1)
    order = torch.from_numpy(np.argsort(at)).repeat(q, 1)
    distances = torch.arange(bits + 1, dtype=torch.int32).repeat(q, 1)
    for k in {1, min(10, bits), bits // 2, bits + 1}:
        found = ops.hamming_topk(query, database, k)
        assert torch.equal(found[0], distances[:, :k])
        assert torch.equal(found[1], order[:, :k])
    for radius in {0, 15, 126, 127, 128, 254, 255, 256, bits - 1, bits}:
        limits, found, ids = ops.hamming_range(query, database, radius)
        inside = min(radius, bits) + 1
        assert limits.tolist() == [inside * i for i in range(q + 1)]
        assert torch.equal(found.view(q, inside), distances[:, :inside])
        assert torch.equal(ids.view(q, inside), order[:, :inside])
    assert torch.equal(ops.hamming_histogram(query, database), torch.ones(q, bits + 1).long())


@pytest.mark.parametrize("q", [1, 70])
@pytest.mark.parametrize("width", [*SPECIALISED, 33])
def test_all_codes_as_far_as_can_be(width, q):
    n = 1_500
    query, database = np.zeros((q, width), np.uint8), np.full((n, width), 255, np.uint8)
    ids = torch.arange(n)
    for a, b in ((query, database), (~query, ~database)):
        a, b = torch.from_numpy(a), torch.from_numpy(b)
        distances, found = ops.hamming_topk(a, b, 700)
        assert (distances == 8 * width).all()
        assert (found == ids[:700]).all()
        assert ops.hamming_range(a, b, 8 * width - 1)[0].tolist() == [0] * (q + 1)
        assert (ops.hamming_range(a, b, 8 * width)[2].view(q, n) == ids).all()
        assert (ops.hamming_histogram(a, b)[:, -1] == n).all()


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    ("kind", "q", "n", "width", "k"),
    [
        (equal, 2, 300_001, 1, 20_000),  # counters of one distance pass 2**16
        (falling, 70, 20_011, 2, 1_000),  # every code replaces a hit
        (late, 5, 100_003, 4, 300),  # a sample of the first codes misleads
        (planted, 70, 65_536, 8, 1_000),  # an even sample misleads
        (planted, 130, 40_000, 5, 250),
        (random, 3, 150_000, 8, 16_384),
        (random, 150, 140_000, 1, 16_384),  # the hits of all queries are more than fit in cache
        (repeated, 66, 10_007, 16, 5_000),
        (random, 2_100, 700, 3, 40),  # more queries than any kernel takes at once
        (random, 1_030, 33_001, 2, 9),
    ],
)
def test_large_databases(kind, q, n, width, k, number):
    generator = np.random.default_rng(n)
    database = kind(n, width, generator)
    query = make_query(q, database, generator)
    rows, others = torch.from_numpy(query), torch.from_numpy(database)
    with threads(number):
        check_topk(rows, others, k, brute_force(query, database, k))
        check_histogram(rows, others)
        part = slice(0, max(2, 2**21 // n))  # enough queries to mask, and to count
        query, rows = query[part], rows[part]
        for mask in (make_mask(kind, n, generator) for kind in ("last", "few", "most")):
            bitmap = bitmap_of(mask, False, False)
            check_topk(rows, others, k, brute_force(query, database, k, mask), bitmap)
        expected = brute_force_range(query, database, width, mask)
        check_range(rows, others, width, expected, bitmap)
        check_range(rows, others, width, brute_force_range(query, database, width))


def test_one_code_many_times_over_the_same_memory():
    code = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8)
    database = code.expand(3_000, 4)
    distances, ids = ops.hamming_topk(database[:70], database, 600)
    assert not distances.any()
    assert (ids == torch.arange(600)).all()


def test_searches_at_the_same_time():
    """Kernels that keep memory between calls must not share it."""
    generator = np.random.default_rng(0)
    pairs = []
    for width in (1, 4, 8, 9, 16, 40):
        database = random(3_000, width, generator)
        pairs.append((make_query(20, database, generator), database))
    expected = [brute_force(*pair, 50) for pair in pairs]

    def search(number):
        query, database = (torch.from_numpy(codes) for codes in pairs[number % len(pairs)])
        check_topk(query, database, 50, expected[number % len(pairs)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(search, range(60)))


# ---- every instruction set, between guard pages -----------------------------------------------


def fenced(array, at_end):
    """A copy of the bytes that ends, or starts, where memory that may not be touched begins."""
    page = mmap.PAGESIZE
    inner = -(-max(array.size, 1) // page) * page
    memory = np.frombuffer(mmap.mmap(-1, inner + 2 * page), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    for fence in (memory.ctypes.data, memory.ctypes.data + page + inner):
        assert libc.mprotect(ctypes.c_void_p(fence), page, 0) == 0
    start = page + (inner - array.size if at_end else 0)
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[:] = array
    return torch.from_numpy(copy)


def search_between_fences():
    """Reading past either end of codes or a bitmap kills the process."""
    generator = np.random.default_rng(7)
    for number, width in enumerate([*WIDTHS, *SPECIALISED, *SPECIALISED]):
        n = SIZES[number * 5 % len(SIZES)] if width < 100 else 513
        q = QUERIES[1 + number % (len(QUERIES) - 1)]
        database = KINDS[number % len(KINDS)](n, width, generator)
        query = make_query(q, database, generator)
        mask = make_mask(MASKS[number % len(MASKS)], n, generator)
        k, radius = 1 + 37 * number % 200, generator.integers(0, 8 * width + 1).item()
        for at_end in (True, False):
            rows, others = fenced(query, at_end), fenced(database, at_end)
            bitmap = fenced(np.packbits(mask), at_end)
            check_topk(rows, others, k, brute_force(query, database, k))
            check_topk(rows, others, k, brute_force(query, database, k, mask), bitmap)
            check_range(rows, others, radius, brute_force_range(query, database, radius))
            expected = brute_force_range(query, database, radius, mask)
            check_range(rows, others, radius, expected, bitmap)
            check_histogram(rows, others)
            ids = [np.arange(len(codes)) % 3 for codes in (query, database)]
            same = ids[0][:, None] == ids[1]
            check_histogram(rows, others, same, [torch.from_numpy(part) for part in ids])


@pytest.mark.skipif("_C" in _ext.MISSING, reason="no compiled kernels")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages of Linux")
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_every_instruction_set_between_guard_pages(level):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__],
        env=os.environ | {"HASHFAST_CPU": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    torch.set_num_threads(2)
    search_between_fences()
