"""Triton Hamming search without a GPU: equal to the references, and compiled ahead of time."""

import importlib

import pytest
import torch
from test_ops import as_tuple, cases
from triton_runs import assert_fits, built, every_target, interpret, interpreted, with_triton

from hashfast.ops import OPS

NAMES = sorted(name for name in OPS if name.startswith("hamming"))

pytestmark = with_triton

EXAMPLES = """
for name in {names!r}:
    for args in test_ops.cases(name)[::5]:  # the interpreter runs programs one by one
        check(name, args)
"""
SETS = """
from hashfast.kernels import hamming, hamming_hits, hamming_scan
from hashfast.ops import pack
generator = torch.Generator().manual_seed(0)
def draw(low, high, *shape, dtype=torch.int64):
    return torch.randint(low, high, shape, generator=generator, dtype=dtype)
def codes(*shape):
    return draw(0, 256, *shape, dtype=torch.uint8)
def sets(q, n, width):
    query, database = codes(q, width), codes(n, width)
    yield query, database
    flips = (1 << draw(0, 40, n, width)).to(torch.uint8)  # most flip nothing: duplicates
    yield query, query[draw(0, max(q // 2, 1), n)] ^ flips
    yield query[:1].expand(q, -1), query[:1].expand(n, -1)  # all equal
    yield query[:1].expand(q, -1), ~query[:1].expand(n, -1)  # all as far as can be
    yield query, torch.cat([~query[:1].expand(n - 3, -1), query[-1:], query[:1], query[-1:]])
def cut(programs, pairs, sample, workspace):
    hamming_scan.PROGRAMS, hamming_scan.PAIRS = programs, pairs
    hamming.SAMPLE, hamming.SAMPLED_ROWS = sample, 40
    hamming.WORKSPACE = hamming_hits.WORKSPACE = workspace
"""
# Several segments, and blocks in each; one of each; a block a segment; queries in parts.
CUTS = """
for cuts, q, n, width in (
    ((4, 128, 2, 1 << 20), 10, 91, 2),
    ((1, 2048, 2, 1 << 20), 11, 135, 3),
    ((99, 128, 1, 1 << 20), 1, 201, 8),
    ((2, 32, 2, 1), 2, 65, 1),
):
    cut(*cuts)
    some = pack(draw(0, 3, n) == 0)
"""
TOPK = """
    for query, database in sets(q, n, width):
        for k, allowed in ((1, None), (n // 4, None), (n // 9, some)):
            check("hamming_topk", (query, database, k, allowed))
    check("hamming_topk", (query, database, n + 4, None))
    check("hamming_topk", (query, database, 2, torch.zeros_like(some)))
"""
RANGES = """
    def search(radius, allowed):
        check("hamming_range_count", (query, database, radius, allowed))
        counts = OPS["hamming_range_count"](query, database, radius, allowed)
        limits = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        check("hamming_range", (query, database, radius, limits, allowed))
    for query, database in sets(q, n, width):
        search(4 * width - 1, None)
        search(4 * width, some)
    search(0, None)
    search(8 * width, ~some)
    search(2**31 - 1, None)
    search(-(2**31), None)
"""
LABELS = """
    several = (1, 3, 8)[q % 3]
    ids = draw(-1, 3, q), draw(-1, 3, n)
    multi = [(draw(0, 9, rows, several) == 0) << draw(0, 8, rows, several) for rows in (q, n)]
    multi = [x.to(torch.uint8) for x in multi]
    own = draw(-1, n, q)
    for i, (query, database) in enumerate(sets(q, n, width)):
        labels = multi if i % 2 else ids
        check("hamming_histogram", (query, database, *labels))
        check("hamming_hits", (query, database, n // 7, *labels, own))
    check("hamming_histogram", (query, database, None, None))
    check("hamming_hits", (query, database, n, *ids, None))
    check("hamming_hits", (query, database, n + 9, *multi, own))
"""
# Words of every size: of rows that are contiguous but not aligned, of strided ones, of labels.
WORDS = """
import numpy as np
hamming_scan.PAIRS = 512
def word(*rows):
    return hamming_scan.as_words(*rows)[0].element_size()
for width, size in ((64, 8), (2, 2), (12, 4), (5, 1), (33, 1)):
    query, database = codes(3, width), codes(30, width)
    assert word(query, database) == size
    shifted = codes(30 * width + 1)[1:].view(30, width)
    labels = codes(3, 7) & codes(3, 7) & codes(3, 7), codes(30, 7) & 17
    for rows in (shifted, codes(60, 2 * width)[::2, ::2]):
        assert word(query, rows) == (1 if rows is shifted else size)
        check("hamming_topk", (query, rows, 5, None))
        check("hamming_hits", (query, rows, 20, *labels, torch.tensor([-1, 0, 29])))
one = codes(1, 9)[:, :8]  # contiguous, with a stride of nine
assert word(one, codes(5, 8)) == 1
check("hamming_histogram", (one, codes(5, 8), None, None))
none = query[:, :0], database[:, :0]
check("hamming_histogram", (query, database, *none))
check("hamming_hits", (query, database, 9, *none, None))
zeros = torch.zeros(3, 8184, dtype=torch.uint8)
check("hamming_histogram", (zeros[:1], ~zeros, None, None))
"""
# Errors of the other versions.
LIMITS = """
query, database = codes(3, 2), codes(20, 2)
database[4] = query[1]
def refused(message, limits, rows=3, held=20, dtype=torch.int64):
    limits = torch.tensor(limits, dtype=dtype)
    try:
        hamming.range_fill(query[:rows], database[:held], 0, limits, None)
    except RuntimeError as error:
        assert str(error) == "hamming_range: " + message
    else:
        raise AssertionError(limits)
refused("limits must be int64 [4]", [0, 0, 1])
refused("limits must be int64 [4]", [0, 0, 1, 1], dtype=torch.int32)
for limits in ([1, 1, 2, 2], [-1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, -1]):
    refused("limits must start at 0 and not decrease", limits)
for limits in ([0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 2, 2]):
    refused("limits are not those of these codes and this radius", limits)
refused("limits must start at 0 and not decrease", [1], rows=0)
refused("limits are not those of these codes and this radius", [0, 0, 1, 1], held=0)
check("hamming_range", (query, database, 0, torch.tensor([0, 0, 1, 1]), None))
"""
# Offsets past 2**31: pages of zeros that nobody touches take no memory.
FAR = """
n = 2**31 + 8
database = torch.from_numpy(np.zeros((n, 1), np.uint8))
database[2**31 + 3] = 255
scan = hamming_scan.Scan(torch.zeros(1, 1, dtype=torch.uint8), database)
counts = scan.count(torch.zeros(1, 9, 3, dtype=torch.int64), 3, 2**30, step=2**30)
assert counts[0, [0, 8]].tolist() == [[512, 512, 7], [0, 0, 1]]
"""


@interpreted
def test_examples():
    interpret(EXAMPLES.format(names=NAMES))


@interpreted
@pytest.mark.parametrize("ops", [TOPK, RANGES, LABELS], ids=["topk", "ranges", "labels"])
def test_any_data_however_they_are_cut(ops):
    interpret(SETS + CUTS + ops)


@interpreted
def test_words_of_any_width_and_far_rows():
    interpret(SETS + WORDS + FAR)


@interpreted
def test_limits_that_do_not_fit_are_refused():
    interpret(SETS + LIMITS)


# The generic tests run CUDA C++, which takes precedence where it is built.
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def launcher(name):
    module, function = OPS[name].triton.split(":")
    return getattr(importlib.import_module(module), function)


@on_a_gpu
@pytest.mark.parametrize("name", NAMES)
def test_examples_on_a_gpu(name, poisoned):
    for args in cases(name, device="cuda"):
        made, expected = as_tuple(launcher(name)(*args)), as_tuple(OPS[name].reference(*args))
        for ours, reference in zip(made, expected, strict=True):
            assert ours.dtype == reference.dtype
            assert torch.equal(ours, reference)


@on_a_gpu
@pytest.mark.parametrize("values", [1, 2, 256])
def test_topk_of_many_rows_is_captured_in_a_graph(values):
    """With a sampled bound; nothing waits for the host."""
    query, database = (
        torch.randint(0, values, (n, 8), dtype=torch.uint8, device="cuda") for n in (9, 150_000)
    )
    topk = launcher("hamming_topk")
    topk(query, database, 100, None)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = topk(query, database, 100, None)
    query.copy_(database[-9:])
    graph.replay()
    for ours, reference in zip(
        made, OPS["hamming_topk"].reference(query, database, 100, None), strict=True
    ):
        assert torch.equal(ours, reference)


def arguments(kernel, given):
    """Types of a kernel's arguments and its constants: strings of `given` are types."""
    types = [given[name] if isinstance(given[name], str) else "constexpr" for name in given]
    constants = {name: value for name, value in given.items() if not isinstance(value, str)}
    assert tuple(given) == tuple(kernel.arg_names)
    return types, constants


def kernel_arguments(kernel, block, word="u64", words=1, **changes):
    """Those of the top-k, unless changed."""
    from hashfast.kernels import hamming_scan

    usual = {
        "allowed": "*u8",
        "left_out": None,
        "query_labels": None,
        "database_labels": None,
        "bounds": "*i32",
        "counts": "*i64",
        "cuts": "*i32",
        "starts": "*i64",
        "tie_starts": "*i64",
        "ends": "*i64",
        "keys": "*i64",
        "relevant": "*i8",
        "num_rows": "i64",
        "rows_each": "i64",
        "LABEL_WORDS": None,
        "BY_DISTANCE": True,
        "WORDS": words,
    }
    blocks = hamming_scan.configuration(block)
    assert blocks.pop("num_warps") == WARPS
    usual |= blocks | {"query": "*" + word, "database": "*" + word} | changes
    return arguments(kernel, {name: usual.get(name, "i32") for name in kernel.arg_names})


WARPS = 8
IDS = {"query_labels": "*i64", "database_labels": "*i64"}
MULTI_HOT = {"query_labels": "*u64", "database_labels": "*u64", "LABEL_WORDS": 2}
ALL = {"allowed": None, "bounds": None, "kept": 1}
HITS = {"left_out": "*i64", "allowed": None, "bounds": None, "counts": "*i32"}
RANK = {"left_out": "*i64", "starts": "*i32"}
# One query, one segment, one row: Triton makes ones part of the program.
ONES = {"num_queries": 1, "num_rows": 1, "rows_each": 1, "segments": 1, "kept": 1, "found": 1}
CONFIGURATIONS = {
    "count_kernel": [
        *((block, {}) for block in (1, 2, 4)),
        *((block, HITS) for block in (1, 4)),
        *((4, {"word": word, "words": words}) for word, words in (("u64", 8), ("u8", 5))),
        *((4, ALL | labels) for labels in ({}, IDS, MULTI_HOT)),
        (4, {"bins": 1, "BY_DISTANCE": False}),
        (1, ONES | {"bins": 1, "BY_DISTANCE": False}),
        (1, ONES),
    ],
    "place_kernel": [
        *((block, {}) for block in (1, 2, 4)),
        *((block, {"tie_starts": None, "ends": None}) for block in (1, 4)),
        (4, {"word": "u8", "words": 5, "allowed": None}),
        (1, ONES),
    ],
    "rank_kernel": [
        *((block, RANK | IDS) for block in (1, 2, 4)),
        (4, {"words": 8} | RANK | MULTI_HOT),
        (1, ONES | RANK | IDS),
    ],
}


def kernels():
    from hashfast.kernels import hamming, hamming_hits, hamming_scan

    return hamming_scan.count_kernel, hamming.place_kernel, hamming_hits.rank_kernel


@every_target
@pytest.mark.parametrize("index", range(3), ids=list(CONFIGURATIONS))
def test_compiles_ahead_of_time(index, capability, tmp_path):
    kernel = kernels()[index]
    for block, changes in CONFIGURATIONS[kernel.__name__]:
        types, constants = kernel_arguments(kernel, block, **changes)
        made = built(kernel, types, constants, ("cuda", capability, 32), WARPS)
        used = assert_fits(made, tmp_path)
        together = 3 if kernel.__name__ == "count_kernel" else 1
        assert used["REG"] * 32 * WARPS * together <= 65536


@pytest.mark.parametrize("word", ["u8", "u16", "u32", "u64"])
def test_bits_are_counted_by_one_instruction(word):
    kernel = kernels()[0]
    types, constants = kernel_arguments(kernel, 4, word)
    made = built(kernel, types, constants, ("cuda", 90, 32), WARPS)
    assert f"popc.b{64 if word == 'u64' else 32}" in made.asm["ptx"]


def test_compiles_for_amd():
    from triton.backends import backends

    if "amd" not in backends:
        pytest.skip("this triton has no backend for AMD")
    for kernel, changes in zip(kernels(), ({}, {}, RANK | IDS), strict=True):
        types, constants = kernel_arguments(kernel, 4, **changes)
        made = built(kernel, types, constants, ("hip", "gfx942", 64), WARPS)
        assert "v_bcnt_u32" in made.asm["amdgcn"]
        assert ".vgpr_spill_count: 0" in made.asm["amdgcn"]
