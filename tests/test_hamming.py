"""Known answers and properties of packing and packed-code search."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hashfast
from hashfast import ops

PADDING = 2**31 - 1


def brute_force(query, database, k):
    """Distances by unpacking, ranking by a stable sort: (distance, id)."""
    bits = np.unpackbits(query[:, None] ^ database[None], axis=-1).sum(-1)
    ids = np.argsort(bits, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(bits, ids, 1), ids


@st.composite
def codes(draw):
    width = draw(st.sampled_from([1, 2, 3, 4, 8, 9, 16, 33]))
    element = st.sampled_from([0, 1, 3, 255])  # few values: many ties and duplicates
    q, n = draw(st.integers(0, 20)), draw(st.integers(1, 80))
    arrays = [hnp.arrays(np.uint8, (rows, width), elements=element) for rows in (q, n)]
    return draw(arrays[0]), draw(arrays[1])


@settings(max_examples=150, deadline=None)
@given(codes(), st.integers(1, 90))
def test_topk_is_the_stable_ranking(pair, k):
    query, database = pair
    distances, ids = ops.hamming_topk(*map(torch.from_numpy, pair), k)
    expected_distances, expected_ids = brute_force(query, database, k)
    found = min(k, len(database))
    assert np.array_equal(distances[:, :found].numpy(), expected_distances)
    assert np.array_equal(ids[:, :found].numpy(), expected_ids)
    assert (distances[:, found:] == PADDING).all()
    assert (ids[:, found:] == -1).all()


@settings(max_examples=100, deadline=None)
@given(codes(), st.integers(-1, 70))
def test_range_holds_what_topk_finds_within_the_radius(pair, radius):
    query, database = map(torch.from_numpy, pair)
    limits, distances, ids = ops.hamming_range(query, database, radius)
    all_distances, all_ids = ops.hamming_topk(query, database, len(database))
    assert limits[0] == 0
    assert limits[-1] == len(ids) == len(distances)
    for i in range(len(query)):
        kept = all_distances[i] <= radius
        hits = slice(limits[i], limits[i + 1])
        assert torch.equal(ids[hits], all_ids[i][kept])
        assert torch.equal(distances[hits], all_distances[i][kept])


@settings(max_examples=100, deadline=None)
@given(codes())
def test_histogram_counts_every_code_once(pair):
    query, database = map(torch.from_numpy, pair)
    counts = ops.hamming_histogram(query, database)
    distances, _ = ops.hamming_topk(query, database, len(database))
    for row, found in zip(counts, distances, strict=True):
        assert torch.equal(row, torch.bincount(found, minlength=counts.shape[1]))
    query_labels, database_labels = torch.arange(len(query)) % 3, torch.arange(len(database)) % 3
    by_class = [
        ops.hamming_histogram(query, database, query_labels * 0 + c, database_labels)
        for c in range(3)
    ]
    assert torch.equal(sum(by_class), counts)
    packed = [(1 << labels).to(torch.uint8)[:, None] for labels in (query_labels, database_labels)]
    by_id = ops.hamming_histogram(query, database, query_labels, database_labels)
    assert torch.equal(ops.hamming_histogram(query, database, *packed), by_id)


def test_long_codes_far_apart_do_not_overflow():
    for bits in (256, 512, 4096):
        zeros = torch.zeros(1, bits // 8, dtype=torch.uint8)
        ones = torch.full((3, bits // 8), 255, dtype=torch.uint8)
        distances, ids = ops.hamming_topk(zeros, ones, 3)
        assert distances.tolist() == [[bits] * 3]
        assert ids.tolist() == [[0, 1, 2]]


def test_a_database_over_several_blocks_and_chunks():
    generator = torch.Generator().manual_seed(1)
    query = torch.randint(0, 256, (2, 8), generator=generator, dtype=torch.uint8)
    database = torch.randint(0, 256, (9_001, 8), generator=generator, dtype=torch.uint8)
    distances, ids = ops.hamming_topk(query, database, 500)
    expected = brute_force(query.numpy(), database.numpy(), 500)
    assert np.array_equal(distances.numpy(), expected[0])
    assert np.array_equal(ids.numpy(), expected[1])


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 64])
def test_pack_is_packbits_and_unpack_its_inverse(bits):
    values = torch.randn(5, bits)
    values[0, 0] = 0.0  # zero gives bit 0
    codes = hashfast.pack(values)
    assert codes.shape == (5, -(-bits // 8))
    assert np.array_equal(codes.numpy(), np.packbits(values.numpy() > 0, axis=1))
    assert np.array_equal(hashfast.pack(values.numpy()), codes.numpy())
    signs = hashfast.unpack(codes, bits)
    assert torch.equal(signs, torch.where(values > 0, 1, -1).to(torch.int8))
    assert np.array_equal(hashfast.unpack(codes.numpy(), bits), signs.numpy())
    assert torch.equal(hashfast.pack(signs), codes)
    assert hashfast.pack(values.half()[0]).shape == codes[0].shape


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "bfloat16", "float64"])
def test_every_dtype_and_shape_is_packed(dtype):
    for shape in ((0,), (1,), (67,), (96,), (0, 5), (5, 0), (2, 3, 24)):
        values = (2 * torch.randn(shape)).to(getattr(torch, dtype))
        expected = np.packbits((values > 0).numpy(), axis=-1)
        assert np.array_equal(hashfast.pack(values).numpy(), expected)
        if dtype != "bfloat16":
            assert np.array_equal(hashfast.pack(values.numpy()), expected)


VIEWS = {
    "slice": lambda flags: flags[3:67],
    "every second": lambda flags: flags[::2],
    "transposed": lambda flags: flags[:80].view(16, 5).T,
    "one row": lambda flags: flags[:8].view(8, 1).T,
    "expanded": lambda flags: flags[:1].expand(16),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_are_packed_as_their_copies(view):
    flags = torch.randn(100) > 0
    expected = np.packbits(view(flags).numpy(), axis=-1)
    assert np.array_equal(hashfast.pack(view(flags)).numpy(), expected)
    compiled = torch.compile(
        lambda flags: hashfast.pack(view(flags)), fullgraph=True, backend="aot_eager"
    )
    assert np.array_equal(compiled(flags).numpy(), expected)


def test_pack_compiles_without_graph_break():
    values = torch.randn(4, 20)
    compiled = torch.compile(hashfast.pack, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(values), hashfast.pack(values))


def test_the_widest_codes():
    codes = torch.zeros(2, 8191, dtype=torch.uint8)
    codes[1] = 255
    distances, ids = ops.hamming_topk(codes, codes, 2)
    assert distances.tolist() == [[0, 65_528]] * 2
    assert ids.tolist() == [[0, 1], [1, 0]]
    assert ops.hamming_histogram(codes, codes)[:, -1].tolist() == [1, 1]
    assert ops.hamming_range(codes, codes, 65_528)[1].tolist() == [0, 65_528] * 2
    labels = torch.tensor([0, 1])
    assert ops.hamming_hits(codes, codes, 2, labels, labels.flip(0))[1].tolist() == [2, 2]
    wider = torch.zeros(2, 8192, dtype=torch.uint8)
    for run in (
        lambda: ops.hamming_topk(wider, wider, 1),
        lambda: ops.hamming_histogram(wider, wider),
        lambda: ops.hamming_range(wider, wider, 1),
        lambda: ops.hamming_hits(wider, wider, 1, labels, labels),
    ):
        with pytest.raises(ValueError, match=r"query has 8192 bytes .*; expected at most 8191"):
            run()


def test_bad_input_is_named():
    codes = torch.zeros(2, 8, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"float32.*hashfast\.pack"):
        ops.hamming_topk(codes.float(), codes, 1)
    with pytest.raises(ValueError, match=r"query has 8 bytes per code .*; database has 4"):
        ops.hamming_topk(codes, codes[:, :4], 1)
    with pytest.raises(ValueError, match="query is on cpu and database on meta"):
        ops.hamming_topk(codes, codes.to("meta"), 1)
    with pytest.raises(ValueError, match="k is 0"):
        ops.hamming_topk(codes, codes, 0)
    with pytest.raises(ValueError, match="both query and database"):
        ops.hamming_histogram(codes, codes, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"query labels are torch\.int32"):
        ops.hamming_histogram(codes, codes, *[torch.zeros(2, dtype=torch.int32)] * 2)
    with pytest.raises(TypeError, match="packed already"):
        hashfast.pack(codes)
    assert hashfast.pack(np.array([[np.nan, 1.0]])).tolist() == [[64]]
    assert hashfast.pack(torch.tensor([[torch.nan, 1.0]])).tolist() == [[64]]
    for values in (np.array([["a"]]), np.array([[None, 1]])):
        with pytest.raises(TypeError, match=f"values are {values.dtype}; expected floats, bools"):
            hashfast.pack(values)
    with pytest.raises(TypeError, match="packed codes are uint8"):
        hashfast.unpack(codes.float())
    with pytest.raises(ValueError, match="70 bits do not fit"):
        hashfast.unpack(codes, 70)
