"""Indexes that the tests of indexes and of their files share."""

import numpy as np
from hamming_oracle import random_codes

import hashfast
from hashfast import IndexBinaryFlat


def index_of(codes, bits=64, ids=None, **kwargs):
    index = IndexBinaryFlat(bits, **kwargs)
    if ids is None:
        index.add(codes)
    else:
        index.add_with_ids(codes, ids)
    return index


def examples():
    """Indexes of every kind of file: with and without ids, empty, odd numbers of bits."""
    plain = [index_of(random_codes(7)), index_of(random_codes(3, 1), 8), IndexBinaryFlat(128)]
    padded = index_of(hashfast.pack(np.random.default_rng(0).standard_normal((5, 13))), 13)
    with_ids = index_of(random_codes(4), ids=[5, -9, 2**61, 5])
    with_ids_padded = index_of(padded.codes, 13, ids=range(10, 15))
    return [*plain, padded, with_ids, with_ids_padded]
