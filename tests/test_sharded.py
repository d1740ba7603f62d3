"""Codes spread over processes: the results are those of one index of all codes."""

import os
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hamming_oracle import (
    PADDING_DISTANCE,
    PADDING_ID,
    assert_same,
    brute_force,
    brute_force_range,
    random_codes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from index_examples import index_of
from process_runs import together

import hashfast
from hashfast import IndexBinaryFlat, IndexBinarySharded, _distributed
from hashfast.index import IndexBinaryMultiHash, sharded
from hashfast.index.merging import join_ranges, merge_ranges, merge_topk

CPU = torch.device("cpu")
WIDTH = 2  # bytes of few values: most distances occur often
QUERY = random_codes(6, WIDTH, 1, 4)

# ---- merging, without processes -------------------------------------------------------------

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=5)


def parts_of(sizes):
    codes = random_codes(sum(sizes), WIDTH, len(sizes), 4)
    return codes, np.split(codes, np.cumsum(sizes)[:-1])


def tensors(arrays):
    return tuple(map(torch.from_numpy, arrays))


@given(sizes=SIZES, k=st.integers(1, 40), spare=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_the_nearest_of_parts_are_those_of_all(sizes, k, spare):
    """Ids that say nothing of the order, and parts with more or less padding."""
    codes, parts = parts_of(sizes)
    ids = np.random.default_rng(0).permutation(10_000)[: len(codes)]
    nearest, first = [], 0
    for part in parts:
        distances, rows = brute_force(QUERY, part, min(k, len(part) + spare))
        nearest.append(tensors((distances, np.where(rows < 0, rows, rows + first))))
        first += len(part)
    named = [
        (d, torch.where(r < 0, r, torch.from_numpy(np.append(ids, -1))[r])) for d, r in nearest
    ]
    distances, rows = brute_force(QUERY, codes, k)
    assert_same([t.numpy() for t in merge_topk(nearest, k)], (distances, rows))
    expected = np.where(rows < 0, rows, np.append(ids, -1)[rows])
    assert_same([t.numpy() for t in merge_topk(named, k)], (distances, expected))


@given(sizes=SIZES, radius=st.integers(0, 16), cut=st.integers(0, len(QUERY)))
@settings(deadline=None, max_examples=40)
def test_the_hits_in_parts_are_those_in_all(sizes, radius, cut):
    codes, parts = parts_of(sizes)
    blocks = []
    for query in (QUERY[:cut], QUERY[cut:]):
        hits, first = [], 0
        for part in parts:
            limits, distances, rows = brute_force_range(query, part, radius)
            hits.append(tensors((limits, distances, rows + first)))
            first += len(part)
        blocks.append(merge_ranges(hits))
    found = [tensor.numpy() for tensor in join_ranges(blocks)]
    assert_same(found, brute_force_range(QUERY, codes, radius))


# ---- one process ----------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, [7, -5, 2**61, 7, 0, 1, 2, 3, 4]])
def test_one_process_needs_no_group(ids):
    flat = index_of(random_codes(9, WIDTH, 0, 4), 16, ids)
    index = IndexBinarySharded(flat)
    assert (index.d, index.code_size, index.ntotal, len(index)) == (16, 2, 9, 9)
    assert index.first_row == 0
    assert repr(index) == f"IndexBinarySharded(bits=16, ntotal=9, part={flat!r})"
    some = [0, 1, 2] if ids is None else [7, 0, 1]
    for allowed in (None, some, set(some), np.arange(9) % 2 == 0, hashfast.pack(np.arange(9) > 4)):
        for k in (1, 3):
            assert_same(index.search(QUERY, k, allowed), flat.search(QUERY, k, allowed))
        for strict in (False, True):
            for radius in (0, 5):
                assert_same(
                    index.range_search(QUERY, radius, allowed, strict),
                    flat.range_search(QUERY, radius, allowed, strict),
                )
    query = torch.from_numpy(QUERY)
    for result in (*index.search(query, 2), *index.range_search(query, 3)):
        assert isinstance(result, torch.Tensor)
    assert_same(index.search(QUERY[:0], 3), flat.search(QUERY[:0], 3))
    assert_same(index.range_search(QUERY[:0], 3), flat.range_search(QUERY[:0], 3))


def test_bad_arguments_are_named():
    index = IndexBinarySharded(index_of(random_codes(9, WIDTH), 16))
    with_ids = IndexBinarySharded(index_of(random_codes(9, WIDTH), 16, range(9)))
    for query in (None, QUERY[:, :1], QUERY.astype(np.int8)):
        with pytest.raises((TypeError, ValueError), match="query"):
            index.search(query, 1)
        with pytest.raises((TypeError, ValueError), match="query"):
            index.range_search(query, 1)
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        index.search(QUERY, 0)
    with pytest.raises(ValueError, match="radius is -1"):
        index.range_search(QUERY, -1)
    for either in (index, with_ids):
        with pytest.raises(ValueError, match=r"allowed has id 9, which none of the 9 codes"):
            either.search(QUERY, 1, [3, 9])
        with pytest.raises(ValueError, match=r"allowed is bool \[8\]; expected \[9\]"):
            either.search(QUERY, 1, np.ones(8, bool))
        with pytest.raises(TypeError, match="allowed is float64"):
            either.search(QUERY, 1, [0.5])
    with pytest.raises(
        MemoryError, match=r"no memory for k = 2147483647 .*: lower k or search for"
    ):
        index.search(np.zeros((2**20, WIDTH), np.uint8), 2**31 - 1)


def test_padding_is_warned_of_where_the_search_is_called():
    index = IndexBinarySharded(index_of(random_codes(3, WIDTH), 16))
    for allowed, said in ((None, "there are 3 codes"), ([1], "allowed leaves 1 of 3 codes")):
        with pytest.warns(UserWarning, match=f"k is 4 but {said}") as seen:
            distances, ids = index.search(QUERY, 4, allowed)
        assert [warning.filename for warning in seen] == [__file__]
        assert (distances[:, 3] == PADDING_DISTANCE).all()
        assert (ids[:, 3] == PADDING_ID).all()


def test_a_part_must_not_change():
    index = IndexBinarySharded(index_of(random_codes(3, WIDTH), 16))
    index.part.add(random_codes(1, WIDTH))
    with pytest.raises(ValueError, match=r"had 3 codes .* has 4 now: make a new"):
        index.search(QUERY, 1)


def test_a_group_that_carries_no_tensors_of_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(_distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match=r"backend is cuda:nccl, .*cpu:gloo,cuda:nccl"):
        IndexBinarySharded(index_of(random_codes(3, WIDTH), 16))
    with pytest.raises(ValueError, match="backend is cuda:nccl"):
        IndexBinarySharded.open(tmp_path)


def test_processes_that_were_not_joined_are_noticed(monkeypatch):
    for name in ("RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started and are not joined: call torch"):
        IndexBinarySharded(index_of(random_codes(3)))


def test_a_mapped_part_is_searched_where_it_lies(tmp_path):
    codes = random_codes(50, WIDTH, 0, 4)
    np.save(tmp_path / "codes.npy", codes)
    index = IndexBinarySharded.open(tmp_path / "codes.npy")
    assert_same(index.search(QUERY, 9), brute_force(QUERY, codes, 9))
    assert not index.part.codes.flags.owndata
    with pytest.raises(FileNotFoundError, match="nowhere"):
        IndexBinarySharded.open(tmp_path / "nowhere")


# ---- three processes ------------------------------------------------------------------------

WORLD = 3
# Codes of the processes; with ids of their own, which repeat, or without.
CASES = {
    "even": ([20, 20, 20], False),
    "some without codes": ([0, 13, 0], False),
    "odd": ([9, 1, 30], False),
    "ids": ([9, 1, 30], True),
    "ids, one empty": ([0, 11, 8], True),
    "none": ([0, 0, 0], False),
}


def whole(sizes, with_ids):
    """All codes, their ids, and flags of those that may be found."""
    n = sum(sizes)
    ids = np.random.default_rng(1).integers(-50, -2, n) if with_ids else np.arange(n)
    return random_codes(n, WIDTH, 0, 4), ids, ids % 3 == 0


def searches(index, ids, flags, query):
    """Results of all kinds of search; the query in the first process, or in all."""
    allowed = {"all": None, "mask": flags, "ids": list(ids[flags])}
    results = {}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for name, some in allowed.items():
            for k in (7, 50):
                results[name, k] = index.search(query, k, some)
            results[name, "radius"] = index.range_search(query, 4, some)
        results["strict"] = index.range_search(query, 4, strict=True)
        for k in (1, 3):
            results["one query", k] = index.search(None if query is None else query[:1], k)
        results["no queries"] = index.search(QUERY[:0], 3)
        results["no queries", "radius"] = index.range_search(QUERY[:0], 3)
    results["warnings"] = len(seen)
    return results


def everything(folder):
    """What the processes find, each with its own part, and what they raise."""
    # Blocks of 2 queries: the last of them is smaller.
    sharded._RANGE_QUERIES, sharded._GATHERED_BYTES = 4, 12 * WORLD * 20 * 4
    found = {}
    with _distributed.setup(CPU):
        own = _distributed.rank()
        for name, (sizes, with_ids) in CASES.items():
            codes, ids, flags = whole(sizes, with_ids)
            rows = np.split(np.arange(len(codes)), np.cumsum(sizes)[:-1])[own]
            index = IndexBinarySharded(
                part_of(codes[rows], ids[rows] if with_ids else None, hashed=own == 2)
            )
            assert (len(index), index.first_row) == (len(codes), sum(sizes[:own]))
            found[name] = searches(index, ids, flags, QUERY if own == 0 else None)
        codes = whole([9, 1, 30], False)[0]
        if own == 0:
            np.save(folder / "codes.npy", codes)
        _distributed.barrier()
        index = IndexBinarySharded.open(folder / "codes.npy")
        found["file"] = index.search(torch.from_numpy(QUERY), 40)
        found["part"] = len(index.part)
        found["raised"] = raised(index, folder)
        found["after all"] = index.search(QUERY, 2)  # the processes are still in step
    return found


def part_of(codes, ids, hashed):
    """Another kind of index in one of the processes."""
    if not hashed:
        return index_of(codes, 16, ids)
    index = IndexBinaryMultiHash(16)
    index.add(codes) if ids is None else index.add_with_ids(codes, ids)
    index.build()
    return index


def raised(index, folder):
    own = _distributed.rank()
    flat = index_of(random_codes(4, WIDTH), 16, range(4) if own == 1 else None)
    with_ids = IndexBinarySharded(index_of(random_codes(4, WIDTH), 16, 4 * own + np.arange(4)))
    np.save(folder / f"codes{own}.npy", random_codes(4 + own, WIDTH))
    calls = [
        lambda: index.search(QUERY if own else QUERY[:, :1], 3),
        lambda: index.search(QUERY, 0 if own == 0 else 3),
        lambda: index.search(QUERY, 3, [40]),
        lambda: with_ids.search(QUERY, 3, [3, 7, 12, 9]),
        lambda: IndexBinarySharded(IndexBinaryFlat(16 if own else 24)),
        lambda: IndexBinarySharded(flat),
        lambda: IndexBinarySharded(flat if own < 2 else None),
        lambda: IndexBinarySharded.open(folder / ("codes.npy" if own < 2 else "nowhere")),
        lambda: IndexBinarySharded.open(folder / f"codes{own}.npy"),
    ]
    if own == 1:
        index.part.search = partial(fail, OSError("the disk is gone"))
        index.part.range_search = partial(fail, KeyError("of no common kind"))
    calls += [lambda: index.search(QUERY, 3), lambda: index.range_search(QUERY, 3)]
    said = []
    for call in calls:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        said.append((caught.type.__name__, str(caught.value)))
    vars(index.part).pop("search", None)
    return said


def fail(error, *_):
    raise error


def test_three_processes_find_what_one_finds(tmp_path):
    results = together(WORLD, everything, tmp_path, tmp_path)
    for own, found in enumerate(results):
        for name, (sizes, with_ids) in CASES.items():
            check(found[name], *whole(sizes, with_ids), silent=own > 0)
        codes = whole([9, 1, 30], False)[0]
        assert all(isinstance(result, torch.Tensor) for result in found["file"])
        assert_same([t.numpy() for t in found["file"]], brute_force(QUERY, codes, 40))
        assert found["part"] == [14, 13, 13][own]
        check_raised(found["raised"], own)
        assert_same(found["after all"], brute_force(QUERY, codes, 2))


def check(found, codes, ids, flags, silent):
    named = np.append(ids, PADDING_ID)
    for name in ("all", "mask", "ids"):
        some = None if name == "all" else flags
        for k in (7, 50):
            distances, rows = brute_force(QUERY, codes, k, some)
            assert_same(found[name, k], (distances, named[rows]))
        limits, distances, rows = brute_force_range(QUERY, codes, 4, some)
        assert_same(found[name, "radius"], (limits, distances, named[rows]))
    limits, distances, rows = brute_force_range(QUERY, codes, 3)
    assert_same(found["strict"], (limits, distances, named[rows]))
    for k in (1, 3):
        distances, rows = brute_force(QUERY[:1], codes, k)
        assert_same(found["one query", k], (distances, named[rows]))
    assert [result.shape for result in found["no queries"]] == [(0, 3), (0, 3)]
    assert [len(result) for result in found["no queries", "radius"]] == [1, 0, 0]
    padded = [len(codes) if name == "all" else flags.sum() for name in ("all", "mask", "ids")]
    expected = sum(k > n for n in padded for k in (7, 50)) + sum(k > len(codes) for k in (1, 3))
    assert found["warnings"] == (0 if silent else expected)


def check_raised(said, own):
    def of(process, message):
        return message if own == process else f"process {process}: {message}"

    width = "query has 1 byte per code (8 bits); this index holds 16-bit codes (2 bytes)"
    unlike = "process 0 {} and process 1 {}: expected the same in all"
    ids = "numbers its codes itself", "has codes with ids of their own"
    expected = [
        ("ValueError", of(0, width)),
        ("ValueError", of(0, "k is 0; expected at least 1")),
        ("ValueError", of(0, "allowed has id 40, which none of the 40 codes searched has")),
        ("ValueError", "allowed has id 12, which none of the 12 codes searched has"),
        ("ValueError", unlike.format("has 24-bit codes", "has 16-bit codes")),
        ("ValueError", unlike.format(*ids)),
    ]
    assert said[:6] == expected
    kind, message = said[6]
    assert kind == ("AttributeError" if own == 2 else "RuntimeError")
    assert "'NoneType' object has no attribute" in message
    kind, message = said[7]
    assert kind == "FileNotFoundError"
    assert message.startswith("process 2: [Errno 2]" if own < 2 else "[Errno 2]")
    kind, message = said[8]
    assert kind == "ValueError"
    assert "process 0 sees 4 codes of 16 bits" in message
    assert "process 1 sees 5 codes" in message
    assert said[9] == ("OSError", of(1, "the disk is gone"))
    kind = "KeyError" if own == 1 else "RuntimeError"
    assert said[10] == (kind, of(1, "'of no common kind'"))


def ended(folder):
    """One process is gone in the middle of a search."""
    with _distributed.setup(CPU):
        index = IndexBinarySharded(index_of(random_codes(5, WIDTH), 16))
        if _distributed.rank() == 1:
            torch.save("gone", folder / "rank1.pt")
            index.part.search = lambda *_: os._exit(0)
        index.search(QUERY, 1)


def test_a_process_that_ends_leaves_none_waiting(tmp_path):
    assert together(2, ended, tmp_path, tmp_path) == [None, "gone"]
