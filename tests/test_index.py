"""The index as it changes: adding, ids, removing, against a plain list of codes."""

import copy
import os
import pickle
import tempfile
import warnings

import numpy as np
import pytest
from hamming_oracle import assert_same, brute_force, brute_force_range, random_codes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from index_examples import every_index, index_of

from hashfast import IndexBinaryFlat, IndexBinaryMultiHash, load_index

pytestmark = pytest.mark.filterwarnings("error")


def test_memory_grows_by_factors():
    codes, moves, start = random_codes(300), 0, None
    index = IndexBinaryFlat(64)
    for i in range(300):
        index.add(codes[i : i + 1])
        moves += index.codes.ctypes.data != start
        start = index.codes.ctypes.data
    assert moves < 20
    assert not index.codes.flags.writeable


@every_index
def test_adding_and_forgetting(kind):
    codes = random_codes(300)
    index = kind(64)
    assert (index.d, index.code_size, index.ntotal, index.is_trained) == (64, 8, 0, True)
    for i in range(300):
        index.add(codes[i : i + 1])
    assert len(index) == index.ntotal == 300
    np.testing.assert_array_equal(index.codes, codes)
    index.add(index.codes)
    np.testing.assert_array_equal(index.codes, np.concatenate([codes, codes]))
    index.reset()
    assert (index.ntotal, index.codes.shape) == (0, (0, 8))
    index.add_with_ids(codes, range(300))
    assert index.ntotal == 300


@every_index
def test_reconstruct(kind):
    codes = random_codes(5)
    index = index_of(codes, kind=kind)
    copy = index.reconstruct(3)
    assert copy.tolist() == codes[3].tolist()
    copy[:] = 0
    np.testing.assert_array_equal(index.codes, codes)
    for missing in (-1, 5):
        with pytest.raises(IndexError, match=f"id {missing} is not in this index of 5 codes"):
            index.reconstruct(missing)
    index = kind(64)
    index.add_with_ids(codes, [9, 8, 9, -3, 2**40])
    assert index.ids.tolist() == [9, 8, 9, -3, 2**40]
    assert index.reconstruct(9).tolist() == codes[2].tolist()  # repeated: the last one
    assert index.reconstruct(2**40).tolist() == codes[4].tolist()
    with pytest.raises(IndexError, match="id 0 is not"):
        index.reconstruct(0)


@every_index
def test_ids_are_checked(kind):
    codes = random_codes(3)
    index = kind(64)
    for ids, error, message in [
        ([1, 2], ValueError, r"shape \(2,\); expected one id per code, \(3,\)"),
        ([1.0, 2.0, 3.0], TypeError, "ids is float64; expected integers"),
        ([1, -1, 3], ValueError, "id -1 is taken"),
        (np.array([1, 2, 2**63], np.uint64), ValueError, "ids go up to 9223372036854775808"),
    ]:
        with pytest.raises(error, match=message):
            index.add_with_ids(codes, ids)
    assert len(index) == 0
    index.add_with_ids(codes, np.array([1, 2, 3], np.uint8))
    with pytest.raises(ValueError, match="use add_with_ids"):
        index.add(codes)
    with pytest.raises(ValueError, match="numbers its 3 codes itself: use add"):
        index_of(codes, kind=kind).add_with_ids(codes, [1, 2, 3])


# ---- removing ------------------------------------------------------------------------------


@every_index
def test_removing_moves_later_rows_up(kind):
    codes = random_codes(6)
    index = index_of(codes, kind=kind)
    assert index.remove_ids([4, 1, 1, -1, 6, 2**40]) == 2
    np.testing.assert_array_equal(index.codes, codes[[0, 2, 3, 5]])
    assert index.ids.tolist() == [0, 1, 2, 3]
    assert index.reconstruct(1).tolist() == codes[2].tolist()
    assert index.remove_ids([]) == 0
    assert index.remove_ids(np.array([9])) == 0
    index.add(codes[:1])
    assert index.search(codes[:1], 2)[1].tolist() == [[0, 4]]
    assert index.remove_ids(range(5)) == 5
    assert (index.ntotal, index.codes.shape) == (0, (0, 8))
    index.add_with_ids(codes, range(6))


@every_index
def test_removing_ids_of_ones_own(kind):
    codes = random_codes(6)
    index = index_of(codes, ids=[7, -3, 7, 2**62, 0, -3], kind=kind)
    assert index.remove_ids(np.array([7, 5, 0], np.int32)) == 3
    assert index.ids.tolist() == [-3, 2**62, -3]
    np.testing.assert_array_equal(index.codes, codes[[1, 3, 5]])
    index.add_with_ids(codes[:1], [7])
    assert index.search(codes[:1], 1)[1].tolist() == [[7]]
    assert index.remove_ids([-3, 7, 2**62]) == 4
    index.add(codes)  # an empty index takes either kind
    assert index.ids.tolist() == list(range(6))


@every_index
@pytest.mark.parametrize("ids", [None, [5, 6, 7, 8, 9]])
def test_removing_is_all_or_nothing(kind, ids):
    codes = random_codes(5)
    index = index_of(codes, ids=ids, kind=kind)
    view, before = index.codes, index.ids
    for bad, error, message in [
        ([1.5], TypeError, "ids is float64; expected integers"),
        (["5"], TypeError, "ids is <U1; expected integers"),
        ([[5]], ValueError, r"ids has shape \(1, 1\); expected a list of ids"),
        (5, TypeError, "ids has type int; expected a list or array of ids"),
        (np.array([5, 2**63], np.uint64), ValueError, "ids go up to 9223372036854775808"),
    ]:
        with pytest.raises(error, match=message):
            index.remove_ids(bad)
    np.testing.assert_array_equal(index.codes, codes)
    assert index.ids.tolist() == before.tolist()
    assert index.remove_ids([5 if ids else 0]) == 1
    np.testing.assert_array_equal(view, codes)  # arrays handed out before stay as they were


@every_index
def test_reconstructing_a_run_of_ids(kind):
    codes = random_codes(5)
    np.testing.assert_array_equal(index_of(codes, kind=kind).reconstruct_n(1, 3), codes[1:4])
    index = index_of(codes, ids=[3, 2**63 - 1, 5, 4, 3], kind=kind)
    np.testing.assert_array_equal(index.reconstruct_n(3, 3), codes[[4, 3, 2]])
    assert index.reconstruct(2**63 - 1).tolist() == codes[1].tolist()
    assert index.reconstruct_n(9, 0).shape == (0, 8)
    copy = index.reconstruct_n(3, 1)
    copy[:] = 0
    np.testing.assert_array_equal(index.codes, codes)
    for first, n, missing in [(2, 3, 2), (4, 3, 6), (2**63 - 1, 2, 2**63 - 1), (-(2**70), 1, "")]:
        with pytest.raises(IndexError, match=f"id {missing or first} is not in this index of 5"):
            index.reconstruct_n(first, n)
    with pytest.raises(IndexError, match="id 5 is not in this index of 5 codes"):
        index_of(codes, kind=kind).reconstruct_n(3, 3)
    with pytest.raises(ValueError, match="n is -1; expected at least 0"):
        index.reconstruct_n(3, -1)


# ---- any sequence of changes ---------------------------------------------------------------

IDS = st.integers(-3, 12).filter(lambda id: id != -1) | st.just(2**62)


class AsAList(RuleBasedStateMachine):
    """An index beside the list of (id, code) it should hold."""

    kind = IndexBinaryFlat

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.index, self.own, self.pairs = self.kind(16), None, []

    def teardown(self):
        self.folder.cleanup()

    def expected_ids(self):
        return [id if self.own else row for row, (id, _) in enumerate(self.pairs)]

    def codes(self):
        return np.array([code for _, code in self.pairs], np.uint8).reshape(-1, 2)

    @rule(n=st.integers(0, 5), seed=st.integers(0, 9))
    def add(self, n, seed):
        codes = random_codes(n, 2, seed, values=3)
        if self.own and self.pairs:
            with pytest.raises(ValueError, match="use add_with_ids"):
                self.index.add(codes)
            return
        self.index.add(codes)
        self.own = False
        self.pairs += [(None, code) for code in codes]

    @rule(ids=st.lists(IDS, max_size=5), seed=st.integers(0, 9))
    def add_with_ids(self, ids, seed):
        codes = random_codes(len(ids), 2, seed, values=3)
        if not self.own and self.pairs:
            with pytest.raises(ValueError, match="numbers its"):
                self.index.add_with_ids(codes, ids)
            return
        self.index.add_with_ids(codes, ids)
        self.own = True
        self.pairs += zip(ids, codes, strict=True)

    @rule(ids=st.lists(st.integers(-3, 12), max_size=6))
    def remove(self, ids):
        held = self.expected_ids()
        left = [pair for id, pair in zip(held, self.pairs, strict=True) if id not in ids]
        assert self.index.remove_ids(ids) == len(self.pairs) - len(left)
        self.pairs = left

    @rule()
    def reset(self):
        self.index.reset()
        self.pairs = []

    @rule(mmap=st.booleans())
    def save_and_load(self, mmap):
        path = os.path.join(self.folder.name, "codes.idx")
        self.index.save(path)
        self.index = load_index(path, mmap=mmap)

    @rule(id=IDS)
    def reconstruct(self, id):
        found = [self.pairs[row][1] for row, held in enumerate(self.expected_ids()) if held == id]
        if found:
            assert self.index.reconstruct(id).tolist() == found[-1].tolist()
        else:
            with pytest.raises(IndexError):
                self.index.reconstruct(id)

    @rule(k=st.integers(1, 9), part=st.sampled_from([1, 2, 3]))
    def search(self, k, part):
        held, query = np.array(self.expected_ids() or [0]), random_codes(2, 2, values=3)
        allowed = self.expected_ids()[::part] if part > 1 else None
        mask = np.ones(len(self.pairs), bool) if allowed is None else np.isin(held, allowed)
        mask = mask[: len(self.pairs)]
        distances, rows = brute_force(query, self.codes(), k, mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.index.search(query, k, allowed)
        assert_same(found, (distances, np.where(rows < 0, rows, held[rows])))
        limits, distances, rows = brute_force_range(query, self.codes(), 4, mask)
        found = self.index.range_search(query, 5, allowed, strict=True)
        assert_same(found, (limits, distances, held[rows]))

    @invariant()
    def holds_the_list(self):
        np.testing.assert_array_equal(self.index.codes, self.codes())
        assert self.index.ids.tolist() == self.expected_ids()
        assert len(self.index) == len(self.pairs)


class MultiHashAsAList(AsAList):
    """The same with codes that lie in tables, behind them, or both."""

    kind = IndexBinaryMultiHash

    @rule()
    def build(self):
        self.index.build()


TestAsAList, TestMultiHashAsAList = AsAList.TestCase, MultiHashAsAList.TestCase
TestAsAList.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestMultiHashAsAList.settings = TestAsAList.settings


@every_index
@pytest.mark.parametrize("ids", [None, [9, 8, 7]])
def test_copies_and_pickles_are_indexes_of_their_own(kind, ids):
    codes = random_codes(3)
    index = index_of(codes, ids=ids, kind=kind)
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert_same(other.search(codes, 2), index.search(codes, 2))
        other.remove_ids([7, 0])
        other.add(codes) if ids is None else other.add_with_ids(codes, [1, 2, 3])
        assert (len(other), len(index)) == (5, 3)
        assert_same(index.search(codes, 1)[0], np.zeros((3, 1), np.int32))
