"""Ranks of relevant items, against a stable sort and a loop over every ranking."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast import ops


def hits_by_hand(query, database, k, query_labels, database_labels, left_out):
    """limits and ranks as lists: each query's ranking is walked item by item."""
    limits, ranks = [0], []
    for i, code in enumerate(query):
        distances = np.unpackbits(code ^ database, axis=1).sum(1)
        ranking = [row for row in np.argsort(distances, kind="stable") if row != left_out[i]]
        for rank, row in enumerate(ranking[:k], start=1):
            ours, theirs = query_labels[i], database_labels[row]
            if (ours & theirs).any() if np.ndim(ours) else ours == theirs:
                ranks.append(rank)
        limits.append(len(ranks))
    return limits, ranks


def check(query, database, k, query_labels, database_labels, left_out=None):
    arrays = [query, database, query_labels, database_labels]
    query_, database_, *labels = map(torch.from_numpy, arrays)
    own = None if left_out is None else torch.from_numpy(left_out)
    limits, ranks = ops.hamming_hits(query_, database_, k, *labels, own)
    assert (limits.dtype, ranks.dtype) == (torch.int64, torch.int32)
    none = np.full(len(query), -1)
    expected = hits_by_hand(
        query, database, k, query_labels, database_labels, none if left_out is None else left_out
    )
    assert (limits.tolist(), ranks.tolist()) == expected


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.integers(0, 20),
    n=st.integers(0, 60),
    width=st.sampled_from([1, 2, 3, 8, 9, 16, 33]),
    k=st.integers(1, 70),
    label_bytes=st.sampled_from([None, 1, 3, 8, 11]),
    leave_out=st.booleans(),
)
def test_any_ranking(seed, q, n, width, k, label_bytes, leave_out):
    """Few byte values, for many ties; ids from -1; rows without a class; -1 leaves nothing out."""
    rng = np.random.default_rng(seed)
    query, database = (rng.choice(np.array([0, 1, 255], np.uint8), (m, width)) for m in (q, n))
    if label_bytes is None:
        labels = [rng.integers(-1, 3, m) for m in (q, n)]
    else:
        values = np.array([0, 0, 0, 1, 128], np.uint8)
        labels = [rng.choice(values, (m, label_bytes)) for m in (q, n)]
    left_out = rng.integers(-1, n, q) if leave_out else None
    check(query, database, k, *labels, left_out)


@pytest.mark.parametrize("k", [1, 1000, 3000, 9999])
@pytest.mark.parametrize("bits", [64, 256])
def test_many_queries_and_items(bits, k):
    rng = np.random.default_rng(bits + k)
    query, database = (rng.integers(0, 256, (m, bits // 8), dtype=np.uint8) for m in (67, 3001))
    labels = [rng.integers(0, 7, m) for m in (67, 3001)]
    check(query, database, k, *labels, rng.integers(-1, 3001, 67))


def test_ties_are_ranked_by_id_and_the_item_left_out_holds_no_rank():
    database = torch.tensor([[1], [0], [1], [0], [3]], dtype=torch.uint8)  # distances 1 0 1 0 2
    query, labels = torch.zeros(3, 1, dtype=torch.uint8), torch.tensor([5, 6, 5, 5, 5])
    left_out = torch.tensor([-1, 3, 1])
    limits, ranks = ops.hamming_hits(query, database, 4, labels[[0, 0, 0]], labels, left_out)
    # Ranked 1 3 0 2, then without item 3: 1 0 2 4, and without item 1: 3 0 2 4.
    assert limits.tolist() == [0, 3, 6, 10]
    assert ranks.tolist() == [2, 3, 4, 2, 3, 4, 1, 2, 3, 4]
    limits, ranks = ops.hamming_hits(query, database, 2, labels[[0, 0, 0]], labels, left_out)
    assert limits.tolist() == [0, 1, 2, 4]
    assert ranks.tolist() == [2, 2, 1, 2]


CODES = torch.zeros(3, 2, dtype=torch.uint8)
IDS = torch.arange(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": CODES.float()}, TypeError, "float32.*pack"),
        ({"query": CODES[0]}, ValueError, r"query has shape \[2\]"),
        ({"database": CODES[:, :1]}, ValueError, r"database has 1 byte per code \(8 bits\)"),
        ({"k": 0}, ValueError, "k is 0; it must be at least 1"),
        ({"query_labels": IDS.int()}, ValueError, r"query labels are torch.int32 .*int64 \[3\]"),
        ({"database_labels": IDS[:2]}, ValueError, r"database labels .*\(2,\); expected int64"),
        ({"database_labels": CODES.bool()}, ValueError, r"torch.bool .* packed multi-hot"),
        ({"database_labels": CODES}, ValueError, "of different kinds or widths"),
        ({"left_out": IDS[:2]}, ValueError, r"left_out is torch.int64 \(2,\).*int64 \[3\]"),
        ({"left_out": IDS == 0}, ValueError, "left_out is torch.bool"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {
        "query": CODES,
        "database": CODES,
        "k": 2,
        "query_labels": IDS,
        "database_labels": IDS,
    }
    with pytest.raises(error, match=message):
        ops.hamming_hits(**(arguments | change))
