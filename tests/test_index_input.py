"""Bad input to search and indexes: what came, what was expected, the fix; and nothing lost."""

import re

import numpy as np
import pytest
import torch
from hamming_oracle import random_codes
from index_examples import every_index, index_of

from hashfast import IndexBinaryFlat, range_search, search

pytestmark = pytest.mark.filterwarnings("error")
CODES = random_codes(4)


@every_index
@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (CODES[:, :7], ValueError, r"query has 7 bytes per code \(56 bits\); "),
        (CODES[:, :1], ValueError, r"query has 1 byte per code \(8 bits\); "),
        (np.zeros((4, 64), np.uint8), ValueError, r"query has 64 bytes per code \(512 bits\); "),
        (
            np.zeros((4, 8192), np.uint8),
            ValueError,
            r"query has 8192 bytes per code \(65536 bits\); expected at most 8191 bytes",
        ),
        (CODES[0], ValueError, r"shape \[8\]; .* give a single code an axis, codes\[None, :\]"),
        (CODES[None], ValueError, r"shape \[1, 4, 8\]; expected \[n, bytes per code\]"),
        (CODES[:, :0], ValueError, r"shape \[4, 0\]; expected \[n, bytes per code\]"),
        (CODES.astype(np.float32), TypeError, "query is float32; .* hashfast.pack"),
        (torch.ones(4, 8, dtype=torch.bfloat16), TypeError, "query is bfloat16; .* hashfast.pack"),
        (CODES > 3, TypeError, "query is bool; .* hashfast.pack"),
        (
            torch.ones(4, 8, dtype=torch.int64),
            TypeError,
            r"query is int64; .*: if these are packed bytes \(0\.\.255\), "
            r"use codes\.to\(torch\.uint8\); if they are -1 and \+1, hashfast\.pack",
        ),
        (CODES.astype(np.uint16), TypeError, r"query is uint16; .* use codes\.astype\(np\.uint8\)"),
        (CODES.view(np.int8), TypeError, "query is int8; .* hashfast.pack.* precision='ubinary'"),
        (torch.ones(4, 8).char(), TypeError, "query is int8; .* precision='ubinary'"),
        ([[1, 2]], TypeError, "query is a list; .* numpy array or torch tensor"),
    ],
)
def test_bad_codes(kind, query, error, message):
    for run in (
        lambda: search(query, CODES, 1),
        lambda: range_search(query, CODES, 1),
        lambda: index_of(CODES, kind=kind).search(query, 1),
        lambda: index_of(CODES, kind=kind).range_search(query, 1),
    ):
        with pytest.raises(error, match=message):
            run()
    index = index_of(CODES, kind=kind)
    for add in (index.add, lambda codes: index.add_with_ids(codes, [0])):
        with pytest.raises((error, ValueError)):
            add(query)
    assert len(index) == 4


@every_index
def test_wording_of_widths(kind):
    index = index_of(CODES, kind=kind)
    for run, message in [
        (
            lambda: index.search(CODES[:, :7], 1),
            "query has 7 bytes per code (56 bits); this index holds 64-bit codes (8 bytes)",
        ),
        (
            lambda: index.add(CODES[:, :7]),
            "codes has 7 bytes per code (56 bits); this index holds 64-bit codes (8 bytes)",
        ),
        (
            lambda: search(CODES[:, :7], CODES, 1),
            "query has 7 bytes per code (56 bits); database has 8 bytes per code (64 bits)",
        ),
        (
            lambda: index.search(np.zeros((2, 64), np.uint8), 1),
            "query has 64 bytes per code (512 bits); this index holds 64-bit codes (8 bytes). "
            "If they hold one 0/1 byte per bit, pack them: hashfast.pack(values > 0)",
        ),
        (
            lambda: search(np.zeros((2, 64), np.uint8), CODES, 1),
            "query has 64 bytes per code (512 bits); database has 8 bytes per code (64 bits). "
            "If the query holds one 0/1 byte per bit, pack it: hashfast.pack(query > 0)",
        ),
        (
            lambda: range_search(CODES, np.zeros((2, 64), np.uint8), 1),
            "query has 8 bytes per code (64 bits); database has 64 bytes per code (512 bits). "
            "If the database holds one 0/1 byte per bit, pack it: hashfast.pack(database > 0)",
        ),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            run()
    with pytest.raises(TypeError, match="database is float64"):
        search(CODES, CODES.astype(float), 1)


@every_index
def test_bad_numbers(kind):
    index = index_of(CODES, kind=kind)
    for k in (0, -3):
        with pytest.raises(ValueError, match=f"k is {k}; expected at least 1"):
            search(CODES, CODES, k)
        with pytest.raises(ValueError, match=f"k is {k}; expected at least 1"):
            index.search(CODES, k)
    with pytest.raises(TypeError, match=r"k is 2\.5; expected an integer"):
        index.search(CODES, 2.5)
    with pytest.raises(ValueError, match="radius is -1; expected at least 0"):
        index.range_search(CODES, -1)
    with pytest.raises(TypeError, match=r"radius is 0\.5; expected an integer"):
        range_search(CODES, CODES, 0.5)
    with pytest.raises(ValueError, match="bits is 0; expected at least 1"):
        kind(0)
    most = 65528 if kind is IndexBinaryFlat else 4096
    for bits in (most + 1, 2**70):
        with pytest.raises(ValueError, match=f"bits is {bits}; expected at most {most}"):
            kind(bits)
    assert kind(most).code_size == most // 8
    assert index.search(CODES, np.int64(2))[0].shape == (4, 2)


@every_index
@pytest.mark.parametrize("k", [2**31, 10**12, 2**70])
def test_absurd_k(kind, k):
    message = f"k is {k}; expected at most 2147483647. There are n = 4 codes"
    index = index_of(CODES, kind=kind)
    for run in (lambda: search(CODES, CODES, k), lambda: index.search(CODES, k)):
        with pytest.raises(ValueError, match=message):
            run()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_no_room_for_the_results(monkeypatch, error):
    def hamming_topk(*_):
        raise error

    monkeypatch.setattr("hashfast.ops.hamming_topk", hamming_topk)
    message = "search 4 codes for k = 1000 neighbours of 4 queries, whose results alone take 48000"
    for run in (lambda: search(CODES, CODES, 1000), lambda: index_of(CODES).search(CODES, 1000)):
        with pytest.raises(MemoryError, match=message):
            run()


def test_other_errors_of_a_search_stay_as_they_are(monkeypatch):
    def hamming_topk(*_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr("hashfast.ops.hamming_topk", hamming_topk)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        search(CODES, CODES, 1)


def test_radius_beyond_any_integer_type():
    for radius in (65, 2**63, 2**70):
        assert range_search(CODES, CODES, radius)[0].tolist() == [0, 4, 8, 12, 16]


@every_index
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ((i for i in [1]), TypeError, "has type generator; expected a list or array of ids"),
        (slice(2), TypeError, "has type slice; expected a list or array of ids"),
        (7, TypeError, "has type int; expected a list or array of ids"),
        ([2**70], ValueError, f"has {2**70}; expected int64"),
        ({1, -(2**64)}, ValueError, f"has {-(2**64)}; expected int64"),
        ([2**63, -1], ValueError, f"has {2**63}; expected int64"),
    ],
)
def test_ids_of_wrong_forms(kind, ids, error, message):
    index = index_of(CODES, kind=kind)
    with pytest.raises(error, match=f"allowed {message}"):
        index.search(CODES, 1, ids)
    with pytest.raises(error, match=f"ids {message}"):
        index.remove_ids(ids)
    assert len(index) == 4


@every_index
def test_sets_where_order_does_not_count(kind):
    index = index_of(CODES, ids=[9, 7, 5, 7], kind=kind)
    assert set(index.search(CODES[:1], 3, {7, 5})[1][0]) == {7, 5}
    assert set(search(CODES[:1], CODES, 2, frozenset({3, 0}))[1][0]) == {3, 0}
    assert index.remove_ids({7, 1}) == 2
    assert index.ids.tolist() == [9, 5]
    with pytest.raises(TypeError, match="ids has type set; expected a list or array of ids"):
        index.add_with_ids(CODES[:2], {1, 2})


@every_index
def test_more_ids_than_codes_cost_nothing(kind):
    with pytest.raises(IndexError, match="id 4 is not in this index of 4 codes"):
        index_of(CODES, kind=kind).reconstruct_n(0, 10**13)
    with pytest.raises(IndexError, match="id 7 is not in this index of 4 codes"):
        index_of(CODES, ids=[6, 5, 9, 8], kind=kind).reconstruct_n(5, 10**13)
