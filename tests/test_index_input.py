"""Bad input to search and indexes: what came, what was expected, the fix; and nothing lost."""

import re

import numpy as np
import pytest
import torch
from hamming_oracle import random_codes
from index_examples import index_of

from hashfast import IndexBinaryFlat, range_search, search

pytestmark = pytest.mark.filterwarnings("error")
CODES = random_codes(4)


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
        (torch.ones(4, 8, dtype=torch.int64), TypeError, "query is int64; .* hashfast.pack"),
        (CODES.view(np.int8), TypeError, "query is int8; .* hashfast.pack.* precision='ubinary'"),
        (torch.ones(4, 8).char(), TypeError, "query is int8; .* precision='ubinary'"),
        ([[1, 2]], TypeError, "query is a list; .* numpy array or torch tensor"),
    ],
)
def test_bad_codes(query, error, message):
    for run in (
        lambda: search(query, CODES, 1),
        lambda: range_search(query, CODES, 1),
        lambda: index_of(CODES).search(query, 1),
        lambda: index_of(CODES).range_search(query, 1),
    ):
        with pytest.raises(error, match=message):
            run()
    index = index_of(CODES)
    for add in (index.add, lambda codes: index.add_with_ids(codes, [0])):
        with pytest.raises((error, ValueError)):
            add(query)
    assert len(index) == 4


def test_wording_of_widths():
    index = index_of(CODES)
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
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            run()
    with pytest.raises(TypeError, match="database is float64"):
        search(CODES, CODES.astype(float), 1)


def test_bad_numbers():
    index = index_of(CODES)
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
        IndexBinaryFlat(0)
    assert index.search(CODES, np.int64(2))[0].shape == (4, 2)
