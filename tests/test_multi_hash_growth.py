"""Multi-index hashing while it grows and shrinks: codes in the tables, behind them, and gone."""

import threading

import numpy as np
import pytest
from hamming_oracle import assert_same, random_codes
from index_examples import KINDS, codes_of_kind, index_of, queries_for

from hashfast import IndexBinaryFlat, IndexBinaryMultiHash, pack

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("one_thread")]


def assert_alike(index, flat, queries, k=7, radius=12):
    assert len(index) == len(flat)
    assert_same(index.search(queries, k), flat.search(queries, k))
    assert_same(index.range_search(queries, radius), flat.range_search(queries, radius))


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_many_small_steps(kind, collapse):
    generator = np.random.default_rng(0)
    codes = codes_of_kind(kind, 1_500, 64, generator)
    queries = queries_for(codes, 64, 5, generator)
    index, flat = IndexBinaryMultiHash(64, collapse=collapse), IndexBinaryFlat(64)
    start = 0
    for step, size in enumerate([9, 1, 0, 3, 500, 2, 2, 30, 1, 400, 1, 551]):
        for one in (index, flat):
            one.add(codes[start : start + size])
        start += size
        if step % 4 == 3:
            index.build()
        assert_alike(index, flat, queries)
    assert start == 1_500
    np.testing.assert_array_equal(index.codes, codes)
    for row in (0, 12, 513, 1_499):
        assert index.reconstruct(row).tolist() == codes[row].tolist()
    np.testing.assert_array_equal(index.reconstruct_n(490, 60), codes[490:550])


def test_building_changes_no_answer():
    codes = random_codes(2_000, values=4)
    queries = random_codes(6, seed=1, values=4)
    index, flat = IndexBinaryMultiHash(64), index_of(codes)
    index.build()  # of nothing
    index.add(codes[:700])
    assert index.distinct == 0
    index.build()
    assert 0 < index.distinct == len(np.unique(codes[:700], axis=0))
    index.build()
    index.add(codes[700:])
    assert index.distinct == len(np.unique(codes[:700], axis=0))
    assert_alike(index, flat, queries)
    index.build()
    assert index.distinct == len(np.unique(codes, axis=0))
    assert_alike(index, flat, queries)
    copy = index.codes
    copy[:] = 0
    np.testing.assert_array_equal(index.codes, codes)


def test_a_large_tail_is_merged_by_the_next_search():
    codes = random_codes(30_000, values=4)
    queries = random_codes(4, seed=1, values=4)
    index = IndexBinaryMultiHash(64, collapse=False)
    index.add(codes[:1000])
    index.search(queries, 1)
    assert index.distinct == 0  # not larger than 1,000
    index.add(codes[1000:1001])
    index.search(queries, 1)
    assert index.distinct == 1001
    index.add(codes[1001:])
    index.range_search(queries, 3)
    assert index.distinct == 30_000
    index.add(codes[:5])
    assert_alike(index, index_of(np.concatenate([codes, codes[:5]])), queries)
    assert index.distinct == 30_000


@pytest.mark.parametrize("ids", [False, True])
def test_removing_from_the_tables_and_from_behind_them(ids):
    generator = np.random.default_rng(0)
    codes = codes_of_kind("many duplicates", 900, 64, generator)
    queries = queries_for(codes, 64, 6, generator)
    index = index_of(codes[:600], ids=range(0, 1200, 2) if ids else None, kind=IndexBinaryMultiHash)
    flat = index_of(codes[:600], ids=range(0, 1200, 2) if ids else None)
    for one in (index, flat):
        if ids:
            one.add_with_ids(codes[600:], range(5_000, 5_300))
        else:
            one.add(codes[600:])
    for gone in ([0], range(4, 400, 6), [5_000, 5_298, 700], [899], [], range(2_000)):
        assert index.remove_ids(gone) == flat.remove_ids(gone)
        assert_alike(index, flat, queries, k=max(min(7, len(flat)), 1)) if len(flat) else None
        np.testing.assert_array_equal(index.codes, flat.codes)
        assert index.ids.tolist() == flat.ids.tolist()
    index.reset()
    assert (len(index), index.distinct, index.codes.shape) == (0, 0, (0, 8))
    for one in (index, flat):
        one.reset()
        one.add_with_ids(codes, range(900))
    assert_alike(index, flat, queries)
    index.build()
    assert_alike(index, flat, queries)


def test_allowed_in_all_its_forms():
    generator = np.random.default_rng(0)
    codes = codes_of_kind("many duplicates", 1_203, 64, generator)
    queries = queries_for(codes, 64, 6, generator)
    ids = generator.permutation(1_203) + 10
    flat = index_of(codes)
    index = index_of(codes[:1_100], ids=ids[:1_100], kind=IndexBinaryMultiHash)
    index.add_with_ids(codes[1_100:], ids[1_100:])
    for share in (0.02, 0.3, 0.98):
        mask = generator.random(1_203) < share
        k = min(20, int(mask.sum()))
        distances, rows = flat.search(queries, k, mask)
        limits, within, found = flat.range_search(queries, 16, mask)
        for allowed in (mask, pack(mask), ids[mask], set(ids[mask].tolist()), ids[mask].tolist()):
            assert_same(index.search(queries, k, allowed), (distances, ids[rows]))
            assert_same(index.range_search(queries, 16, allowed), (limits, within, ids[found]))


def test_the_only_allowed_code_of_many_equal_ones():
    """Equal codes kept once: a later one of them may be the only one that is allowed."""
    codes = np.repeat(random_codes(3), 500, axis=0)
    index = index_of(codes, kind=IndexBinaryMultiHash)
    for row in (0, 499, 500, 731, 1_499):
        distances, ids = index.search(codes[row : row + 1], 1, [row])
        assert (distances.tolist(), ids.tolist()) == ([[0]], [[row]])
    allowed = [499, 100, 1_499, 1_000]
    assert index.search(codes[:1], 2, allowed)[1].tolist() == [[100, 499]]
    assert index.search(codes[-1:], 2, allowed)[1].tolist() == [[1_000, 1_499]]


def test_readers_beside_a_thread_that_adds_builds_and_removes():
    """Every answer is that of one moment: a prefix of the codes, nearest first."""
    codes = random_codes(6_000, values=4)
    query = random_codes(3, seed=1, values=4)
    index = index_of(codes[:500], kind=IndexBinaryMultiHash)
    flat = {n: index_of(codes[:n]).search(query, 5) for n in range(500, 6_001, 250)}
    errors, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                found = index.search(query, 5)
                assert any(
                    all(np.array_equal(*pair) for pair in zip(found, answer, strict=True))
                    for answer in flat.values()
                )
                limits, distances, _ = index.range_search(query, 14)
                assert len(distances) == limits[-1]
                assert index.reconstruct(499).tolist() == codes[499].tolist()
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(3):
        for n in range(500, 6_000, 250):
            index.add(codes[n : n + 250])
            if n // 250 % 3 == turn:
                index.build()
        index.remove_ids(range(500, 6_000))
    done.set()
    for reader in readers:
        reader.join()
    assert not errors, errors[0]
    assert len(index) == 500
