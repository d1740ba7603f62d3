"""The emulator of CUDA that kernels are tested on: known answers, and the errors it is to find."""

import numpy as np
import pytest
from emulated import library

SEEDS = [0, 1, 2, 3, 4]
POISON = 0xA5A5A5A5
MASKS = [0xFFFFFFFF, 0x000FFFFF, 0x80000001, 0x00010000]


@pytest.fixture(scope="module")
def cuda():
    return library("self_test.cpp")


def lanes_of(mask):
    return [lane for lane in range(32) if mask >> lane & 1]


@pytest.mark.parametrize("width", [32, 8, 2, 1])
@pytest.mark.parametrize("by", [0, 1, 5, 31])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_shuffles(cuda, dtype, by, width):
    values = np.random.default_rng(0).integers(-(2**40), 2**40, 32).astype(dtype)
    out = np.empty((5, 32), dtype)
    cuda.call(f"shuffles_{out.itemsize * 8}", values, by, width, out, seed=by)
    for lane in range(32):
        first = lane // width * width
        end = first + width
        up, down, other = lane - by, lane + by, lane ^ by
        sources = (
            first + by % width,
            up if up >= first else lane,
            down if down < end else lane,
            other if other < end else lane,  # of earlier lanes too, by CUDA's rules
            first + (3 * lane + by) % width,
        )
        assert out[:, lane].tolist() == values[list(sources)].tolist()


@pytest.mark.parametrize("mask", MASKS)
def test_votes(cuda, mask):
    for votes in (np.arange(32) % 3, np.zeros(32, int), np.full(32, -7)):
        out = np.zeros((3, 32), np.uint32)
        cuda.call("vote", votes.astype(np.int32), mask, out, seed=mask % 5)
        lanes = lanes_of(mask)
        ballot = sum(1 << lane for lane in lanes if votes[lane])
        expected = (ballot, ballot != 0, ballot == mask)
        for row, value in zip(out, expected, strict=True):
            assert row[lanes].tolist() == [value] * len(lanes)


@pytest.mark.parametrize("mask", MASKS)
def test_match_any(cuda, mask):
    values = np.random.default_rng(0).integers(0, 5, 32)
    for name, given in (("32", values.astype(np.int32)), ("64", values.astype(np.uint64) << 40)):
        out = np.zeros(32, np.uint32)
        cuda.call(f"matches_{name}", given, mask, out, seed=1)
        for lane in lanes_of(mask):
            assert out[lane] == sum(1 << i for i in lanes_of(mask) if values[i] == values[lane])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_reductions(cuda, dtype, mask):
    values = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32).view(dtype)
    out = np.zeros((4, 32), dtype)
    cuda.call(f"reduce_{'int' if dtype == np.int32 else 'unsigned'}", values, mask, out, seed=1)
    lanes = lanes_of(mask)
    given = values[lanes]
    joined = given.sum(dtype=dtype), given.min(), given.max(), np.bitwise_or.reduce(given)
    for row, value in zip(out, joined, strict=True):
        assert row[lanes].tolist() == [value] * len(lanes)


def test_bits(cuda):
    values = np.array([0, 1, 2**31, 2**32 - 1, 0b110100, 2**20], np.uint32)
    out = np.empty((6, len(values)), np.int32)
    cuda.call("count_bits", values, len(values), out)
    text = [f"{value:032b}" for value in values]
    assert out[0].tolist() == [bits.count("1") for bits in text]
    assert out[1].tolist() == [bits.count("1") + 1 for bits in text]
    assert out[2].tolist() == [32, 31, 0, 0, 26, 11]
    assert out[3].tolist() == [0, 1, 32, 1, 3, 21]
    assert out[4].view(np.uint32).tolist() == [int(bits[::-1], 2) for bits in text]
    assert out[5].tolist() == [0, 33, 64, 33, 35, 53]


@pytest.mark.parametrize("k", [128, 256])
def test_product_of_bits(cuda, k):
    """Every bit where the PTX ISA's tables of fragments put it (mma.m16n8k128, mma.m16n8k256)."""
    random = np.random.default_rng(k)
    a, b = random.integers(0, 2, (16, k)), random.integers(0, 2, (k, 8))
    c = random.integers(-1000, 1000, (16, 8))
    a_bits, b_bits = np.zeros((32, k // 2), np.uint8), np.zeros((32, k // 4), np.uint8)
    c_parts = np.zeros((32, 4), np.int32)
    places = []
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(k // 2):
            row = group if i < 32 or 64 <= i < 96 else group + 8
            a_bits[lane, i] = a[row, thread * 32 + i % 32 + (128 if i >= 64 else 0)]
        for i in range(k // 4):
            b_bits[lane, i] = b[thread * 32 + i % 32 + (128 if i >= 32 else 0), group]
        for i in range(4):
            places.append((group if i < 2 else group + 8, thread * 2 + i % 2))
            c_parts[lane, i] = c[places[-1]]
    registers = [np.packbits(x, axis=1, bitorder="little").view("<u4") for x in (a_bits, b_bits)]
    cuda.call(f"product_{k}", *registers, c_parts, seed=k)
    expected = a @ b + c
    assert c_parts.ravel().tolist() == [expected[place] for place in places]


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_count_those_that_are_left(cuda, seed):
    values = np.random.default_rng(0).integers(0, 2, 100).astype(np.int32)
    for alive in (100, 70, 32, 1):
        out = np.full((2, 100), -1, np.int32)
        cuda.call("count_threads", values, 100, alive, out, seed=seed)
        count = values[:alive].sum()
        assert (out[0, :alive] == count).all()
        assert (out[1, :alive] == (count > 0)).all()
        assert (out[:, alive:] == -1).all()


@pytest.mark.parametrize("right", [0, 1])
def test_some_order_shows_a_missing_barrier(cuda, right):
    expected = (np.arange(64) + (1 if right else -1)).clip(0, 63).tolist()
    for barrier in (1, 0):
        found = []
        for seed in SEEDS:
            out = np.empty(64, np.int32)
            cuda.call("read_neighbours", right, barrier, out, seed=seed)
            found.append(out.tolist() == expected)
        if barrier:
            assert all(found)
        else:
            assert found == [
                not right,
                False,
                False,
                False,
                False,
            ]  # in order, the left has written


def test_some_order_shows_a_value_overwritten_too_early(cuda):
    for barrier in (1, 0):
        found = []
        for seed in SEEDS:
            out = np.empty((4, 96), np.int32)
            cuda.call("read_rounds", barrier, out, seed=seed)
            found.append((out == np.arange(4)[:, None]).all())
        assert all(found) if barrier else not any(found[1:])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            0,
            r"never come:\n"
            r"  block 0, 0, 0, thread 0 at __syncthreads \(.*self_test.cpp:\d+\), and 62 more\n"
            r"  block 0, 0, 0, thread 33 at __ballot_sync of lanes 0xffffffff \(.*:\d+\)",
        ),
        (1, r"one barrier in different places: .* thread 0 at __syncthreads .* thread 40 at"),
        (2, r"thread 8 at __shfl_sync of lanes 0xff .*: a mask without the lane itself"),
        (3, "__shfl_down_sync: width must be a power of 2 up to 32, not 12"),
        (4, r"thread 0 at .* 0x3 .*, and 1 more\n.* thread 1 at .* 0xffffffff .*, and 61 more"),
        (5, "mma_b1 in a warp of fewer than 32 threads"),
    ],
)
def test_waiting_for_ever_is_an_error(cuda, how, message):
    out = np.zeros(64, np.int32)
    for _ in range(2):  # and the next launch starts afresh
        with pytest.raises(RuntimeError, match=message):
            cuda.call("get_stuck", how, out)


@pytest.mark.parametrize("resident", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_shared_memory_starts_as_poison_and_is_the_blocks_own(cuda, seed, resident):
    out = np.zeros((7, 4), np.uint32)
    cuda.call("read_unwritten", 7, 0, out, seed=seed, resident=resident)
    assert out.tolist() == [[POISON, POISON, block, 0] for block in range(7)]


def test_writing_past_dynamic_shared_memory_is_an_error(cuda):
    for past in (1, 4000):
        with pytest.raises(RuntimeError, match="wrote outside its 16 bytes of dynamic shared"):
            cuda.call("read_unwritten", 2, past, np.zeros((2, 4), np.uint32))


@pytest.mark.parametrize(("seed", "resident"), [(0, 1), (0, 2), (1, 1), (2, 3), (3, 2)])
def test_atomics(cuda, seed, resident):
    blocks, threads = 3, 40
    n = blocks * threads
    for name, dtype in (("int", np.int32), ("unsigned", np.uint32), ("64", np.uint64)):
        out = np.array([0, n, 0, 0, 0, 0, 0], dtype)
        cuda.call(f"atomics_{name}", blocks, threads, out, seed=seed, resident=resident)
        total = n * (n - 1) // 2
        assert out[[0, 1, 2, 3, 6]].tolist() == [total, 0, n - 1, 127, total]
        assert out[4] + out[5] == total
    out = np.zeros(1, np.float32)
    cuda.call("atomics_float", out, seed=seed, resident=resident)
    assert out == 60


@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("resident", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_in_flight_share_tickets(cuda, seed, resident, threads):
    blocks, n = 5, 40
    owner, sums, total = np.full(n, -1, np.int32), np.zeros(blocks, np.int32), np.zeros(1, np.int32)
    cuda.call(
        "take_tickets", blocks, threads, n, np.full(2, 9, np.int32), owner, sums, total,
        seed=seed, resident=resident,
    )  # fmt: skip
    tickets = np.arange(n)
    assert sums.tolist() == [threads * tickets[owner == block].sum() for block in range(blocks)]
    assert total == threads * tickets.sum()
    owners = set(owner.tolist())
    assert -1 not in owners
    assert len(owners) == 1 if resident == 1 else len(owners) >= 3


def test_others_run_between_an_atomic_operation_and_what_follows(cuda):
    def early(blocks, threads, **order):
        count = np.zeros(1, np.int32)
        written = np.zeros(blocks * threads, np.int32)
        cuda.call("take_places", blocks, threads, np.zeros(1, np.int32), written, count, **order)
        assert written.all()
        return int(count[0])

    assert early(1, 64) == early(64, 1) == early(64, 1, seed=1) == 0
    for seed in SEEDS[1:]:
        assert early(64, 1, seed=seed, resident=3) > 0
        assert early(1, 64, seed=seed, resident=1) > 0


def test_even_seeds_let_a_warp_run_far_ahead(cuda):
    leads = []
    for seed in SEEDS:
        most = np.zeros(1, np.int32)
        cuda.call("measure_lead", np.zeros(2, np.int32), most, seed=seed)
        leads.append(int(most[0]))
    assert leads[0] == 1
    assert 1 < min(leads[1], leads[3]) <= max(leads[1], leads[3]) < 40
    assert min(leads[2], leads[4]) >= 40


def test_every_block_has_its_turn(cuda):
    expected = [[x, y, z] for z in range(2) for y in range(4) for x in range(3)]
    orders = []
    for seed in SEEDS:
        out = np.empty((24, 3), np.uint32)
        cuda.call("visit", 3, 4, 2, 1, np.zeros(1, np.int32), out, seed=seed)
        orders.append(out.tolist())
    assert orders[0] == expected
    assert all(sorted(order) == sorted(expected) for order in orders)
    assert all(order != expected for order in orders[1:])
    for resident, blocks in ((1, [0, 0, 0, 1, 1, 1, 2, 2, 2]), (3, [0, 1, 2, 0, 1, 2, 0, 1, 2])):
        out = np.zeros((9, 3), np.uint32)
        cuda.call("visit", 3, 1, 1, 3, np.zeros(1, np.int32), out, resident=resident)
        assert out[:, 0].tolist() == blocks


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "message"),
    [
        (0, 32, 0, "1 .. .* by 65535 by 65535 blocks, not 0 by 1 by 1"),
        (1, 0, 0, "1 .. 1024 threads, not 0"),
        (1, 1025, 0, "1 .. 1024 threads, not 1025"),
        (1, 32, 48 * 1024 + 1, "at most 49152 bytes of shared memory, not 49153"),
    ],
)
def test_launches_that_cuda_refuses(cuda, blocks, threads, shared, message):
    with pytest.raises(RuntimeError, match=message):
        cuda.call("launch_nothing", blocks, threads, shared)


def test_properties_and_arguments(cuda):
    out = np.zeros(2, np.int64)
    cuda.call("properties", out)
    assert out.tolist() == [3, 1]
    cuda.call("properties", out, processors=7, multiplies_bits=False)
    assert out.tolist() == [7, 0]
    with pytest.raises(ValueError, match="at least 1 resident block and processor, not"):
        cuda.call("properties", out, resident=0)
    with pytest.raises(ValueError, match="must be contiguous"):
        cuda.call("properties", np.zeros((2, 2), np.int64)[:, 0])
