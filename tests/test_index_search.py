"""Search and range search, as functions and on an index, against a brute-force ranking."""

import os
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
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]


# ---- ranking -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranking_equals_brute_force(data):
    size = data.draw(st.sampled_from([1, 2, 4, 5, 8, 16]))
    n = data.draw(st.integers(0, 40))
    values = data.draw(st.sampled_from([2, 256]))  # 2: nearly all codes are duplicates
    seed = data.draw(st.integers(0, 2**16))
    k = data.draw(st.integers(1, 45))
    radius = data.draw(st.integers(0, 8 * size + 2))
    database = random_codes(n, size, seed, values)
    query = random_codes(data.draw(st.integers(0, 4)), size, seed + 1, values)
    cut = data.draw(st.integers(0, n))
    ids = np.random.default_rng(seed).integers(0, 2**62, n)

    distances, rows = brute_force(query, database, k)
    mapped = np.where(rows < 0, rows, np.append(ids, 0)[rows])
    within = brute_force_range(query, database, radius)
    assert_same(range_search(query, database, radius), within)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(search(query, database, k), (distances, rows))
        for kind in INDEXES:
            index = index_of(database[:cut], 8 * size, kind=kind)
            index.add(database[cut:])
            first = torch.from_numpy(database[:cut])
            with_ids = index_of(first, 8 * size, ids=ids[:cut], kind=kind)
            with_ids.add_with_ids(database[cut:], ids[cut:].tolist())
            assert_same(index.search(query, k), (distances, rows))
            assert_same(with_ids.search(query, k), (distances, mapped))
            assert_same(index.range_search(query, radius), within)
            assert_same(with_ids.range_search(query, radius), (*within[:2], ids[within[2]]))


@every_index
def test_ties_keep_the_order_of_adding_whatever_the_ids(kind):
    codes = np.repeat(random_codes(1), 5, axis=0)
    index = index_of(codes, ids=[50, -7, 30, 2**62, 10], kind=kind)
    distances, ids = index.search(codes[:1], 3)
    assert distances.tolist() == [[0, 0, 0]]
    assert ids.tolist() == [[50, -7, 30]]


@every_index
@pytest.mark.parametrize(
    ("radius", "strict", "expected"),
    [
        (0, False, [0]),
        (1, False, [0, 1]),
        (8, False, [0, 1, 2]),
        (2**70, False, [0, 1, 2]),
        (0, True, []),
        (1, True, [0]),
        (8, True, [0, 1]),
        (9, True, [0, 1, 2]),
        (2**70, True, [0, 1, 2]),
    ],
)
def test_radius_is_included_unless_strict(kind, radius, strict, expected):
    codes = np.array([[0b0], [0b1], [0xFF]], np.uint8)
    for found in (
        range_search(codes[:1], codes, radius, strict=strict),
        index_of(codes, 8, kind=kind).range_search(codes[:1], radius, strict=strict),
    ):
        limits, distances, ids = (part.tolist() for part in found)
        assert (limits, ids) == ([0, len(expected)], expected)
        assert distances == [0, 1, 8][: len(expected)]


@every_index
@pytest.mark.parametrize("n", [0, 1, 3])
def test_more_neighbours_than_codes_are_padded_with_one_warning(kind, n):
    database, query = random_codes(n), random_codes(2, seed=1)
    index = index_of(database, kind=kind)
    for run in (lambda: search(query, database, 5), lambda: index.search(query, 5)):
        with pytest.warns(UserWarning, match=f"k is 5 but there are {n} codes") as caught:
            found = run()
        assert [os.path.basename(w.filename) for w in caught] == [os.path.basename(__file__)]
        assert_same(found, brute_force(query, database, 5))


@every_index
def test_an_empty_query_is_padded_without_a_warning_and_an_empty_index_with_one(kind):
    assert search(random_codes(0), random_codes(3), 5)[0].shape == (0, 5)
    with pytest.warns(UserWarning, match="there are 0 codes to search"):
        distances, ids = index_of(random_codes(0), kind=kind).search(random_codes(2), 5)
    assert (distances == 2**31 - 1).all()
    assert (ids == -1).all()
    limits, distances, ids = index_of(random_codes(0), kind=kind).range_search(random_codes(2), 64)
    assert (limits.tolist(), len(distances), len(ids)) == ([0, 0, 0], 0, 0)


@every_index
def test_empty_query(kind):
    query, database = random_codes(0), random_codes(9)
    index = index_of(database, kind=kind)
    for distances, ids in (search(query, database, 4), index.search(query, 4)):
        assert (distances.shape, ids.shape) == ((0, 4), (0, 4))
    assert [len(part) for part in range_search(query, database, 64)] == [1, 0, 0]
    assert [len(part) for part in index.range_search(query, 64)] == [1, 0, 0]


@every_index
def test_bits_that_fill_no_byte(kind):
    values = np.random.default_rng(0).standard_normal((30, 13))
    codes = hashfast.pack(values)
    index = index_of(codes, 13, kind=kind)
    assert (index.d, index.code_size) == (13, 2)
    assert_same(index.search(codes[:3], 30), brute_force(codes[:3], codes, 30))
    spoiled = codes | 1
    with pytest.raises(ValueError, match=r"last 3 bits of a code are set; .* 13-bit codes"):
        index.search(spoiled, 1)
    with pytest.raises(ValueError, match="codes: some of the last 3 bits"):
        index.add(spoiled)


# ---- numpy and torch -----------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_results_come_back_as_the_query_came(device):
    database, query = random_codes(50), random_codes(3, seed=1)
    there = torch.from_numpy(query).to(device)
    expected, within = brute_force(query, database, 7), brute_force_range(query, database, 30)
    on_device = torch.from_numpy(database).to(device)
    index = index_of(database, device=device)
    ids = np.arange(50) * 3 - 60
    with_ids = index_of(on_device, ids=torch.from_numpy(ids), device=device)
    for data in (database, on_device):
        assert_same(search(query, data, 7), expected)
        found = search(there, data, 7) + range_search(there, data, 30)
        assert {part.device.type for part in found} == {device}
        assert_same([part.cpu().numpy() for part in found], expected + within)
    for at, same in ((query, np.asarray), (there, lambda part: part.cpu().numpy())):
        assert_same([same(part) for part in index.search(at, 7)], expected)
        assert_same([same(part) for part in index.range_search(at, 30)], within)
        mapped = (expected[0], ids[expected[1]])
        assert_same([same(part) for part in with_ids.search(at, 7)], mapped)
    assert with_ids.ids.tolist() == ids.tolist()
    assert with_ids.reconstruct(-57).tolist() == database[1].tolist()
    assert with_ids.codes.tolist() == database.tolist()
    assert with_ids.remove_ids(torch.tensor([-57, 5], device=device)) == 1
    assert with_ids.codes.tolist() == np.delete(database, 1, axis=0).tolist()


@every_index
def test_awkward_arrays_search_and_add_the_same(kind):
    wide = random_codes(40, 32)
    read_only = random_codes(40)
    read_only.flags.writeable = False
    for codes in (wide[::2, ::4], wide[:, 8:16], wide[::-1, 7::-1], np.asfortranarray(wide)):
        bits, query = 8 * codes.shape[1], codes[:4]
        expected = brute_force(query, codes, 9)
        assert_same(search(query, codes, 9), expected)
        assert_same(index_of(codes, bits, kind=kind).search(query, 9), expected)
    expected = brute_force(read_only[:4], read_only, 9)
    assert_same(search(read_only[:4], read_only, 9), expected)
    assert_same(index_of(read_only, kind=kind).search(read_only[:4], 9), expected)
    assert not read_only.flags.writeable


def test_the_database_is_not_copied(tmp_path, monkeypatch):
    path = tmp_path / "codes.bin"
    random_codes(100).tofile(path)
    mapped = np.memmap(path, np.uint8, "r").reshape(-1, 8)
    seen = []

    def hamming_topk(query, database, k, allowed):
        seen.append(database.data_ptr())
        return torch.zeros(len(query), k, dtype=torch.int32), torch.zeros(len(query), k).long()

    monkeypatch.setattr(hashfast.ops, "hamming_topk", hamming_topk)
    search(random_codes(1), mapped, 2)
    search(random_codes(1), mapped[5::2], 2)
    start = mapped.ctypes.data
    assert seen == [start, start + 40]


@every_index
def test_read_only_arrays_bring_no_warning(kind):
    codes = random_codes(9)
    codes.flags.writeable = False
    torch.set_warn_always(True)  # torch tells of read-only arrays once a process otherwise
    try:
        assert_same(search(codes, codes, 2), brute_force(codes, codes, 2))
        assert_same(index_of(codes, kind=kind).search(codes, 2), brute_force(codes, codes, 2))
    finally:
        torch.set_warn_always(False)
