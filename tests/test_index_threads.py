"""Readers of an index while another thread writes: each sees the codes of one moment."""

import threading

import numpy as np
import pytest
from hamming_oracle import assert_same
from index_examples import every_index, index_of, make_tables_of_few_codes

from hashfast import IndexBinaryFlat, ops

pytestmark = pytest.mark.filterwarnings("error")


def codes_of(ids):
    """The code of an id is its bytes: one found under the id of another is told by its distance."""
    return np.asarray(ids, np.int64).view(np.uint8).reshape(-1, 8)


def in_a_thread(run):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


CHANGES = {
    "remove_ids": lambda index: index.remove_ids(range(100, 150)),
    "add": lambda index: index.add_with_ids(codes_of([7]), [7]),
    "reset": IndexBinaryFlat.reset,
    "renew": lambda index: (index.reset(), index.add_with_ids(codes_of([7]), [7])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["hamming_topk", "hamming_range"])
def test_a_change_in_the_midst_of_a_search(monkeypatch, name, change):
    held, query = np.arange(100, 200), codes_of([180, 101])
    mask = held % 2 == 1
    original = getattr(ops, name)

    def search(index):
        if name == "hamming_topk":
            return index.search(query, 5, mask)
        return index.range_search(query, 3, mask)

    expected = search(index_of(codes_of(held), ids=held))
    index = index_of(codes_of(held), ids=held)

    def changing(*args):
        found = original(*args)
        in_a_thread(lambda: CHANGES[change](index))
        return found

    monkeypatch.setattr(ops, name, changing)
    assert_same(search(index), expected)
    assert len(index) != 100


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_the_midst_of_pairs(change):
    held = np.arange(100, 200)
    expected = list(index_of(codes_of(held), ids=held).pairs(1))
    index = index_of(codes_of(held), ids=held)
    blocks = index.pairs(1)
    in_a_thread(lambda: CHANGES[change](index))
    for block, wanted in zip(blocks, expected, strict=True):
        assert_same(block, wanted)


@every_index
def test_readers_beside_a_writer(kind, monkeypatch):
    make_tables_of_few_codes(monkeypatch)
    fixed, moving = np.arange(50), np.arange(1000, 1400)
    index = index_of(codes_of(fixed), ids=fixed, kind=kind)
    errors, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                for distances, ids in (
                    index.search(codes_of([1200]), 40),
                    index.range_search(codes_of([1200]), 12)[1:],
                ):
                    apart = np.bitwise_count(codes_of(ids.ravel()) ^ codes_of([1200])).sum(1)
                    assert (apart == distances.ravel()).all()
                for i, j, distances in index.pairs(1) if kind is IndexBinaryFlat else ():
                    assert (np.bitwise_count(i ^ j) == distances).all()
                assert index.reconstruct(3).tolist() == codes_of([3])[0].tolist()
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(100):
        index.add_with_ids(codes_of(moving), moving)
        if kind is not IndexBinaryFlat and step % 3 == 0:
            index.build()
        index.remove_ids(moving)
    done.set()
    for reader in readers:
        reader.join()
    assert not errors, errors[0]
    assert index.ids.tolist() == fixed.tolist()
