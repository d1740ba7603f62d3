"""Agreement with faiss: files, searches, ids and removal."""

import os
import sys
import warnings

import numpy as np
import pytest
from hamming_oracle import random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from index_examples import examples, index_of

import hashfast
from hashfast import IndexBinaryFlat, load_index

pytestmark = pytest.mark.filterwarnings("error")
CODES = random_codes(4)


IDS = st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1).filter(lambda id: id != -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def faiss():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old SWIG types warn while they are imported
        return pytest.importorskip("faiss")


def test_files_equal_those_of_faiss(tmp_path, faiss):
    ours, theirs = tmp_path / "ours.idx", tmp_path / "theirs.idx"
    for index in examples():
        if index.d % 8:
            continue
        index.save(ours)
        faiss.write_index_binary(index.to_faiss(), os.fspath(theirs))
        assert ours.read_bytes() == theirs.read_bytes()
        for path in (ours, theirs):
            back = IndexBinaryFlat.from_faiss(faiss.read_index_binary(os.fspath(path)))
            for again in (back, load_index(path), load_index(path, mmap=True)):
                np.testing.assert_array_equal(again.codes, index.codes)
                np.testing.assert_array_equal(again.ids, index.ids)


def test_second_id_map_of_faiss(tmp_path, faiss):
    path = os.fspath(tmp_path / "map2.idx")
    theirs = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(64))
    theirs.add_with_ids(CODES, np.array([4, 2, 8, 6]))
    faiss.write_index_binary(theirs, path)
    for index in (load_index(path), IndexBinaryFlat.from_faiss(theirs)):
        assert index.ids.tolist() == [4, 2, 8, 6]
        assert index.reconstruct(8).tolist() == theirs.reconstruct(8).tolist()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_faiss_writes_is_read_and_written_alike(faiss, folder, data):
    bits, n = 8 * data.draw(st.integers(1, 40)), data.draw(st.integers(0, 30))
    ids = data.draw(st.none() | st.lists(IDS, min_size=n, max_size=n))
    gone = np.array(data.draw(st.lists(IDS | st.integers(0, 30), max_size=8)), np.int64)
    codes = random_codes(n, bits // 8, n)
    theirs = faiss.IndexBinaryFlat(bits)
    if ids is None:
        theirs.add(codes)
    else:
        theirs = faiss.IndexBinaryIDMap(theirs)
        theirs.add_with_ids(codes, np.array(ids, np.int64))
    ours, written = index_of(codes, bits, ids=ids), folder / "theirs.idx"
    assert ours.remove_ids(gone) == theirs.remove_ids(gone)
    faiss.write_index_binary(theirs, os.fspath(written))
    ours.save(folder / "ours.idx")
    assert (folder / "ours.idx").read_bytes() == written.read_bytes()
    for again in (load_index(written), load_index(written, mmap=True)):
        np.testing.assert_array_equal(again.codes, ours.codes)
        np.testing.assert_array_equal(again.ids, ours.ids)
    written.unlink()  # a mapped file must not be overwritten in place


def test_search_agrees_with_faiss(faiss):
    database, query = random_codes(500, values=4), random_codes(20, seed=1, values=4)
    ours = index_of(database)
    theirs = ours.to_faiss()
    mask = np.arange(500) % 3 == 0
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.flatnonzero(mask)))
    for allowed, options in ((None, {}), (mask, {"params": chosen})):
        distances, ids = ours.search(query, 25, allowed)
        their_distances, their_ids = theirs.search(query, 25, **options)
        np.testing.assert_array_equal(distances, their_distances)
        for i in range(20):  # faiss leaves ties at the k-th place to chance
            inside = distances[i] < distances[i, -1]
            assert set(ids[i, inside]) == set(their_ids[i, inside])
    for radius in (0, 1, 10, 64, 65):
        limits, distances, ids = ours.range_search(query, radius, strict=True)
        their_limits, their_distances, their_ids = theirs.range_search(query, radius)
        np.testing.assert_array_equal(limits, their_limits.astype(np.int64))
        for i in range(20):
            part = slice(limits[i], limits[i + 1])
            expected = sorted(zip(their_distances[part], their_ids[part], strict=True))
            assert list(zip(distances[part], ids[part], strict=True)) == expected


def test_a_run_of_codes_as_faiss_gives_it(faiss):
    ours = index_of(random_codes(9))
    np.testing.assert_array_equal(ours.reconstruct_n(2, 5), ours.to_faiss().reconstruct_n(2, 5))


def test_other_indexes_of_faiss_are_foreign(tmp_path, faiss):
    path = tmp_path / "other.idx"
    quantizer = faiss.IndexBinaryFlat(64)
    lists = faiss.IndexBinaryIVF(quantizer, 64, 2)
    lists.train(CODES)
    for other, write in [
        (lists, faiss.write_index_binary),
        (faiss.IndexBinaryHNSW(64, 4), faiss.write_index_binary),
        (faiss.IndexBinaryIDMap(lists), faiss.write_index_binary),
        (faiss.IndexFlatL2(8), faiss.write_index),
    ]:
        write(other, os.fspath(path))
        for mmap in (False, True):
            with pytest.raises(ValueError, match=r"other\.idx: not a flat binary index: found b'I"):
                load_index(path, mmap=mmap)
        path.unlink()


def test_what_faiss_cannot_hold(tmp_path, faiss):
    index, path = index_of(hashfast.pack(np.ones((2, 13))), 13), tmp_path / "codes.idx"
    with pytest.raises(ValueError, match="faiss holds whole bytes, this index 13-bit codes"):
        index.to_faiss()
    index.save(path)
    with pytest.raises(RuntimeError, match="not recognized"):
        faiss.read_index_binary(os.fspath(path))
    for other in (faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 2), faiss.IndexFlatL2(8)):
        with pytest.raises(TypeError, match=f"index is {type(other).__name__}; expected faiss"):
            IndexBinaryFlat.from_faiss(other)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="faiss is not installed: pip install faiss-cpu"):
        index_of(CODES).to_faiss()
