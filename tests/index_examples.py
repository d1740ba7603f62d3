"""Indexes and codes that the tests of indexes and of their files share."""

import numpy as np
import pytest
from hamming_oracle import random_codes

import hashfast
from hashfast import IndexBinaryAuto, IndexBinaryFlat, IndexBinaryMultiHash
from hashfast.index import auto

INDEXES = [IndexBinaryFlat, IndexBinaryMultiHash, IndexBinaryAuto]
every_index = pytest.mark.parametrize("kind", INDEXES)


def index_of(codes, bits=64, ids=None, kind=IndexBinaryFlat, **kwargs):
    """An index that holds these codes, in its tables if it has some."""
    index = kind(bits, **kwargs)
    if ids is None:
        index.add(codes)
    else:
        index.add_with_ids(codes, ids)
    if kind is not IndexBinaryFlat:
        index.build()
    return index


def make_tables_of_few_codes(monkeypatch):
    """An IndexBinaryAuto of a few dozen codes makes tables as one of many does."""
    monkeypatch.setattr(auto, "is_long", lambda tail, rows: tail > max(20, rows // 4))


def examples(kind=IndexBinaryFlat):
    """Indexes of every kind of file: with and without ids, empty, odd numbers of bits."""
    plain = [
        index_of(random_codes(7), kind=kind),
        index_of(random_codes(3, 1), 8, kind=kind),
        kind(128),
    ]
    padded = index_of(
        hashfast.pack(np.random.default_rng(0).standard_normal((5, 13))), 13, kind=kind
    )
    with_ids = index_of(random_codes(4), ids=[5, -9, 2**61, 5], kind=kind)
    with_ids_padded = index_of(padded.codes, 13, ids=range(10, 15), kind=kind)
    return [*plain, padded, with_ids, with_ids_padded]


# ---- codes of all kinds, the padding zero ----------------------------------------------------


def _uniform(n, size, generator):
    return generator.integers(0, 256, (n, size), dtype=np.uint8)


def _clustered(n, size, generator):
    centres = _uniform(10, size, generator)[generator.integers(0, 10, n)]
    return centres ^ np.packbits(generator.random((n, 8 * size)) < 0.08, axis=1)


def _all_equal(n, size, generator):
    return np.repeat(_uniform(1, size, generator), n, axis=0)


def _all_far(n, size, generator):
    """Few ones: with queries of many ones, nothing is near."""
    return np.packbits(generator.random((n, 8 * size)) < 0.05, axis=1)


def _two_values(n, size, generator):
    return _uniform(2, size, generator)[generator.integers(0, 2, n)]


def _many_duplicates(n, size, generator):
    """Some codes thousands of times, many a few times, as of a trained network."""
    distinct = _uniform(max(n // 8, 1), size, generator)
    return distinct[(len(distinct) * generator.random(n) ** 3).astype(int)]


def _few_ones(n, size, generator):
    """Nearly all distances are small and equal: ties everywhere."""
    return generator.integers(0, 2, (n, size), dtype=np.uint8)


KINDS = {
    "uniform": _uniform,
    "clustered": _clustered,
    "all equal": _all_equal,
    "all far": _all_far,
    "two values": _two_values,
    "many duplicates": _many_duplicates,
    "few ones": _few_ones,
}


def padded(codes, bits):
    """The same codes with the last -bits % 8 bits zero."""
    codes = codes.copy()
    codes[:, -1] &= 0xFF << (-bits % 8) & 0xFF
    return codes


def codes_of_kind(name, n, bits, generator):
    """Codes uint8 [n, ceil(bits / 8)] of one of KINDS."""
    return padded(KINDS[name](n, (bits + 7) // 8, generator), bits)


def queries_for(codes, bits, q, generator):
    """Codes that are held, their neighbours, their complements and random ones, in turn."""
    size = (bits + 7) // 8
    queries = generator.integers(0, 256, (q, size), dtype=np.uint8)
    if len(codes):
        held = codes[generator.integers(0, len(codes), q)]
        near = held ^ np.packbits(generator.random((q, 8 * size)) < 0.04, axis=1)
        for start, part in enumerate((held, near, ~held)):
            queries[start::4] = part[start::4]
    return padded(queries, bits)
