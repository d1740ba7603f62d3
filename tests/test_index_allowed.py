"""Filtered search: every form of `allowed` against a brute-force ranking of the allowed rows."""

import warnings

import numpy as np
import pytest
import torch
from hamming_oracle import assert_same, brute_force, brute_force_range, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from index_examples import INDEXES, every_index, index_of

import hashfast
from hashfast import range_search, search

pytestmark = pytest.mark.filterwarnings("error")


def forms_of(mask, generator):
    """A mask, its row numbers in any order and more than once, and its bitmap, of both kinds."""
    rows = np.flatnonzero(mask)
    rows = generator.permutation(np.concatenate([rows, rows[::2]]))
    bitmap = hashfast.pack(mask)
    bitmap.flags.writeable = False
    yield from (mask, torch.from_numpy(mask), mask.tolist(), bitmap, torch.from_numpy(bitmap))
    yield from (rows, rows[::-1], rows.tolist(), torch.from_numpy(rows), rows.astype(np.int16))
    yield np.repeat(mask, 2)[::2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_form_searches_the_allowed_rows(data):
    n = data.draw(st.integers(0, 70))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    share = data.draw(st.sampled_from([0, 0.1, 0.5, 1]))
    values = data.draw(st.sampled_from([2, 256]))
    size, k = data.draw(st.sampled_from([1, 4, 8, 9])), data.draw(st.integers(1, 80))
    database, query = random_codes(n, size, 1, values), random_codes(3, size, 2, values)
    radius = data.draw(st.integers(0, 8 * size))
    mask = generator.random(n) < share
    nearest = brute_force(query, database, k, mask)
    within = brute_force_range(query, database, radius, mask)
    indexes = [index_of(database, 8 * size, kind=kind) for kind in INDEXES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for allowed in forms_of(mask, generator):
            assert_same(search(query, database, k, allowed), nearest)
            assert_same(range_search(query, database, radius, allowed), within)
            for index in indexes:
                assert_same(index.search(query, k, allowed=allowed), nearest)
                assert_same(index.range_search(query, radius, allowed=allowed), within)


@every_index
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ids_of_ones_own(kind, data):
    n = data.draw(st.integers(1, 40))
    held = np.array(data.draw(st.lists(st.integers(-2, 8), min_size=n, max_size=n)))
    held[held == -1] = -(2**63)
    wanted = data.draw(st.lists(st.sampled_from(held.tolist())))
    database, query = random_codes(n, values=3), random_codes(2, seed=1, values=3)
    index, mask = index_of(database, ids=held, kind=kind), np.isin(held, wanted)
    nearest = brute_force(query, database, n, mask)
    expected = nearest[0], np.where(nearest[1] < 0, nearest[1], held[nearest[1]])
    within = brute_force_range(query, database, 20, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for allowed in (wanted, torch.tensor(wanted, dtype=torch.int64), mask, hashfast.pack(mask)):
            assert_same(index.search(query, n, allowed), expected)
            found = index.range_search(query, 20, allowed)
            assert_same(found, (*within[:2], held[within[2]]))


@every_index
def test_the_results_come_back_as_the_query_came(kind):
    database = random_codes(30)
    query, mask = torch.from_numpy(random_codes(2, seed=1)), np.arange(30) % 3 == 0
    expected = brute_force(query.numpy(), database, 4, mask)
    index = index_of(database, kind=kind)
    for found in (search(query, database, 4, mask), index.search(query, 4, mask)):
        assert all(isinstance(part, torch.Tensor) for part in found)
        assert_same([part.numpy() for part in found], expected)


def test_a_bitmap_is_used_where_it_lies(monkeypatch):
    codes, bitmap = random_codes(100), hashfast.pack(np.arange(100) % 2 == 0)
    seen, original = [], hashfast.ops.hamming_topk

    def hamming_topk(query, database, k, allowed):
        seen.append(allowed.data_ptr())
        return original(query, database, k, allowed)

    monkeypatch.setattr(hashfast.ops, "hamming_topk", hamming_topk)
    search(codes, codes, 2, bitmap)
    index_of(codes).search(codes, 2, torch.from_numpy(bitmap))
    assert seen == [bitmap.ctypes.data] * 2


@every_index
@pytest.mark.parametrize("allowed", [[3, 5], np.isin(np.arange(9), [3, 5]), []])
def test_fewer_than_k_allowed_are_padded_with_one_warning(kind, allowed):
    database, query = random_codes(9), random_codes(2, seed=1)
    number = 2 if len(allowed) else 0
    message = f"k is 4 but allowed leaves {number} of 9 codes to search: results are padded"
    for run in (
        lambda: search(query, database, 4, allowed),
        lambda: index_of(database, kind=kind).search(query, 4, allowed),
    ):
        with pytest.warns(UserWarning, match=message) as caught:
            distances, ids = run()
        assert [warning.filename for warning in caught] == [__file__]
        assert (ids[:, number:] == -1).all()
        assert (distances[:, number:] == 2**31 - 1).all()
        assert set(ids[:, :number].ravel()) == {3, 5} or not number
    assert index_of(database, kind=kind).range_search(query, 64, [])[0].tolist() == [0, 0, 0]


ROW_MESSAGE = "allowed has id {}, which none of the 20 codes searched has"


@pytest.mark.parametrize(
    ("allowed", "error", "message"),
    [
        ([3, 20, 4], ValueError, ROW_MESSAGE.format(20)),
        (np.array([-1]), ValueError, ROW_MESSAGE.format(-1)),
        (torch.tensor([0, 2**62]), ValueError, ROW_MESSAGE.format(2**62)),
        (np.array([2**63], np.uint64), ValueError, "allowed go up to 9223372036854775808"),
        ([0.0, 1.0], TypeError, "allowed is float64; expected integers"),
        (np.ones(20, np.float32), TypeError, "allowed is float32; expected integers"),
        (["a"], TypeError, "allowed is <U1; expected integers"),
        (np.ones(19, bool), ValueError, r"allowed is bool \[19\]; expected \[20\]: one flag for"),
        (torch.ones(2, 20).bool(), ValueError, r"allowed is bool \[2, 20\]; expected \[20\]"),
        (np.ones((2, 2), int), ValueError, r"allowed has shape \(2, 2\); expected a list of ids"),
        (7, TypeError, "allowed has type int; expected a list or array of ids, or a mask"),
        (np.array(7), ValueError, r"allowed has shape \(\); expected a list of ids"),
        (np.ones(20, np.uint8), ValueError, r"allowed is uint8 \[20\]; expected \[3\]: a bitmap, "),
        (torch.ones(2).byte(), ValueError, r"allowed is uint8 \[2\]; .* of a wider integer type"),
    ],
)
def test_bad_forms(allowed, error, message):
    codes = random_codes(20)
    for run in (search, range_search):
        with pytest.raises(error, match=message):
            run(codes, codes, 1, allowed)
    for kind in INDEXES:
        index = index_of(codes, kind=kind)
        for run in (index.search, index.range_search):
            with pytest.raises(error, match=message):
                run(codes, 1, allowed)


@every_index
def test_an_id_that_is_not_held(kind):
    index = index_of(random_codes(3), ids=[7, 5, 7], kind=kind)
    assert index.search(random_codes(1), 2, [7])[1].tolist() == [[7, 7]]
    for id in (0, 1, -1, 2**40):
        with pytest.raises(ValueError, match=f"allowed has id {id}, which none of the 3 codes"):
            index.search(random_codes(1), 1, [7, id])
