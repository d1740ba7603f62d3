"""Hamming operations on a GPU, bit for bit against those on the CPU, at sizes that need speed.

The examples of the generic tests are small: a search by scan starts at 8192 rows. Without a GPU the
references take its part in small searches, so that the kernels that judge it here are judged too.
"""

import itertools
import os

import pytest
import torch
from test_ops import as_tuple

from hashfast import _ext
from hashfast.ops import OPS, pack

NAMES = sorted(name for name in OPS if name.startswith("hamming"))
FILTERED = ["hamming_range", "hamming_range_count", "hamming_topk"]
UNSYNCHRONISED = ["hamming_histogram", "hamming_range_count", "hamming_topk"]
# Without the libraries a judge takes very long.
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and not _ext.MISSING else [])
WIDTHS = [1, 2, 4, 5, 8, 16, 32, 64, 100, 128, 256, 512, 600]
MOST_BYTES = 1 << 26  # of a database
MOST_PAIRS = 1 << 23  # of operations that may return every one

on_a_gpu = pytest.mark.parametrize(
    "device",
    [pytest.param("cuda", marks=pytest.mark.skipif("cuda" not in DEVICES, reason="no GPU"))],
)
anywhere = pytest.mark.parametrize("device", DEVICES)
by_name = pytest.mark.parametrize("name", NAMES)

pytestmark = pytest.mark.filterwarnings("ignore:.*Deterministic:UserWarning")


@pytest.fixture(autouse=True)
def every_thread():
    """The judge is the slower one."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


# ---- codes -------------------------------------------------------------------------------------


def draw(high, *shape, device):
    return torch.randint(high, shape, dtype=torch.uint8, device=device)


def taken(rows, n):
    """Rows drawn with replacement."""
    return rows[torch.randint(len(rows), (n,), device=rows.device)]


def equal(n, width, device):
    return draw(256, 1, width, device=device).repeat(n, 1)


def repeated(n, width, device):
    """Few of many distinct codes make most of the rows."""
    distinct = draw(256, n // 8 + 1, width, device=device)
    return distinct[(len(distinct) * torch.rand(n, device=device) ** 3).long()]


def clustered(n, width, device):
    flips = 1 << torch.randint(40, (n, width), device=device)  # most of them flip nothing
    return taken(draw(256, 10, width, device=device), n) ^ flips.to(torch.uint8)


def by_class(n, width, device):
    rows = equal(n, width, device) ^ torch.arange(n, device=device).mul(10).div(n).byte()[:, None]
    return rows ^ (1 << torch.randint(40, (n, width), device=device)).to(torch.uint8)


def a_bit_apart(n, width, device):
    rows, place = equal(n, width, device), torch.randint(12 * width, (n, 1), device=device)
    flips = (1 << place % 8).to(torch.uint8) * (place < 8 * width)
    return rows ^ torch.zeros_like(rows).scatter_(1, place // 8 % width, flips)


def nearer(n, width, device):
    """To the code of zeros, every row is nearer than those before it."""
    ones = torch.linspace(8 * width, 0, n, device=device).int()[:, None]
    held = (ones - 8 * torch.arange(width, device=device, dtype=torch.int32)).clamp(0, 8)
    return (255 << (8 - held)).to(torch.uint8)


KINDS = {
    "random": lambda n, width, device: draw(256, n, width, device=device),
    "clustered": clustered,
    "by class": by_class,
    "repeated": repeated,
    "equal": equal,
    "opposite": lambda n, width, device: 255 * draw(2, n, 1, device=device).repeat(1, width),
    "all far": equal,
    "a bit apart": a_bit_apart,
    "nearer": nearer,
}


def codes_of(kind, q, n, width, device):
    """Queries that are rows of the database, every third another code; or their complements."""
    database = KINDS[kind](n, width, device)
    query = taken(database, q)
    if kind == "all far":
        return ~query, database
    query[1::3] = draw(256, *query[1::3].shape, device=device)
    if kind == "nearer":
        query[2::3] = 0
    return query, database


def masks(n, k, device):
    """Half of the rows, few, fewer than k, the last one, none."""
    drawn = torch.rand(n, device=device)
    last = torch.arange(n, device=device) == n - 1
    return [drawn < 0.5, drawn < 4 * k / n, drawn < 0.5 * k / n, last, drawn < 0]


# ---- operations --------------------------------------------------------------------------------


def on(device, arguments):
    return [x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments]


def arguments(name, query, database, k, turn=0, allowed=None):
    """Of an operation. Labels are ids, several classes a row or, for a histogram, none, in turn."""
    device, (n, width) = query.device, database.shape
    if name == "hamming_topk":
        return query, database, k, allowed
    radius = 4 * width - int((8 * width) ** 0.5)  # of random codes some in a hundred are so near
    if name.startswith("hamming_range"):
        given = query, database, radius, allowed
        if name == "hamming_range_count":
            return given
        counts = OPS["hamming_range_count"](*on("cpu", given))
        limits = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return query, database, radius, limits.to(device), allowed
    labels = [torch.randint(-1, 9, rows.shape[:1], device=device) for rows in (query, database)]
    if turn % 3 == 1:
        labels = [
            (1 << torch.randint(12, (len(rows), 3), device=device)).to(torch.uint8)
            for rows in (query, database)
        ]
    if name == "hamming_hits":
        own = torch.randint(-1, n, query.shape[:1], device=device)
        return query, database, k, *labels, own if turn % 2 else None
    return (query, database, *labels) if turn % 3 else (query, database, None, None)


def assert_right(name, given, made):
    """Bit for bit what the CPU finds."""
    expected = as_tuple(OPS[name](*on("cpu", given)))
    for ours, truth in zip(as_tuple(made), expected, strict=True):
        assert (ours.dtype, ours.shape) == (truth.dtype, truth.shape)
        assert torch.equal(ours.cpu(), truth)


def check(name, *given):
    search = OPS[name] if given[0].device.type == "cuda" else OPS[name].reference
    assert_right(name, given, search(*given))


def sized(name, device, q, n, k, width):
    """The sizes, less where the memory, the judge or the references would take long."""
    if device == "cpu":
        return min(q, 4), min(n, 150), min(k, 40)
    n = min(n, MOST_BYTES // width)
    if name in ("hamming_hits", "hamming_range"):
        q = min(q, MOST_PAIRS // n)
    return q, n, min(k, n)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernels_in_cuda_serve():
    assert not _ext.MISSING
    assert {OPS[name].backend("cuda") for name in NAMES} == {"CUDA C++"}


# Queries, rows and k.
SHAPES = [
    (1, 2_000_000, 10),
    (1, 8_192, 1),
    (16, 300_001, 100),
    (17, 131_072, 1_000),
    (64, 100_003, 1),
    (512, 65_537, 10),
    (513, 8_192, 1_000),
    (2_000, 30_000, 1_000),  # in two batches
    (2_000, 20_011, 100),
    (5, 40_000, 5_000),
    (3, 131_077, 16_384),
    (2, 131_077, 20_000),  # more than a scan looks for
    (9, 8_191, 10),  # and fewer rows than it looks at
]


@anywhere
@pytest.mark.parametrize("width", WIDTHS)
@by_name
def test_widths_and_shapes(name, width, device, poisoned):
    kinds = itertools.islice(itertools.cycle(KINDS), WIDTHS.index(width), None)
    for turn, (shape, kind) in enumerate(zip(SHAPES, kinds, strict=False)):
        q, n, k = sized(name, device, *shape, width)
        check(name, *arguments(name, *codes_of(kind, q, n, width, device), k, turn))


@anywhere
@pytest.mark.parametrize("kind", KINDS)
@by_name
def test_codes_of_all_kinds(name, kind, device, poisoned):
    """By tensor cores and without, few queries and many."""
    for width, shape in itertools.product((8, 64, 200), ((40, 50_000, 100), (3, 90_000, 3_000))):
        q, n, k = sized(name, device, *shape, width)
        check(name, *arguments(name, *codes_of(kind, q, n, width, device), k, turn=width % 3))


@anywhere
def test_many_pairs_at_once(device):
    q, n, k = (2_000, 2_000_000, 100) if device == "cuda" else (9, 300, 5)
    check("hamming_topk", *codes_of("clustered", q, n, 8, device), k, None)


@anywhere
@pytest.mark.parametrize("width", [1, 5, 8, 16, 64, 200])
@pytest.mark.parametrize("name", FILTERED)
def test_rows_left_out(name, width, device, poisoned):
    for kind, shape in (("random", (20, 70_001, 50)), ("repeated", (2, 40_005, 4_000))):
        q, n, k = sized(name, device, *shape, width)
        query, database = codes_of(kind, q, n, width, device)
        for mask in masks(n, k, device):
            check(name, *arguments(name, query, database, k, allowed=pack(mask)))


@anywhere
@pytest.mark.parametrize("width", [1, 4, 5, 8, 16, 32, 64, 128, 132])
@by_name
def test_views(name, width, device, poisoned):
    """Rows at any address, and rows that lie apart."""
    q, n, k = sized(name, device, 18, 30_000, 30, width)
    query, database = codes_of("clustered", q + 1, n + 1, width, device)
    apart = torch.stack([database, ~database], dim=2)
    odd = torch.empty(database.numel() + 1, dtype=torch.uint8, device=device)[1:]
    for rows in (
        database[1:], database.repeat_interleave(2, 0)[::2], apart[:, :, 0],
        odd.copy_(database.flatten()).view(n + 1, width),
    ):  # fmt: skip
        check(name, *arguments(name, query[1:], rows, k, turn=1))


@anywhere
def test_more_neighbours_than_rows(device, poisoned):
    q, most = (9, 9_000) if device == "cuda" else (2, 90)
    for n in (0, 1, most // 30, most - 1):
        query, database = codes_of("repeated", q, n, 8, device) if n else (
            draw(256, q, 8, device=device), draw(256, 0, 8, device=device)
        )  # fmt: skip
        check("hamming_topk", query, database, most, None)
        check("hamming_topk", query[:0], database, 3, None)


@on_a_gpu
@pytest.mark.parametrize(("width", "chunk", "small"), [(8, 1024, 128), (64, 128, 32)])
def test_rows_that_every_processor_takes(width, chunk, small, device, poisoned):
    """Of small chunks, each of these processors takes at most 16, from a quarter of the rows."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    enough = 4 * 16 * processors * small
    for n in (enough - 1, enough, enough + 1, enough + chunk, enough + 4 * chunk + 5):
        check("hamming_topk", *codes_of("clustered", 5, n, width, device), 20, None)


# ---- streams, graphs, time ---------------------------------------------------------------------

# A scan on tensor cores, one without, and none.
WAYS = [(33, 70_000, 100, 8), (3, 20_000, 10, 200), (5, 5_000, 4_999, 16)]


@on_a_gpu
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", UNSYNCHRONISED)
def test_replayed_in_a_graph(name, way, device, poisoned):
    q, n, k, width = way
    allowed = pack(torch.ones(n, device=device)) if name in FILTERED else None
    given = arguments(name, *codes_of("random", q, n, width, device), k, 1, allowed)
    OPS[name](*given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = OPS[name](*given)
    for kind in ("random", "all far", "clustered", "clustered"):
        for ours, new in zip(given, codes_of(kind, q, n, width, device), strict=False):
            ours.copy_(new)
        graph.replay()
        assert_right(name, given, made)
        if allowed is not None:
            allowed.copy_(pack(torch.rand(n, device=device) < 0.1))


@on_a_gpu
@by_name
def test_on_another_stream(name, device):
    """Which waits for its codes longer than the usual one."""
    for q, n, k, width in WAYS:
        given = list(arguments(name, *codes_of("clustered", q, n, width, device), k, turn=1))
        later, given[1] = given[1], torch.zeros_like(given[1])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(30_000_000)
            given[1].copy_(later)
            made = OPS[name](*given)
        stream.synchronize()
        assert_right(name, given, made)


@on_a_gpu
@pytest.mark.parametrize("name", UNSYNCHRONISED)
def test_nothing_waits_for_the_gpu(name, device):
    for q, n, k, width in WAYS:
        given = arguments(name, *codes_of("clustered", q, n, width, device), k, turn=1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            made = OPS[name](*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert_right(name, given, made)


@on_a_gpu
@pytest.mark.parametrize("kind", ["clustered", "repeated"])
@by_name
def test_every_run_finds_the_same(name, kind, device, poisoned):
    for q, n, k, width in WAYS:
        given = arguments(name, *codes_of(kind, q, n, width, device), k, turn=1)
        first = as_tuple(OPS[name](*given))
        for _ in range(20):
            for ours, before in zip(as_tuple(OPS[name](*given)), first, strict=True):
                assert torch.equal(ours, before)
