"""The GPU's searches that count distances, run on a CPU, against the references."""

import numpy as np
import pytest
import torch
from emulated import at, library
from hamming_oracle import PADDING_DISTANCE, PADDING_ID, brute_force, brute_force_range

from hashfast.ops._op import OPS

WORKSPACE = 1 << 28
# Orders of the threads, blocks in flight, multiprocessors (and with them segments of a query).
MACHINES = [(0, 1, 3), (1, 3, 1), (2, 2, 7), (3, 4, 132)]


@pytest.fixture(scope="module")
def kernels():
    return library("hamming_ordered.cpp")


def call(kernels, name, *arguments, machine=(0, 1, 3)):
    seed, resident, processors = machine
    kernels.call(name, *arguments, seed=seed, resident=resident, processors=processors)


def nearest(kernels, query, database, k, allowed=None, only=None, most=WORKSPACE, **how):
    distances = np.full((len(query), k), -7, np.int32)
    ids = np.full((len(query), k), -7, np.int64)
    sizes = (len(query), len(database), query.shape[1])
    call(
        kernels, "find_nearest", query, database, allowed, *sizes, k, only, most, distances, ids,
        **how,
    )  # fmt: skip
    return distances, ids


def histogram(kernels, query, database, query_labels=None, database_labels=None, **how):
    out = np.full((len(query), 8 * query.shape[1] + 1), -7)
    sizes = (len(query), len(database), query.shape[1])
    labels = label_arguments(query_labels, database_labels)
    call(kernels, "count_distances", query, database, *sizes, *labels, out, **how)
    return out


def label_arguments(query_labels, database_labels):
    if query_labels is None:
        return (None, None, None, None, 0)
    if query_labels.ndim == 1:
        return (query_labels, database_labels, None, None, 0)
    return (None, None, query_labels, database_labels, query_labels.shape[1])


def within(kernels, query, database, radius, allowed=None, **how):
    counts = np.full(len(query), -7)
    sizes = (len(query), len(database), query.shape[1])
    call(kernels, "count_within", query, database, allowed, *sizes, radius, counts, **how)
    return counts


def find_within(
    kernels, query, database, radius, limits, allowed=None, most=WORKSPACE, room=None, **how
):
    """status, distances and ids."""
    room = limits[-1] if room is None else room
    status, distances = np.full(2, -7), np.full(room, -7, np.int32)
    ids = np.full(room, -7, np.int64)
    sizes = (len(query), len(database), query.shape[1])
    call(
        kernels, "find_within", query, database, allowed, *sizes, radius, limits, most, status,
        distances, ids, **how,
    )  # fmt: skip
    return status, distances, ids


def find_hits(
    kernels, query, database, k, query_labels, database_labels, left_out=None, most=WORKSPACE,
    **how,
):  # fmt: skip
    limits = np.full(len(query) + 1, -7)
    ranks = np.full(len(query) * min(k, len(database)), -7, np.int32)
    sizes = (len(query), len(database), query.shape[1])
    labels = label_arguments(query_labels, database_labels)
    call(
        kernels, "find_hits", query, database, *sizes, k, *labels, left_out, most, limits, ranks,
        **how,
    )  # fmt: skip
    assert (ranks[limits[-1] :] == -7).all()
    return limits, ranks[: limits[-1]]


def examples(name):
    """The operation's own, with what its reference makes of them, as arrays."""
    op = OPS[name]
    for given in op.examples("cpu", torch.float32):
        expected = op.reference(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        yield (
            [x.numpy() if isinstance(x, torch.Tensor) else x for x in given],
            [x.numpy() for x in expected],
        )


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


CODES = {
    "random": lambda rng, m, width: rng.integers(0, 256, (m, width)),
    "clustered": lambda rng, m, width: (
        rng.integers(0, 256, (3, width))[rng.integers(0, 3, m)] ^ (rng.random((m, width)) < 0.1)
    ),
    "repeated": lambda rng, m, width: rng.choice([0, 1, 255], (m, 1)).repeat(width, 1),
    "equal": lambda rng, m, width: np.zeros((m, width)),
}


def codes_of(kind, q, n, width, seed=0):
    """Queries and a database; "far" are as far from each other as they can be."""
    rng = np.random.default_rng(seed)
    if kind == "far":
        return np.zeros((q, width), np.uint8), np.full((n, width), 255, np.uint8)
    both = CODES[kind](rng, q + n, width).astype(np.uint8)
    return both[:q].copy(), both[q:].copy()


KINDS = (*CODES, "far")


def bits_of(mask):
    return None if mask is None else np.packbits(mask)


# --- The operations' examples.


def test_examples_of_topk(kernels):
    for (query, database, k, allowed), expected in examples("hamming_topk"):
        assert_equal(nearest(kernels, query, database, k, allowed), expected)


def test_examples_of_histogram(kernels):
    for given, expected in examples("hamming_histogram"):
        assert_equal([histogram(kernels, *given)], expected)


def test_examples_of_range(kernels):
    for given, expected in examples("hamming_range_count"):
        assert_equal([within(kernels, *given)], expected)
    for (query, database, radius, limits, allowed), expected in examples("hamming_range"):
        status, *found = find_within(kernels, query, database, radius, limits, allowed)
        assert status.tolist() == [limits[-1], 0]
        assert_equal(found, expected)


def test_examples_of_hits(kernels):
    for given, expected in examples("hamming_hits"):
        assert_equal(find_hits(kernels, *given), expected)


# --- Every kind of codes, width, machine.


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_nearest(kernels, kind, machine):
    query, database = codes_of(kind, 3, 2700, 8)
    mask = np.random.default_rng(1).random(2700) < 0.4
    for k, allowed in ((1, None), (100, mask), (2690, None), (3000, mask)):
        found = nearest(kernels, query, database, k, bits_of(allowed), machine=machine)
        assert_equal(found, brute_force(query, database, k, allowed))


def read_as(kernels, query, database):
    out = np.empty(2, np.int64)
    call(kernels, "format", query, database, query.shape[1], out)
    return out.tolist()


@pytest.mark.parametrize("offset", [0, 1, 4, 8])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 16, 32, 64, 12])
def test_widths_and_addresses(kernels, width, offset):
    query, database = (at(x, offset) for x in codes_of("clustered", 5, 700, width))
    word, whole = read_as(kernels, query, database)
    assert not any(x % word for x in (query.ctypes.data, database.ctypes.data, width))
    assert whole == (word == width > 1)
    assert (word, whole) == (width, True) or offset or width not in (4, 8, 16)
    ours, theirs = (np.random.default_rng(width).integers(0, 3, m) for m in (5, 700))
    assert_equal(nearest(kernels, query, database, 30), brute_force(query, database, 30))
    limits, *expected = brute_force_range(query, database, 3 * width)
    assert_equal([within(kernels, query, database, 3 * width)], [np.diff(limits)])
    assert_equal(find_within(kernels, query, database, 3 * width, limits)[1:], expected)
    arrays = [torch.from_numpy(x) for x in (query, database, ours, theirs)]
    assert_equal(
        [histogram(kernels, query, database, ours, theirs)],
        [OPS["hamming_histogram"].reference(*arrays)],
    )
    assert_equal(
        find_hits(kernels, query, database, 77, ours, theirs),
        OPS["hamming_hits"].reference(*arrays[:2], 77, *arrays[2:], None),
    )


@pytest.mark.parametrize("width", [160, 400, 1100])
def test_codes_too_long_for_shared_counters(kernels, width):
    """Where 8 warps, where a histogram, where not one warp has its counters in shared memory."""
    query, database = codes_of("random", 2, 90, width)
    database[5:60] = database[3]
    database[60:70] = 255 - query[0]
    ours, theirs = np.zeros(2, np.int64), np.arange(90) % 2
    most = 60 * width  # little enough for several groups of queries
    allowed = np.arange(90) % 5 > 0
    for k in (40, 95):
        found = nearest(kernels, query, database, k, bits_of(allowed), most=most, machine=(1, 2, 3))
        assert_equal(found, brute_force(query, database, k, allowed))
    for radius in (4 * width, 8 * width):
        limits, *expected = brute_force_range(query, database, radius)
        assert_equal(find_within(kernels, query, database, radius, limits)[1:], expected)
    arrays = [torch.from_numpy(x) for x in (query, database, ours, theirs)]
    assert_equal(
        [histogram(kernels, query, database, ours, theirs, machine=(1, 2, 3))],
        [OPS["hamming_histogram"].reference(*arrays)],
    )
    assert_equal(
        find_hits(kernels, query, database, 30, ours, theirs, machine=(2, 1, 3)),
        OPS["hamming_hits"].reference(*arrays[:2], 30, *arrays[2:], None),
    )


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_histograms(kernels, kind, machine):
    """4500 rows are two blocks'; the last queries are fewer than a block takes."""
    query, database = codes_of(kind, 6, 4500, 8)
    arrays = [torch.from_numpy(x) for x in (query, database)]
    ours, theirs = (np.random.default_rng(3).integers(-1, 3, m) for m in (6, 4500))
    for labels in (
        (None, None),
        (ours, theirs),
        tuple((1 << x + 1)[:, None].astype(np.uint8) for x in (ours, theirs)),
    ):
        tensors = [None if x is None else torch.from_numpy(x) for x in labels]
        expected = OPS["hamming_histogram"].reference(*arrays, *tensors)
        assert_equal([histogram(kernels, query, database, *labels, machine=machine)], [expected])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_ranges(kernels, kind, machine):
    query, database = codes_of(kind, 3, 1100, 8)
    mask = np.random.default_rng(1).random(1100) < 0.4
    for radius, allowed in ((0, None), (25, mask), (64, None), (2**40, mask), (-1, None)):
        limits, *expected = brute_force_range(query, database, radius, allowed)
        bits = bits_of(allowed)
        counts = within(kernels, query, database, radius, bits, machine=machine)
        assert_equal([counts], [np.diff(limits)])
        status, *found = find_within(
            kernels, query, database, radius, limits, bits, machine=machine
        )
        assert status.tolist() == [limits[-1], 0]
        assert_equal(found, expected)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_hits(kernels, kind, machine):
    """The border lies within a segment, between two, and behind all."""
    query, database = codes_of(kind, 3, 1100, 8)
    rng = np.random.default_rng(2)
    ours, theirs = (rng.integers(0, 3, m) for m in (3, 1100))
    bits = [(rng.random((m, 2)) < 0.3).astype(np.uint8) for m in (3, 1100)]
    left_out = np.array([-1, 0, 1099])
    for k, labels, own in (
        (1, (ours, theirs), None),
        (512, (ours, theirs), left_out[::-1].copy()),
        (384, bits, left_out),
        (1099, (ours, theirs), left_out),
        (1100, bits, None),
        (2**40, (ours, theirs), left_out),
    ):
        tensors = [None if x is None else torch.from_numpy(x) for x in (*labels, own)]
        arrays = [torch.from_numpy(x) for x in (query, database)]
        expected = OPS["hamming_hits"].reference(*arrays, min(k, 1100), *tensors)
        found = find_hits(kernels, query, database, k, *labels, own, machine=machine)
        assert_equal(found, expected)


# --- Options and edges.


@pytest.mark.parametrize("machine", MACHINES)
def test_queries_that_are_left_alone(kernels, machine):
    query, database = codes_of("repeated", 11, 1300, 8)
    only = np.array([0, 1, 0, 0, 5, 0, 0, 0, 1, 0, 0], np.int32)
    for k in (5, 1400):
        distances, ids = nearest(kernels, query, database, k, only=only, machine=machine)
        expected = brute_force(query, database, k)
        assert_equal((distances[only > 0], ids[only > 0]), [x[only > 0] for x in expected])
        assert (distances[only == 0] == -7).all()
        assert (ids[only == 0] == -7).all()


@pytest.mark.parametrize("most", [1, 4000])
def test_queries_are_taken_in_groups_where_memory_is_short(kernels, most):
    query, database = codes_of("clustered", 7, 1300, 8)
    labels = [np.arange(m) % 3 for m in (7, 1300)]
    plan = np.empty(8, np.int64)
    call(kernels, "plan", 7, 1300, 65, 1, most, plan)
    assert plan[2] < 7
    assert plan[5] <= max(most, 65 * 4) + 16 * (plan[2] + 2)
    assert_equal(nearest(kernels, query, database, 50, most=most), brute_force(query, database, 50))
    limits, *expected = brute_force_range(query, database, 30)
    status, *found = find_within(kernels, query, database, 30, limits, most=most)
    assert status.tolist() == [limits[-1], 0]
    assert_equal(found, expected)
    arrays = [torch.from_numpy(x) for x in (query, database, *labels)]
    assert_equal(
        find_hits(kernels, query, database, 77, *labels, most=most),
        OPS["hamming_hits"].reference(*arrays[:2], 77, *arrays[2:], None),
    )


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("bins", [1, 9, 65, 1025, 4097, 65529])
def test_plans(kernels, bins, kinds):
    plan = np.empty(8, np.int64)
    for n in (0, 1, 511, 50_000, 10**7, 2**32 - 1):
        before = 0
        for q in (0, 1, 2, 7, 31, 32, 33, 34, 35, 48, 10_000, 10**6):
            call(kernels, "plan", q, n, bins, kinds, WORKSPACE, plan, machine=(0, 1, 132))
            segments, rows, group, warps, in_shared, used, shared, workspace = plan.tolist()
            assert (segments - 1) * rows < max(n, 1) <= segments * rows
            assert 1 <= group <= max(q, 1)
            assert used <= workspace or q == 0
            assert before <= workspace <= WORKSPACE + 16 * (q + 2) + 4 * kinds * (bins + 1)
            assert shared <= 40 * 1024
            assert in_shared == (kinds * bins * 4 <= 40 * 1024)
            assert warps in (1, 2, 4, 8)
            assert group * segments / warps < 2**31
            if n >= 10**7 and bins <= 1025 and q:  # every multiprocessor has something to do
                assert group * segments >= 8 * 132
            before = workspace


def test_nothing_to_search(kernels):
    some, none = np.zeros((3, 8), np.uint8), np.zeros((0, 8), np.uint8)
    distances, ids = nearest(kernels, some, none, 2)
    assert (distances == PADDING_DISTANCE).all()
    assert (ids == PADDING_ID).all()
    assert not histogram(kernels, some, none).any()
    assert not within(kernels, some, none, 64).any()
    status, *_ = find_within(kernels, some, none, 64, np.zeros(4, np.int64))
    assert status.tolist() == [0, 0]
    for query, database in ((none, some), (none, none)):
        assert nearest(kernels, query, database, 2)[0].shape == (0, 2)
        assert histogram(kernels, query, database).shape == (0, 65)
        assert within(kernels, query, database, 64).shape == (0,)
        status, *_ = find_within(kernels, query, database, 64, np.zeros(1, np.int64))
        assert status.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("radius", "limits", "status"),
    [
        (64, [0, 40, 80], 0),
        (64, [1, 40, 80], 2),
        (64, [0, 41, 40], 2),
        (64, [0, 40, 79], 1),
        (64, [0, 39, 80], 1),
        (-1, [0, 0, 0], 0),
        (-1, [0, 0, 1], 1),
    ],
)
def test_limits_that_do_not_fit_are_told(kernels, radius, limits, status):
    query, database = codes_of("random", 2, 40, 8)
    limits = np.array(limits)
    found, distances, _ = find_within(kernels, query, database, radius, limits, room=90)
    assert found.tolist() == [limits[-1], status]
    if status:
        assert (distances == -7).all()


def test_limits_of_many_queries(kernels):
    """More than a block has threads, in the sums and in the check."""
    query, database = codes_of("random", 2100, 4, 1)
    labels = [np.arange(m) % 2 for m in (2100, 4)]
    arrays = [torch.from_numpy(x) for x in (query, database, *labels)]
    assert_equal(
        find_hits(kernels, query, database, 3, *labels),
        OPS["hamming_hits"].reference(*arrays[:2], 3, *arrays[2:], None),
    )
    limits, *expected = brute_force_range(query, database, 4)
    assert_equal(find_within(kernels, query, database, 4, limits)[1:], expected)
    limits[2000] += 1
    assert find_within(kernels, query, database, 4, limits)[0][1] == 1
