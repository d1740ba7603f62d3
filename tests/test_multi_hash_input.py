"""What IndexBinaryMultiHash refuses, and that nothing is lost by it."""

import re

import numpy as np
import pytest
from hamming_oracle import random_codes
from index_examples import index_of

from hashfast import IndexBinaryFlat, IndexBinaryMultiHash

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("one_thread")]
CODES = random_codes(40)


@pytest.mark.parametrize("tables", [0, -1, 65, 2**40])
def test_tables_out_of_range(tables):
    with pytest.raises(ValueError, match=f"tables is {tables}; expected at (least|most) "):
        IndexBinaryMultiHash(64, tables=tables)


@pytest.mark.parametrize("tables", [2.5, "3", [1]])
def test_tables_of_another_type(tables):
    message = re.escape(f"tables is {tables!r}; expected an integer")
    with pytest.raises(TypeError, match=message):
        IndexBinaryMultiHash(64, tables=tables)


def test_options_have_names():
    with pytest.raises(TypeError):
        IndexBinaryMultiHash(64, 4)


CALLS = {
    "search a width": lambda index: index.search(CODES[:, :7], 1),
    "search a dtype": lambda index: index.search(CODES.astype(np.int64), 1),
    "search a shape": lambda index: index.search(CODES[0], 1),
    "search a list": lambda index: index.search([[1] * 8], 1),
    "k = 0": lambda index: index.search(CODES, 0),
    "k = 1.5": lambda index: index.search(CODES, 1.5),
    "k = 2**31": lambda index: index.search(CODES, 2**31),
    "radius -1": lambda index: index.range_search(CODES, -1),
    "radius 0.5": lambda index: index.range_search(CODES, 0.5),
    "allowed of another size": lambda index: index.search(CODES, 1, np.ones(39, bool)),
    "allowed bitmap of another size": lambda index: index.search(CODES, 1, np.ones(6, np.uint8)),
    "allowed of another dtype": lambda index: index.search(CODES, 1, [0.5]),
    "allowed beyond": lambda index: index.range_search(CODES, 1, [40]),
    "add a width": lambda index: index.add(CODES[:, :7]),
    "add a dtype": lambda index: index.add(CODES.astype(np.float32)),
    "add with ids": lambda index: index.add_with_ids(CODES, range(40)),
    "remove floats": lambda index: index.remove_ids([0.5]),
    "reconstruct beyond": lambda index: index.reconstruct(40),
    "reconstruct many": lambda index: index.reconstruct_n(38, 3),
    "reconstruct -1": lambda index: index.reconstruct_n(0, -1),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_are_those_of_the_scan(name):
    flat, index = index_of(CODES), index_of(CODES[:30], kind=IndexBinaryMultiHash)
    index.add(CODES[30:])
    with pytest.raises((TypeError, ValueError, IndexError)) as expected:
        CALLS[name](flat)
    with pytest.raises(expected.type, match=f"^{re.escape(str(expected.value))}$"):
        CALLS[name](index)
    np.testing.assert_array_equal(index.codes, CODES)
    assert index.search(CODES[35:36], 1)[1].tolist() == [[35]]


def test_errors_of_ids_are_those_of_the_scan():
    for ids in ([1, 2], [1.0] * 40, [-1] * 40, [2**63] * 40, {1, 2}):
        with pytest.raises((TypeError, ValueError)) as expected:
            IndexBinaryFlat(64).add_with_ids(CODES, ids)
        index = IndexBinaryMultiHash(64)
        with pytest.raises(expected.type, match=f"^{re.escape(str(expected.value))}$"):
            index.add_with_ids(CODES, ids)
        assert len(index) == 0


def test_bits_out_of_range():
    for bits in (0, -8, 2**70):
        with pytest.raises(ValueError, match=f"bits is {bits}; expected at "):
            IndexBinaryMultiHash(bits)
    with pytest.raises(TypeError, match="bits is '64'; expected an integer"):
        IndexBinaryMultiHash("64")


def test_padding_bits_are_refused():
    index = IndexBinaryMultiHash(13)
    with pytest.raises(ValueError, match="codes: some of the last 3 bits of a code are set"):
        index.add(CODES[:, :2])
    with pytest.raises(ValueError, match="query: some of the last 3 bits of a code are set"):
        index.search(CODES[:, :2], 1)


def test_results_that_no_memory_holds():
    index = index_of(CODES, kind=IndexBinaryMultiHash)
    k = 2**31 - 1
    message = f"no memory to search 40 codes for k = {k} neighbours of 40000 queries"
    with pytest.raises(MemoryError, match=message):
        index.search(np.repeat(CODES, 1_000, axis=0), k)
