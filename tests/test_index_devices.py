"""Indexes on other devices and on several: the same results wherever the codes lie.

On a CPU the parts lie on "cpu" too, and `memory` leaves some of the codes to be streamed; "meta"
has no values, so that whatever looks at one fails, as it would wait for a GPU.
"""

import copy
import pickle
import re
import threading
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from hamming_oracle import assert_same, brute_force, brute_force_range, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from index_examples import examples, index_of
from test_index import AsAList

import hashfast
from hashfast import IndexBinaryFlat, IndexBinarySharded, load_index
from hashfast.index import flat, placed, streaming
from hashfast.index.checks import as_device, warn_if_padded

pytestmark = pytest.mark.filterwarnings("error")
ROWS = 16  # of 8 bytes, in a block


@pytest.fixture(autouse=True)
def small_blocks():
    with mock.patch.object(streaming, "BLOCK_BYTES", 8 * ROWS):
        yield


def spread(codes, devices=2, memory=None, **kwargs):
    return index_of(codes, **kwargs).to(["cpu"] * devices, memory=memory)


# ---- results -------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_results_are_those_of_one_place(data):
    size = data.draw(st.sampled_from([1, 3, 8]))
    n = data.draw(st.integers(0, 120))
    seed = data.draw(st.integers(0, 2**16))
    values = data.draw(st.sampled_from([2, 256]))  # 2: ties everywhere
    k, radius = data.draw(st.integers(1, 130)), data.draw(st.integers(0, 8 * size))
    database = random_codes(n, size, seed, values)
    query = random_codes(data.draw(st.integers(0, 4)), size, seed + 1, values)
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 2**62, n) if data.draw(st.booleans()) else None
    mask = generator.random(n) < 0.4 if data.draw(st.booleans()) else None
    devices = data.draw(st.integers(1, 4))
    memory = data.draw(st.none() | st.integers(0, size * (n // devices + 20)))
    index = index_of(database, 8 * size, ids=ids).to(["cpu"] * devices, memory=memory)

    distances, rows = brute_force(query, database, k, mask)
    limits, hits, within = brute_force_range(query, database, radius, mask)
    if ids is not None:
        rows, within = np.where(rows < 0, rows, np.append(ids, 0)[rows]), ids[within]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(index.search(query, k, mask), (distances, rows))
        there = index.search(torch.from_numpy(query), k, mask)
    assert_same([part.numpy() for part in there], (distances, rows))
    assert_same(index.range_search(query, radius, mask), (limits, hits, within))


class SpreadAsAList(AsAList):
    """The index as it changes, moved about meanwhile."""

    def __init__(self):
        super().__init__()
        self.patched = mock.patch.object(streaming, "BLOCK_BYTES", 8)
        self.patched.start()

    def teardown(self):
        self.patched.stop()
        super().teardown()

    @rule(devices=st.integers(1, 3), memory=st.none() | st.integers(0, 60))
    def move(self, devices, memory):
        self.index = self.index.to(["cpu"] * devices, memory=memory)

    @rule()
    def move_back(self):
        self.index = self.index.to("cpu")

    @rule()
    def copy(self):
        self.index = pickle.loads(pickle.dumps(self.index))


TestSpreadAsAList = SpreadAsAList.TestCase
TestSpreadAsAList.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_ties_keep_the_order_of_rows_across_devices_and_blocks():
    codes = np.repeat(random_codes(1), 100, axis=0)
    ids = np.random.default_rng(0).permutation(100)
    index = spread(codes, 3, memory=8 * 10, ids=ids)
    assert index.search(codes[:1], 90)[1][0].tolist() == ids[:90].tolist()
    assert index.range_search(codes[:1], 0)[2].tolist() == ids.tolist()


def test_more_neighbours_than_codes_are_padded_with_one_warning():
    codes = random_codes(40)
    for allowed, message in ((None, "there are 40 codes"), ([3, 30], "allowed leaves 2 of 40")):
        with pytest.warns(UserWarning, match=message) as caught:
            found = spread(codes, 2, memory=64).search(codes[:2], 50, allowed)
        assert [w.filename for w in caught] == [__file__]
        mask = None if allowed is None else np.isin(np.arange(40), allowed)
        assert_same(found, brute_force(codes[:2], codes, 50, mask))


# ---- what lies where -----------------------------------------------------------------------


def blocks_searched(monkeypatch, index, **kwargs):
    """Queries and codes of each call of the operation."""
    seen, topk = [], hashfast.ops.hamming_topk
    with monkeypatch.context() as patch:
        patch.setattr(
            hashfast.ops,
            "hamming_topk",
            lambda query, codes, *rest: (
                seen.append((len(query), len(codes))) or topk(query, codes, *rest)
            ),
        )
        index.search(random_codes(3), 2, **kwargs)
    return seen


def test_each_device_keeps_what_fits_and_all_queries_share_the_rest(monkeypatch):
    codes = random_codes(100)
    for devices, memory, streamed, blocks in [
        (1, 8 * 1000, 0, [100]),
        (1, 8 * 50, 52, [48, 16, 16, 16, 4]),
        (1, 0, 100, [16] * 6 + [4]),
        (2, None, 0, [56, 44]),
        (2, 8 * 30, 52, [24, 24, 16, 16, 16, 4]),
        (3, 8 * 39, 16, [32, 32, 20, 8, 8]),
        (3, 8 * 40, 0, [40, 40, 20]),
    ]:
        index = spread(codes, devices, memory)
        assert sorted(blocks_searched(monkeypatch, index)) == sorted((3, n) for n in blocks)
        assert index.streamed == streamed
        assert len(index.devices) == devices


def test_nothing_is_copied_where_nothing_changes():
    codes = random_codes(50)
    index = index_of(codes)
    assert index.to("cpu") is index
    assert index.to(torch.device("cpu")) is index
    there = index.to("cpu", memory=80)
    assert there.to("cpu") is there
    assert there.to("cpu", memory=80) is there
    assert there.to("cpu", memory=81) is not there
    assert (there.codes.ctypes.data, there.device) == (index.codes.ctypes.data, index.device)


def test_codes_of_a_file_stay_in_the_file(tmp_path):
    codes = random_codes(60)
    index_of(codes, ids=range(100, 160)).save(tmp_path / "codes.idx")
    mapped = load_index(tmp_path / "codes.idx", mmap=True)
    there = mapped.to(["cpu", "cpu"], memory=8 * 16)
    assert there.codes.ctypes.data == mapped.codes.ctypes.data
    assert_same(there.search(codes[:4], 9), mapped.search(codes[:4], 9))


def test_two_indexes_of_the_same_codes_change_for_themselves():
    codes, more, others = random_codes(50), random_codes(5, seed=1), random_codes(5, seed=2)
    index = index_of(codes, ids=range(50))
    index.add_with_ids(codes[:1], [50])  # leaves room behind the codes
    there = index.to(["cpu", "cpu"])
    back = there.to("cpu")
    for changed, added in ((index, more), (there, others), (back, codes[:5])):
        changed.add_with_ids(added, range(60, 65))
    for changed, added in ((index, more), (there, others), (back, codes[:5])):
        np.testing.assert_array_equal(changed.codes, [*codes, codes[0], *added])
        assert changed.search(added, 1)[0].tolist() == [[0]] * 5


def test_added_codes_are_streamed_until_a_quarter_is_new(monkeypatch):
    codes = random_codes(200)
    index = spread(codes[:100])
    index.add(codes[100:105])
    assert index.streamed == 5 + 44 % 8
    assert blocks_searched(monkeypatch, index) == [(3, 56), (3, 40), (3, 9)]
    assert index.to(["cpu", "cpu"]) is index
    assert (index.streamed, len(index)) == (0, 105)
    index.add(codes[105:131])
    assert index.streamed == 26 + 49 % 8
    index.add(codes[131:132])
    assert (index.streamed, len(index)) == (0, 132)
    index.add(codes[132:135])
    index.remove_ids(range(3))
    assert (index.streamed, len(index)) == (0, 132)
    assert_same(index.search(codes[:9], 7), brute_force(codes[:9], codes[3:135], 7))


def test_memory_holds_for_codes_added_later():
    index = IndexBinaryFlat(64).to("cpu", memory=8 * 40)
    index.add(random_codes(30))
    assert index.streamed == 0
    index.add(random_codes(30))
    assert index.streamed == 20
    index.reset()
    assert (index.streamed, index.ntotal, index.codes.shape) == (0, 0, (0, 8))
    index.add(random_codes(100))
    assert index.streamed == 60


def test_codes_move_to_a_device_alone_where_they_fit(monkeypatch):
    codes = random_codes(100)
    index = index_of(codes, ids=range(5, 105))
    for room, streamed in ((1600, 0), (1599, 0), (799, 4), (160, 84)):
        # A name that is not that of the index's device, so that it moves.
        for module in (flat, placed):
            monkeypatch.setattr(module, "free", lambda device, room=room: room)
        there = index.to("cpu:0")
        assert (there.streamed, there._places is None) == (streamed, room == 1600)
        assert_same(there.search(codes[:9], 7), index.search(codes[:9], 7))


@pytest.mark.parametrize("ids", [None, range(5, 105)])
def test_more_codes_than_an_operation_takes_are_searched_in_slices(monkeypatch, ids):
    codes = random_codes(100, values=2)
    index, mask = index_of(codes, ids=ids), np.arange(100) % 3 > 0
    for most, alone, blocks in (
        (100, True, [100]),
        (99, False, [96, 4]),
        (49, False, [48, 48, 4]),
        (50, False, [48, 48, 4]),
    ):
        for module in (flat, placed):
            monkeypatch.setattr(module, "MOST_ROWS", most)
        there = index.to("cpu:0")
        assert (there._places is None, there.streamed) == (alone, 0)
        assert blocks_searched(monkeypatch, there) == [(3, n) for n in blocks]
        for allowed in (None, mask):
            assert_same(there.search(codes[:9], 30, allowed), index.search(codes[:9], 30, allowed))
            for radius in (0, 20):
                assert_same(
                    there.range_search(codes[:9], radius, allowed),
                    index.range_search(codes[:9], radius, allowed),
                )
    assert there.to("cpu:0", memory=8 * 60).streamed == 44


def test_files_are_opened_where_they_fit(tmp_path, monkeypatch):
    codes = random_codes(50)
    index = index_of(codes)
    index.save(tmp_path / "codes.idx")
    for module in (flat, placed):
        monkeypatch.setattr(module, "free", lambda device: 160)
    loaded = load_index(tmp_path / "codes.idx", mmap=True, device="cpu:0")
    sharded = IndexBinarySharded.open(tmp_path / "codes.idx", "cpu:0")
    assert loaded.streamed == sharded.part.streamed == 50 - 16
    for other in (loaded, sharded):
        assert_same(other.search(codes[:3], 5), index.search(codes[:3], 5))


def test_all_devices_have_work_before_one_is_waited_for(monkeypatch):
    index, calls = spread(random_codes(80), 2, memory=8 * 24), []
    for name in ("hamming_range_count_op", "hamming_range_op"):
        op = getattr(placed, name)
        monkeypatch.setattr(
            placed,
            name,
            lambda query, codes, *rest, op=op: (
                calls.append((op.name.removeprefix("hamming_range"), len(codes)))
                or op(query, codes, *rest)
            ),
        )
    index.range_search(random_codes(1), 20)
    rounds = [("_count", n) for n in (24, 24)], [("", 24), ("_count", 16)] * 2, [("", 16)] * 2
    assert calls == [call for some in rounds for call in some]


def test_room_of_a_gpu(monkeypatch):
    gib = 1 << 30
    facts = {"mem_get_info": (3 * gib, 80 * gib), "memory_reserved": 9 * gib}
    facts["memory_allocated"] = 8 * gib
    for name, value in facts.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert placed.free(torch.device("cuda", 1)) == 2 * gib
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (39 * gib, 80 * gib))
    assert placed.free(torch.device("cuda", 1)) == 36 * gib
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * gib))
    assert placed.free(torch.device("cuda", 1)) == 0


# ---- everything else an index does ---------------------------------------------------------


@pytest.mark.parametrize("number", range(6))
def test_everything_but_searches_is_as_before(tmp_path, number):
    index = examples()[number]
    there = index.to(["cpu", "cpu"], memory=8)
    np.testing.assert_array_equal(there.codes, index.codes)
    np.testing.assert_array_equal(there.ids, index.ids)
    assert not there.codes.flags.writeable
    assert there.numbered == index.numbered
    for one, other in zip(there.pairs(20), index.pairs(20), strict=True):
        assert_same(one, other)
    if index.ntotal:
        first = int(index.ids[0])
        assert there.reconstruct(first).tolist() == index.reconstruct(first).tolist()
    paths = [tmp_path / name for name in ("one", "other")]
    for path, saved in zip(paths, (index, there), strict=True):
        saved.save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load_index(paths[1]).ntotal == index.ntotal


def test_to_faiss():
    faiss = pytest.importorskip("faiss")
    codes = random_codes(30)
    copied = spread(codes, memory=64, ids=range(7, 37)).to_faiss()
    assert isinstance(copied, faiss.IndexBinaryIDMap)
    assert_same(copied.search(codes[:3], 1), (np.zeros((3, 1), np.int32), np.c_[7:10]))


def test_copies_and_pickles_are_placed_where_they_are_searched():
    codes = random_codes(50)
    index = spread(codes, 2, memory=64, ids=range(50))
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert not other._held.is_placed
        assert (other.devices, other.streamed) == (index.devices, 50 - 16)
        assert_same(other.search(codes[:3], 5), index.search(codes[:3], 5))
        other.add_with_ids(codes[:1], [50])
        assert (len(other), len(index)) == (51, 50)


def test_parts_of_several_processes_are_spread_too():
    codes, ids = random_codes(50), np.arange(50) * 3
    for given_ids in (None, ids):
        index = IndexBinarySharded(spread(codes, 2, memory=64, ids=given_ids))
        expected = index_of(codes, ids=given_ids)
        for allowed in (None, index.part.ids[::3]):
            assert_same(index.search(codes[:3], 5, allowed), expected.search(codes[:3], 5, allowed))
            assert_same(
                index.range_search(codes[:3], 25, allowed),
                expected.range_search(codes[:3], 25, allowed),
            )


def test_readers_beside_a_writer():
    codes, more = random_codes(60), random_codes(30, seed=1)
    index = spread(codes, 2, memory=64, ids=range(60))
    errors, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                assert index.search(codes[:3], 40)[1][:, 0].tolist() == [0, 1, 2]
                assert index.range_search(codes[:3], 0)[2].tolist() == [0, 1, 2]
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(60):
        index.add_with_ids(more, range(100, 130))
        index.to(["cpu", "cpu"])
        index.remove_ids(range(100, 130))
    done.set()
    for reader in readers:
        reader.join()
    assert not errors, errors[0]
    np.testing.assert_array_equal(index.codes, codes)


def test_a_change_just_after_codes_were_placed():
    codes = random_codes(60)
    index = spread(codes, 2, memory=64)
    index.remove_ids([59])
    update, left = index._update, [58, 59]

    def interrupted(change):
        update(change)
        if left:
            gone = torch.arange(left.pop())
            update(lambda held: held.only(gone))

    index._update = interrupted
    assert_same(index.search(codes[:3], 5), brute_force(codes[:3], codes[:58], 5))
    assert not left


def test_repr_names_the_devices():
    assert repr(spread(random_codes(3), 2)) == (
        "IndexBinaryFlat(bits=64, ntotal=3, devices=['cpu', 'cpu'])"
    )
    assert repr(IndexBinaryFlat(8)) == "IndexBinaryFlat(bits=8, ntotal=0, device='cpu')"


# ---- errors --------------------------------------------------------------------------------


def test_places_are_checked(monkeypatch):
    index = index_of(random_codes(3))
    for device, memory, error, message in [
        ([], None, ValueError, "device is an empty list"),
        ("cpu", -1, ValueError, "memory is -1; expected at least 0"),
        ("cpu", 1.5, TypeError, "memory is 1.5; expected an integer"),
        ("gpu", None, RuntimeError, "gpu"),
    ]:
        with pytest.raises(error, match=message):
            index.to(device, memory=memory)
    for device in (None, 3.5, True, ["cpu", None], ["cpu", False], {"cpu"}):
        message = f"device is {device!r}; expected a device such as 'cuda:0', or a list of them"
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            index.to(device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for run in (lambda: index.to("cuda:1"), lambda: IndexBinaryFlat(64, device="cuda:1")):
        with pytest.raises(ValueError, match="device is cuda:1, and torch sees no CUDA GPU here"):
            run()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    with pytest.raises(
        ValueError, match="device is cuda:3; torch sees 3 CUDA GPUs, cuda:0 to cuda:2"
    ):
        index.to(["cuda:0", "cuda:3"])
    assert as_device("cuda") == torch.device("cuda", 2)
    assert as_device("cuda:1") == torch.device("cuda", 1)


def test_results_that_do_not_fit():
    index = spread(random_codes(50), 2, memory=64)
    with pytest.raises(MemoryError, match="no memory to search 50 codes for k = 2147483647 neig"):
        index.search(random_codes(2000), 2**31 - 1)


def test_an_error_in_the_midst_of_a_search(monkeypatch):
    index, calls = spread(random_codes(100), 2, memory=64), []

    def fail(*args):
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("broken")
        return topk(*args)

    topk = hashfast.ops.hamming_topk
    with monkeypatch.context() as patch:
        patch.setattr(hashfast.ops, "hamming_topk", fail)
        with pytest.raises(RuntimeError, match="broken"):
            index.search(random_codes(1), 2)
    assert_same(
        index.search(random_codes(1), 2), brute_force(random_codes(1), random_codes(100), 2)
    )


# ---- nothing waits -------------------------------------------------------------------------


@pytest.mark.parametrize("devices", ["meta", ["meta", "meta"]])
@pytest.mark.parametrize("bits", [64, 61])
@pytest.mark.parametrize("ids", [None, range(50)])
def test_no_value_is_looked_at(devices, bits, ids):
    codes = hashfast.pack(np.random.default_rng(0).standard_normal((50, bits)))
    index = index_of(codes, bits, ids=ids).to(devices)
    query = torch.empty(3, 8, dtype=torch.uint8, device="meta")
    bitmap = torch.empty(7, dtype=torch.uint8, device="meta")
    mask = torch.empty(50, dtype=torch.bool, device="meta")
    for allowed in (None, bitmap, mask):
        distances, found = index.search(query, 5, allowed)
        assert (distances.shape, found.shape) == ((3, 5), (3, 5))
        assert (distances.device.type, found.dtype) == ("meta", torch.int64)
        if allowed is None and bits == 64:
            hashfast.search(query, torch.empty(50, 8, dtype=torch.uint8, device="meta"), 5)
    with pytest.warns(UserWarning, match="there are 50 codes"):
        index.search(query, 51)


def test_padding_bits_of_queries_on_a_gpu_are_zeros():
    codes = torch.full((2, 3), 255, dtype=torch.uint8)
    assert flat.clear_padding(codes, 19).tolist() == [[255, 255, 0b11100000]] * 2
    assert codes.min() == 255
    index = index_of(np.zeros((1, 3), np.uint8), 19)
    with pytest.raises(ValueError, match="last 5 bits of a code are set"):
        index.search(codes, 1)
    with pytest.raises(ValueError, match=r"2 bytes .* this index holds 19-bit codes"):
        index.to("meta").search(torch.empty(2, 2, dtype=torch.uint8, device="meta"), 1)


def test_padding_is_looked_for_on_the_host_only():
    with pytest.warns(UserWarning, match="allowed leaves 1 of 3"):
        warn_if_padded(torch.tensor([[4, 2**31 - 1]]), 3, filtered=True)
    warn_if_padded(torch.empty(2, 2, device="meta"), 3, filtered=True)
    with pytest.warns(UserWarning, match="k is 4 but there are 3 codes"):
        warn_if_padded(torch.empty(2, 4, device="meta"), 3, filtered=False)
