"""Range search of multi-index hashing against the scan: every radius, strict or not, filtered."""

import numpy as np
import pytest
from hamming_oracle import assert_same, brute_force_range
from index_examples import KINDS, codes_of_kind, index_of, queries_for

from hashfast import IndexBinaryMultiHash

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("one_thread")]
BITS = [8, 13, 32, 64, 100, 256]


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_radius_of_few_codes(kind, bits, collapse):
    generator = np.random.default_rng(bits)
    for n in (0, 1, 60):
        codes = codes_of_kind(kind, n, bits, generator)
        ids = None if n % 4 else generator.integers(0, 2**62, n)
        flat = index_of(codes, bits, ids)
        index = index_of(codes, bits, ids, IndexBinaryMultiHash, collapse=collapse)
        queries = queries_for(codes, bits, 5, generator)
        for radius in {*range(0, bits + 2, max(bits // 9, 1)), 1, bits - 1, bits, 2**70}:
            assert_same(index.range_search(queries, radius), flat.range_search(queries, radius))
            found = index.range_search(queries, radius, strict=True)
            assert_same(found, flat.range_search(queries, radius, strict=True))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_some_radii_of_many_codes(kind, bits):
    generator = np.random.default_rng(bits)
    codes = codes_of_kind(kind, 4_000, bits, generator)
    flat = index_of(codes, bits)
    queries = queries_for(codes, bits, 6, generator)
    for copies in (True, False):
        index = index_of(codes, bits, kind=IndexBinaryMultiHash, copies=copies)
        for radius in (0, 1, 2, 3, bits // 8, bits // 3, bits):
            assert_same(index.range_search(queries, radius), flat.range_search(queries, radius))


@pytest.mark.parametrize("kind", ["clustered", "many duplicates", "all equal"])
def test_allowed_rows_only(kind):
    generator = np.random.default_rng(0)
    codes = codes_of_kind(kind, 2_000, 64, generator)
    queries = queries_for(codes, 64, 6, generator)
    index = index_of(codes, kind=IndexBinaryMultiHash)
    index.add(codes[:9])
    codes = np.concatenate([codes, codes[:9]])
    for share in (0, 0.01, 0.5, 1):
        mask = generator.random(2_009) < share
        for radius in (0, 5, 20, 64):
            found = index.range_search(queries, radius, np.flatnonzero(mask))
            assert_same(found, brute_force_range(queries, codes, radius, mask))


def test_results_of_very_different_sizes():
    """Queries that find everything beside queries that find nothing, in one call."""
    codes = np.zeros((3_000, 8), np.uint8)
    codes[::3] = 255
    queries = np.array([[0] * 8, [0x0F] * 8, [255] * 8, [0] * 7 + [1]], np.uint8)
    index = index_of(codes, kind=IndexBinaryMultiHash)
    for radius in (0, 1, 31, 32):
        expected = brute_force_range(queries, codes, radius)
        assert_same(index.range_search(queries, radius), expected)
    limits = index.range_search(queries, 0)[0]
    assert limits.tolist() == [0, 2_000, 2_000, 3_000, 3_000]
