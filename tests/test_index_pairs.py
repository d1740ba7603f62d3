"""All pairs within a radius against the full table of distances."""

import importlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hamming_oracle import all_distances, assert_same, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from index_examples import index_of

import hashfast
from hashfast import pairs

pytestmark = pytest.mark.filterwarnings("error")
module = importlib.import_module("hashfast.index.pairs")


@contextmanager
def small_blocks():
    """Few rows and pairs at a time, so that small data is cut in many ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", 7)
        patch.setattr(module, "_PAIRS", 11)
        yield


def every_pair(codes, radius, database=None):
    """(i, j, distance) sorted by (i, distance, j)."""
    distances = all_distances(codes, codes if database is None else database)
    near = distances <= radius
    i, j = np.nonzero(np.triu(near, 1) if database is None else near)
    order = np.lexsort((j, distances[i, j], i))
    return i[order], j[order], distances[i, j][order]


def joined(blocks):
    parts = list(blocks)
    assert all(len(part[0]) for part in parts)
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32))
    return tuple(np.concatenate(column) for column in zip(empty, *parts, strict=True))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pairs_equal_the_table_of_distances(data):
    n, m = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 30))
    size = data.draw(st.sampled_from([1, 3, 8]))
    values = data.draw(st.sampled_from([1, 2, 256]))
    edges = st.sampled_from([0, 1, 8 * size - 1, 8 * size, 2**70])
    radius = data.draw(edges | st.integers(0, 8 * size))
    codes, others = random_codes(n, size, 1, values), random_codes(m, size, 2, values)
    with small_blocks():
        assert_same(joined(pairs(codes, radius)), every_pair(codes, radius))
        expected = every_pair(codes, radius, others)
        assert_same(joined(pairs(codes, radius, database=others)), expected)
        assert_same(joined(index_of(codes, 8 * size).pairs(radius)), every_pair(codes, radius))


def test_pairs_over_several_blocks():
    codes = random_codes(4_500, 2)
    codes[4_000:4_200] = codes[0]
    assert_same(joined(pairs(codes, 0)), every_pair(codes, 0))
    assert_same(joined(pairs(codes[:100], 3, database=codes)), every_pair(codes[:100], 3, codes))


def test_blocks_stay_small_when_all_codes_are_equal(monkeypatch):
    monkeypatch.setattr(module, "_PAIRS", 1_000)
    codes = np.zeros((300, 4), np.uint8)
    blocks = list(pairs(codes, 0))
    assert max(len(i) for i, _, _ in blocks) <= 1_000
    assert_same(joined(blocks), every_pair(codes, 0))
    assert sum(len(i) for i, _, _ in blocks) == 300 * 299 // 2
    # A row is not cut, even when it alone has more.
    blocks = list(pairs(codes[:1], 0, database=np.zeros((2_000, 4), np.uint8)))
    assert [len(i) for i, _, _ in blocks] == [2_000]


def test_codes_without_pairs_give_no_blocks():
    codes = np.packbits(np.eye(64, dtype=np.uint8), axis=1)
    assert list(pairs(codes, 1)) == []
    assert list(pairs(codes[:0], 64)) == []
    assert list(pairs(codes, 64, database=codes[:0])) == []


def test_ids_of_an_index():
    codes = random_codes(60, values=2)
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, 60)
    i, j, distances = every_pair(codes, 9)
    assert len(i) > 20
    index = index_of(codes, ids=ids)
    found = index.pairs(9)
    index.remove_ids(ids[::2])  # a stream goes on over the codes that were there
    index.add_with_ids(codes[:1], [5])
    assert_same(joined(found), (ids[i], ids[j], distances))


def test_kinds_of_arrays():
    codes = random_codes(50, values=3)
    expected = every_pair(codes, 8)
    blocks = list(pairs(torch.from_numpy(codes), 8))
    assert {type(part) for block in blocks for part in block} == {torch.Tensor}
    assert_same(joined(blocks), expected)
    wide = np.repeat(codes, 2, axis=1)
    assert_same(joined(pairs(wide[:, ::2], 8)), expected)
    assert_same(joined(pairs(wide[::-1, ::-2][::-1, ::-1], 8)), expected)
    found = pairs(codes, 8, database=torch.from_numpy(codes))
    assert_same(joined(found), every_pair(codes, 8, codes))


def test_bad_input_is_refused_before_the_first_step():
    codes = random_codes(4)
    for run, error, message in [
        (lambda: pairs(codes.astype(float), 1), TypeError, "codes is float64; .* hashfast.pack"),
        (lambda: pairs(codes[0], 1), ValueError, r"codes has shape \[8\]"),
        (lambda: pairs(codes, -1), ValueError, "radius is -1; expected at least 0"),
        (lambda: pairs(codes, 0.5), TypeError, r"radius is 0\.5; expected an integer"),
        (
            lambda: pairs(codes[:, :7], 1, database=codes),
            ValueError,
            r"codes has 7 bytes per code \(56 bits\); database has 64-bit codes \(8 bytes\)",
        ),
        (lambda: pairs(codes, 1, database=[[1]]), TypeError, "database is a list"),
        (lambda: index_of(codes).pairs(-1), ValueError, "radius is -1"),
    ]:
        with pytest.raises(error, match=message):
            run()
    assert hashfast.pairs is pairs
