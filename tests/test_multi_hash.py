"""Multi-index hashing finds exactly what the scan of all codes finds, however its tables are made.

`python tests/test_multi_hash.py FOLDER` searches on the instruction set that HASHFAST_CPU names; a
test does so for each of them.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hamming_oracle import assert_same, brute_force, brute_force_range, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from index_examples import KINDS, codes_of_kind, index_of, padded, queries_for

from hashfast import IndexBinaryMultiHash, _ext, load_index

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("one_thread")]
BITS = [8, 13, 16, 32, 48, 64, 96, 128, 256, 512]


def options_for(bits):
    """Numbers of tables of wide and of narrow substrings, with and without collapse and copies."""
    wanted = {1, 2, 3, 5, -(-bits // 11), -(-bits // 8), -(-bits // 5)}
    tables = [None, *sorted(number for number in wanted if number <= min(bits, 64))]
    for turn, number in enumerate(tables):
        for collapse in (True, False):
            copies = (None, True, False)[(turn + collapse) % 3]
            yield {"tables": number, "collapse": collapse, "copies": copies}


def silently(run, *args):
    """Without the warning that there are fewer codes than neighbours asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k is")
        return run(*args)


def check(index, flat, queries, ks):
    for k in ks:
        assert_same(silently(index.search, queries, k), silently(flat.search, queries, k))


# ---- all kinds of codes ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_few_codes(kind, bits):
    generator = np.random.default_rng(bits)
    for turn, n in enumerate((0, 1, 50, 2)):
        codes = codes_of_kind(kind, n, bits, generator)
        ids = None if n % 4 else generator.integers(-(2**63), -1, n)
        flat = index_of(codes, bits, ids)
        queries = queries_for(codes, bits, 7, generator)
        if ids is None:
            expected = brute_force(queries, codes, n + 3)
            assert_same(silently(flat.search, queries, n + 3), expected)
        for options in [*options_for(bits)][turn % 2 :: 2]:
            index = index_of(codes, bits, ids, IndexBinaryMultiHash, **options)
            check(index, flat, queries, {1, 2, max(n - 1, 1), max(n, 1), n + 3})


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_codes(kind, bits):
    generator = np.random.default_rng(bits)
    codes = codes_of_kind(kind, 5_000, bits, generator)
    ids = generator.permutation(5_000) * 3 if bits % 3 else None
    flat = index_of(codes, bits, ids)
    queries = queries_for(codes, bits, 8, generator)
    for number, options in enumerate(options_for(bits)):
        index = index_of(codes, bits, ids, IndexBinaryMultiHash, **options)
        check(index, flat, queries, [(1, 2, 3)[number % 3], 10, 100])
    check(index, flat, queries[:4], [4_999, 5_000, 5_003])


@pytest.mark.parametrize("bits", [13, 64, 256])
def test_every_number_of_neighbours(bits):
    generator = np.random.default_rng(bits)
    codes = codes_of_kind("few ones", 90, bits, generator)
    flat, queries = index_of(codes, bits), queries_for(codes, bits, 4, generator)
    index = index_of(codes, bits, kind=IndexBinaryMultiHash)
    check(index, flat, queries, range(1, 94))


@pytest.mark.parametrize("tables", [2, 3, 4])
def test_every_way_to_spread_a_distance_over_the_substrings(tables):
    """Codes d1, d2, ... bits from the query in the substrings: which table finds them differs.

    Among so many other codes, all farther away, that buckets are cheaper than a scan.
    """
    bits, most = 16 * tables, {2: 9, 3: 5, 4: 4}[tables]
    generator = np.random.default_rng(tables)
    spreads = np.stack(np.meshgrid(*[np.arange(most)] * tables), -1).reshape(-1, tables)
    spreads = generator.permutation(np.concatenate([spreads, spreads]))
    query = random_codes(1, bits // 8)
    ones = generator.permuted(np.arange(16) < spreads[:, :, None], axis=2)
    codes = query ^ np.packbits(ones.reshape(-1, bits), axis=1)
    others = ~query ^ np.packbits(generator.random((30_000, bits)) < 0.2, axis=1)
    codes = np.concatenate([others[:15_000], codes, others[15_000:]])
    flat = index_of(codes, bits)
    for collapse, copies in ((True, True), (False, True), (True, False), (False, False)):
        options = {"tables": tables, "collapse": collapse, "copies": copies}
        index = index_of(codes, bits, kind=IndexBinaryMultiHash, **options)
        assert len(index.widths) == tables
        check(index, flat, query, [*range(1, 20), 50, 100, len(spreads)])
        for radius in range(12):
            assert_same(index.range_search(query, radius), flat.range_search(query, radius))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_added_and_asked(data):
    """Codes in the tables and behind them, one bit of two apart or at random, against the scan."""
    bits = data.draw(st.sampled_from(BITS) | st.integers(1, 200))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    sizes = data.draw(st.lists(st.integers(0, 150), max_size=4))
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    codes = codes_of_kind(kind, sum(sizes), bits, generator)
    options = data.draw(st.sampled_from(list(options_for(bits))))
    index, start = IndexBinaryMultiHash(bits, **options), 0
    for size in sizes:
        index.add(codes[start : start + size])
        start += size
        if data.draw(st.booleans()):
            index.build()
    queries = queries_for(codes, bits, data.draw(st.integers(0, 9)), generator)
    k, radius = data.draw(st.integers(1, start + 3)), data.draw(st.integers(0, bits + 1))
    nearest, within = (
        brute_force(queries, codes, k),
        brute_force_range(queries, codes, radius),
    )
    assert_same(silently(index.search, queries, k), nearest)
    assert_same(index.range_search(queries, radius), within)
    mask = generator.random(start) < data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    assert_same(silently(index.search, queries, k, mask), brute_force(queries, codes, k, mask))
    found = index.range_search(queries, radius, mask)
    assert_same(found, brute_force_range(queries, codes, radius, mask))


# ---- how queries come ------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, 1, 7, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_queries_of_all_forms_on_some_threads(q, threads):
    generator = np.random.default_rng(q)
    codes = codes_of_kind("clustered", 3_000, 64, generator)
    index = index_of(codes, kind=IndexBinaryMultiHash)
    queries = queries_for(codes, 64, q, generator)
    nearest, within = brute_force(queries, codes, 11), brute_force_range(queries, codes, 9)
    wide = np.repeat(queries, 2, axis=1)
    read_only = queries.copy()
    read_only.flags.writeable = False
    torch.set_num_threads(threads)
    for form in (
        queries,
        wide[:, ::2],
        queries[::-1].copy()[::-1],
        queries[:, ::-1].copy()[:, ::-1],
        np.asfortranarray(queries),
        read_only,
    ):
        assert_same(index.search(form, 11), nearest)
        assert_same(index.range_search(form, 9), within)
    for tensor in (torch.from_numpy(queries), torch.from_numpy(wide)[:, ::2]):
        found = index.search(tensor, 11) + index.range_search(tensor, 9)
        assert {type(part) for part in found} == {torch.Tensor}
        assert_same([part.numpy() for part in found], nearest + within)


def test_codes_of_all_forms():
    wide = random_codes(2_000, 16, values=3)
    for codes in (wide[::2, ::2], wide[:, 8:], wide[::-1, 7::-1], np.asfortranarray(wide)):
        bits = 8 * codes.shape[1]
        expected = brute_force(codes[:5], codes, 30)
        for form in (codes, torch.from_numpy(codes.copy())):
            index = index_of(form, bits, kind=IndexBinaryMultiHash)
            assert_same(index.search(codes[:5], 30), expected)


def test_what_the_index_tells_of_itself():
    codes = codes_of_kind("many duplicates", 3_000, 64, np.random.default_rng(0))
    distinct = len(np.unique(codes, axis=0))
    assert distinct < 400
    for tables in (None, 3, 4, 5):
        for collapse in (True, False):
            index = index_of(codes, kind=IndexBinaryMultiHash, tables=tables, collapse=collapse)
            assert sum(index.widths) <= 64
            assert max(index.widths) - min(index.widths) <= 1
            assert tables is None or len(index.widths) == tables
            assert index.distinct == (distinct if collapse else 3_000)
            assert "IndexBinaryMultiHash" in repr(index)
            assert "3000" in repr(index)
            assert index.nbytes >= distinct * 8
    with_copies, without = (
        index_of(random_codes(3_000), kind=IndexBinaryMultiHash, copies=copies)
        for copies in (True, False)
    )
    assert with_copies.nbytes > without.nbytes + 3_000 * 8


# ---- instruction sets ------------------------------------------------------------------------


def search_and_save(folder):
    """Print what searches find, on one thread and on two, and keep the index."""
    level = os.environ["HASHFAST_CPU"]
    for bits in (13, 32, 64, 136):
        generator = np.random.default_rng(bits)
        codes = codes_of_kind("clustered", 4_000, bits, generator)
        queries = queries_for(codes, bits, 21, generator)
        index = index_of(codes, bits, kind=IndexBinaryMultiHash)
        index.add(codes[:77])
        index.save(folder / f"{level}-{bits}.idx")
        codes = np.concatenate([codes, codes[:77]])
        mask = generator.random(len(codes)) < 0.4
        distances, rows = brute_force(queries, codes, 200)
        allowed = brute_force(queries, codes, 50, mask)
        within = brute_force_range(queries, codes, bits // 3)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for k in (1, 10, 200):
                assert_same(index.search(queries, k), (distances[:, :k], rows[:, :k]))
            assert_same(index.search(queries, 50, mask), allowed)
            assert_same(index.range_search(queries, bits // 3), within)


LEVELS = ["portable", "avx2", "avx512"]


@pytest.mark.skipif("_C" in _ext.MISSING, reason="no compiled kernels")
def test_every_instruction_set_finds_the_same_and_reads_files_of_the_others(tmp_path):
    for level in LEVELS:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", __file__, os.fspath(tmp_path)],
            env=os.environ | {"HASHFAST_CPU": level},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for bits in (13, 32, 64, 136):
        files = [(tmp_path / f"{level}-{bits}.idx").read_bytes() for level in LEVELS]
        assert files == files[:1] * 3
        index = load_index(tmp_path / f"portable-{bits}.idx", mmap=True)
        queries = padded(random_codes(9, index.code_size), bits)
        assert_same(index.search(queries, 60), brute_force(queries, index.codes, 60))


if __name__ == "__main__":
    search_and_save(Path(sys.argv[1]))
