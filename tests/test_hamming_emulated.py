"""The GPU's search for the k nearest codes, run on a CPU, against the reference."""

import numpy as np
import pytest
import torch
from emulated import at, library
from hamming_oracle import all_distances
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast.ops._op import OPS

# Orders of the threads, blocks in flight, multiprocessors.
MACHINES = [(0, 1, 3), (1, 3, 1), (2, 2, 7), (3, 5, 2)]
UNTOUCHED = -7
# The rows of a chunk on tensor cores, for every number of words that a code is padded to.
CHUNKS = {2: 1024, 4: 512, 8: 256, 16: 128, 32: 64}


def chunk_rows(width, mma=True):
    held = [rows for words, rows in CHUNKS.items() if width <= 4 * words]
    return held[0] if mma and held else 1024


def chunk_starts(n, rows, processors):
    """Of all chunks; the first ones, in at most a quarter of the rows, are small."""
    little = max(rows // 8, 32)
    small = little * min(16 * processors, n // 4 // rows * (rows // little))
    return [*range(0, small, little), *range(small, n, rows)]


@pytest.fixture(scope="module")
def kernels():
    return library("hamming_search.cpp")


def machine_of(machine, mma=True):
    seed, resident, processors = machine
    return {
        "seed": seed, "resident": resident, "processors": processors, "multiplies_bits": mma
    }  # fmt: skip


def bits_of(allowed):
    """A bitmap whose spare bits are set: no row has them."""
    if allowed is None:
        return None
    return np.packbits(np.append(allowed, np.ones(-len(allowed) % 8, bool)))


CODES = {
    "random": lambda rng, m, width: rng.integers(0, 256, (m, width)),
    "repeated": lambda rng, m, width: rng.integers(0, 256, (9, width))[rng.integers(0, 9, m)],
    "clustered": lambda rng, m, width: (
        CODES["repeated"](rng, m, width) ^ (rng.random((m, width)) < 0.1)
    ),
    "farther": lambda rng, m, width: np.packbits(  # from the code of zeros
        rng.permuted(np.arange(8 * width) < np.linspace(0, 8 * width, m)[:, None], axis=1), axis=1
    ),
    "a bit apart": lambda rng, m, width: np.packbits(
        np.arange(8 * width) == rng.integers(0, 12 * width, (m, 1)), axis=1
    ),
    "opposite": lambda rng, m, width: 255 * rng.integers(0, 2, (m, 1)).repeat(width, 1),
    "equal": lambda rng, m, width: np.full((m, width), 90),
}


def codes_of(kind, q, n, width, seed=0):
    both = CODES[kind](np.random.default_rng(seed), q + n, width).astype(np.uint8)
    both = both if kind == "farther" else np.random.default_rng(seed + 1).permuted(both, axis=0)
    return both[:q].copy(), both[q:].copy()


def check(
    kernels, query, database, k, allowed=None, *, filtered=1, sample=256, head=0, capacity=0,
    batch=0, machine=MACHINES[0], mma=True,
):  # fmt: skip
    """Searches as the reference does; returns how many queries the scan left to the ordered search
    (of the last batch), and how many hits it recorded."""
    q, n, width = len(query), *database.shape
    distances = np.full((q + 2, k), UNTOUCHED, np.int32)
    ids = np.full((q + 2, k), UNTOUCHED, np.int64)
    used = np.empty(3, np.int64)
    bits = bits_of(allowed)
    kernels.call(
        "search", query, database, bits, q, n, width, k, filtered, sample, head, capacity, batch,
        distances[1:-1], ids[1:-1], used, **machine_of(machine, mma),
    )  # fmt: skip
    given = [None if x is None else torch.from_numpy(x) for x in (query, database, bits)]
    expected = OPS["hamming_topk"].reference(*given[:2], k, given[2])
    for found, right in zip((distances, ids), expected, strict=True):
        np.testing.assert_array_equal(found[1:-1], right)
        assert (found[[0, -1]] == UNTOUCHED).all()
    assert used[0] == filtered
    return int(used[1]), int(used[2])


def beyond_the_scan(query, database, k, allowed=None):
    """How many queries have codes with every bit different among their k nearest."""
    distances = all_distances(query, database if allowed is None else database[allowed])
    return ((distances < 8 * query.shape[1]).sum(1) < min(k, distances.shape[1])).sum()


def masks(n, seed=0):
    """None, half of the rows, a few, a single one, none."""
    drawn = np.random.default_rng(seed).random(n)
    return [None, *(drawn < share for share in (0.5, 6 / n)), drawn == drawn.min(), drawn < 0]


@pytest.mark.parametrize("mma", [True, False])
@pytest.mark.parametrize("width", [2, 4, 5, 8, 16, 23, 32, 40, 64, 128])
def test_widths_and_addresses(kernels, width, mma):
    """Codes that fill a product or do not; read as vectors, words or bytes."""
    n = 4 * chunk_rows(width) + 77
    for q, offset, machine in zip(
        (5, 16, 17, 1, 20), (0, 1, 4, 8, 16), [*MACHINES, (5, 2, 1)], strict=True
    ):
        query, database = codes_of("clustered", q, n, width, seed=q)
        database, query = at(database, offset), at(query, offset // 2)
        how = {"machine": machine, "mma": mma, "sample": n // 2}
        assert check(kernels, query, database, 11, **how)[0] == 0


MANY = [
    (30, 2500, 8, True),  # one warp has all queries
    (129, 1100, 8, True),  # four warps share a block's
    (513, 1030, 8, True),  # two blocks of queries, the second of a single one
    (257, 600, 64, True),
    (129, 300, 128, True),
    (71, 1500, 8, False),
    (1, 1100, 200, True),  # too long for tensor cores
    (9, 1100, 512, True),
]


@pytest.mark.parametrize(("q", "n", "width", "mma"), MANY)
def test_many_queries(kernels, q, n, width, mma):
    query, database = codes_of("clustered", q, n, width)
    how = {"sample": n // 3, "machine": MACHINES[q % 2], "mma": mma}
    assert check(kernels, query, database, 5, **how)[0] == 0


@pytest.mark.parametrize("mma", [True, False])
@pytest.mark.parametrize("kind", CODES)
def test_kinds_and_filters(kernels, kind, mma):
    query, database = codes_of(kind, 2, 2100, 8)
    for i, (k, machine) in enumerate(zip((1, 10, 100, 2200), MACHINES, strict=True)):
        for allowed in masks(len(database))[i : i + 2]:
            how = {"machine": machine, "mma": mma, "head": 1024 if k == 10 else 0, "sample": 2048}
            again, hits = check(kernels, query, database, k, allowed, **how)
            assert again == beyond_the_scan(query, database, k, allowed)
            assert allowed is None or hits <= len(query) * allowed.sum()


@pytest.mark.parametrize("kind", ["random", "equal"])
def test_more_results_than_are_sorted_in_shared_memory(kernels, kind):
    query, database = codes_of(kind, 2, 6000, 8)
    for k in (4096, 4097, 5999, 6001):
        assert check(kernels, query, database, k, machine=MACHINES[1])[0] == 0


@pytest.mark.parametrize("mma", [True, False])
@pytest.mark.parametrize("machine", MACHINES[1:3])
def test_too_little_room_for_hits(kernels, machine, mma):
    """What was not kept is found by the ordered search; nobody else's hits are harmed."""
    query, database = codes_of("random", 12, 2600, 8)
    database[::3] = query[3]  # a flood for one query, a trickle for the others
    how = {"machine": machine, "mma": mma, "head": 0}
    for capacity, least, most in ((10, 12, 12), (300, 1, 11), (2600, 0, 0)):
        again, _ = check(kernels, query, database, 10, capacity=capacity, **how)
        assert least <= again <= most


def test_batches(kernels):
    """Every batch starts anew; the last one is smaller."""
    query, database = codes_of("clustered", 37, 1100, 8)
    query[20:] = query[3]  # the same counts again: what is left of one batch would end another's
    for k, machine in ((3, MACHINES[1]), (300, MACHINES[2])):
        assert check(kernels, query, database, k, batch=16, machine=machine)[0] == 0
    far = np.where(np.arange(37)[:, None] < 32, query, ~database[:1])
    database = np.broadcast_to(database[:1], (1100, 8)).copy()
    assert check(kernels, far, database, 3, batch=16)[0] == 5


def test_exactly_as_much_room_as_hits(kernels):
    query, database = codes_of("equal", 3, 700, 8)
    assert check(kernels, query, database, 5, capacity=700) == (0, 3 * 700)
    assert check(kernels, query, database, 5, capacity=699)[0] == 3
    check(kernels, query, database, 5, filtered=0)


def test_one_code_more_or_less(kernels):
    query, database = codes_of("equal", 3, 64, 8)
    database[7] = ~query[0]  # the last of all, which the scan does not see
    assert check(kernels, query, database, 63)[0] == 0
    assert check(kernels, query, database, 64)[0] == 3
    database[:] = ~query[0]
    database[[0, *range(40, 44)]] = query[0]
    database[0, 0] ^= 1  # the next after 4
    assert check(kernels, query, database, 4, sample=32) == (0, 3 * 5)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("width", "mma"), [(8, True), (64, True), (8, False)])
def test_few_hits_are_recorded(kernels, width, mma, machine):
    """The first limit alone would let 5 / 256 of the rows through."""
    n = 30 * chunk_rows(width, mma)
    query, database = codes_of("random", 2, n, width)
    again, hits = check(kernels, query, database, 5, mma=mma, machine=machine)
    assert again == 0
    assert hits < 2 * n * 5 / 256 / 3


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("width", "mma"), [(8, True), (1, True), (8, False), (40, False)])
def test_equal_codes_beyond_the_head_come_too_late(kernels, width, mma, machine):
    query, database = codes_of("equal", 3, 7000, width)
    how = {"machine": machine, "mma": mma, "sample": 2048}
    assert check(kernels, query, database, 7, head=1024, **how) <= (0, 3 * 1024)


@pytest.mark.parametrize(("q", "width", "mma"), [(192, 128, True), (64, 8, False)])
def test_equal_codes_are_few_for_every_block_of_queries(kernels, q, width, mma):
    """Without a head, too; the first chunks of later queries come after all of those before."""
    rows = chunk_rows(width, mma)
    query, database = codes_of("equal", q, 8 * rows, width)
    _, hits = check(kernels, query, database, 7, mma=mma)
    assert hits <= q * 2 * rows


@pytest.mark.parametrize(("n", "rows", "head"), [(4500, 2700, 1024), (1000, 999, 0), (20, 20, 0)])
@pytest.mark.parametrize("width", [1, 8, 40, 200])
def test_first_limits(kernels, width, n, rows, head):
    """The k-th nearest of the sample's rows: the head without a gap, then evenly spread runs."""
    for kind, mma, offset, machine in zip(
        ("random", "repeated", "equal"), (True, False, True), (0, 1, 2), MACHINES[1:], strict=True
    ):
        query, database = codes_of(kind, 3, n, width)
        database = at(database, offset)
        starts = chunk_starts(n, chunk_rows(width, mma), machine[2])
        behind = max(rows // 32 - head // 32, 1)
        runs = head + np.arange(behind) * max((n - head) // behind, 32)
        taken = np.concatenate([np.arange(head), (runs[:, None] + np.arange(32)).ravel()])
        taken = taken[taken < n]
        distances = all_distances(query, database)
        for allowed in (None, np.arange(n) % 3 > 0):
            counts = np.ones(n, bool) if allowed is None else allowed
            nearest = np.sort(distances[:, taken[counts[taken]]], axis=1)
            begin = np.sort(distances[:, :head][:, counts[:head]], axis=1)
            for k in (1, 50, begin.shape[1] or 5, begin.shape[1] + 1, n + 1):
                found = np.full((2, 3), UNTOUCHED)
                kernels.call(
                    "first_limits", query, database, bits_of(allowed), 3, n, width, k, rows, head,
                    *found, **machine_of(machine, mma),
                )  # fmt: skip
                far = np.full(3, 8 * width)
                expected = nearest[:, k - 1] if k <= nearest.shape[1] else far
                np.testing.assert_array_equal(found[0], expected)
                early = k <= begin.shape[1] and begin[:, k - 1] <= expected
                chunk = starts.index(head) if head else 0
                np.testing.assert_array_equal(found[1], np.where(early, chunk, 2**32 - 1) * far**0)


@pytest.mark.parametrize("mma", [True, False])
@pytest.mark.parametrize("width", [1, 8, 16, 32, 64, 128, 129, 512, 513])
@pytest.mark.parametrize("k", [1, 100, 1000, 16384, 16385])
def test_plans(kernels, width, k, mma):
    out = np.empty(12, np.int64)
    for q in (1, 16, 500, 4096, 100_000):
        for n in (0, 1, 8191, 8192, 8 * k - 1, 8 * k, 10**6 + 1, 2**32 - 1):
            kernels.call("plan", q, n, width, k, out, **machine_of((0, 1, 132), mma))
            (
                filtered, tensor, batch, head, runs, stride, chunk, small, chunks, capacity, size,
                workspace,
            ) = out.tolist()  # fmt: skip
            assert filtered == (width <= 512 and k <= 16384 and n >= max(8192, 8 * k))
            assert workspace < 1 << 30
            if not filtered:
                continue
            assert tensor == (mma and width <= 128)
            rows, large = chunk_rows(width, mma), chunks - small
            little = max(rows // 8, 32)
            assert small * little + (large - 1) * rows < n <= small * little + large * rows
            assert small * little <= n // 4
            # The head is whole chunks.
            assert 32 * head == min(chunk, small) * little + max(chunk - small, 0) * rows
            assert head < runs
            assert stride >= 32
            assert 32 * head + (runs - head - 1) * stride + 32 <= n
            assert min(64 * k, n // 8, 1 << 17) - 32 <= 32 * runs <= n // 8 + 64
            assert min(n, 2 * k) <= capacity <= n
            assert size >= k > size // 2
            assert batch == q or (batch % 16 == 0 and 16 <= batch < q)
            assert chunks * -(-batch // (128 if tensor else 32)) < 2**32 - 2**16  # tickets


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**30), st.booleans())
def test_anything(kernels, data, seed, mma):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    width = draw(1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 32, 33, 64, 65, 128, 129)
    q = draw(1, 2, 5, 16, 17, 33, 65)
    most = min(2200, 200_000 // (q * max(width // 8, 1)))
    n = data.draw(st.integers(1, most))
    k = data.draw(st.integers(1, 20) | st.sampled_from([max(n - 1, 1), n, n + 1, 129]))
    query, database = codes_of(draw(*CODES), q, n, width, seed)
    query, database = (at(codes, draw(0, 1, 4, 8)) for codes in (query, database))
    allowed = masks(n, seed)[data.draw(st.integers(0, 4))]
    check(
        kernels, query, database, k, allowed, sample=draw(32, 100, 256, n), head=draw(0, 1024),
        capacity=draw(0, 0, k, 2 * k + 5), batch=draw(0, 0, 16), mma=mma,
        machine=(seed % 97, draw(1, 2, 5), draw(1, 3, 7)),
    )  # fmt: skip
