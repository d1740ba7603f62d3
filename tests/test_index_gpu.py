"""Indexes on a GPU and on several: the CPU's results, nothing waited for, graphs and streams."""

import numpy as np
import pytest
import torch
from hamming_oracle import assert_same, random_codes
from index_examples import index_of

import hashfast
from hashfast.index import streaming

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("error"),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 8 * 16)


def on_gpu(n=3000, bits=64, **kwargs):
    """An index of clustered codes on the CPU, queries there and on the GPU."""
    index = index_of(random_codes(n, -(-bits // 8), values=4), bits, **kwargs)
    query = random_codes(20, index.code_size, 1, values=4)
    return index, query, torch.from_numpy(query).cuda()


def same_on_gpu(there, index, query, on_device, allowed=None):
    for k in (1, 10, 300):
        expected = index.search(query, k, allowed)
        assert_same(there.search(query, k, allowed), expected)
        found = there.search(on_device, k, allowed)
        assert found[0].is_cuda
        assert_same([part.cpu().numpy() for part in found], expected)
    assert_same(there.range_search(query, 12, allowed), index.range_search(query, 12, allowed))


GPUS = [f"cuda:{i}" for i in range(torch.cuda.device_count())]


@pytest.mark.parametrize("ids", [None, np.arange(3000)[::-1] * 5])
@pytest.mark.parametrize(
    ("device", "memory"),
    [
        ("cuda", None),
        ("cuda", 10**6),
        ("cuda", 8 * 1000),
        ("cuda", 0),
        (GPUS, None),
        (GPUS, 8 * 100),
        (["cuda:0"] * 3, None),
        (["cuda:0", "cpu"], 8 * 200),
    ],
)
def test_results_on_a_gpu(device, memory, ids):
    index, query, on_device = on_gpu(ids=ids)
    there = index.to(device, memory=memory)
    same_on_gpu(there, index, query, on_device)
    same_on_gpu(there, index, query, on_device, index.ids[::7])
    back = there.to("cpu")
    np.testing.assert_array_equal(back.codes, index.codes)
    np.testing.assert_array_equal(back.ids, index.ids)
    for changed in (index, there):
        changed.remove_ids(index.ids[5:50])
        more = random_codes(100, seed=3, values=4)
        changed.add(more) if ids is None else changed.add_with_ids(more, range(100))
    same_on_gpu(there, index, query, on_device)


@pytest.mark.parametrize("bits", [64, 61])
@pytest.mark.parametrize("ids", [None, range(3000)])
@pytest.mark.parametrize("memory", [None, 10**6])
def test_nothing_waits_for_the_gpu(bits, ids, memory):
    index, query, on_device = on_gpu(bits=64, ids=ids)
    if bits == 61:
        codes, query = (c & np.array([255] * 7 + [0xF8], np.uint8) for c in (index.codes, query))
        index, on_device = index_of(codes, 61, ids=ids), torch.from_numpy(query).cuda()
    mask = np.random.default_rng(0).random(3000) < 0.3
    bitmap = torch.from_numpy(hashfast.pack(mask)).cuda()
    there = index.to("cuda", memory=memory)
    expected = index.search(query, 10, mask), index.search(query, 10)
    there.search(on_device, 10)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = there.search(on_device, 10, bitmap), there.search(on_device, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, expected, strict=True):
        assert_same([part.cpu().numpy() for part in one], other)


def test_search_in_a_graph():
    index, query, on_device = on_gpu(ids=range(3000))
    bitmap = torch.from_numpy(hashfast.pack(np.ones(3000, bool))).cuda()
    there, wanted = index.to("cuda"), on_device.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        there.search(wanted, 10, bitmap)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        distances, ids = there.search(wanted, 10, bitmap)
    for shift in range(3):
        mask = np.random.default_rng(shift).random(3000) < 0.5
        wanted.copy_(on_device.roll(shift, 0))
        bitmap.copy_(torch.from_numpy(hashfast.pack(mask)))
        graph.replay()
        expected = index.search(np.roll(query, shift, axis=0), 10, mask)
        assert_same((distances.cpu().numpy(), ids.cpu().numpy()), expected)


@pytest.mark.parametrize("memory", [None, 8 * 1000])
def test_the_current_stream_is_respected(memory):
    index, query, on_device = on_gpu()
    there = index.to("cuda", memory=memory)
    late, side = torch.zeros_like(on_device), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # some 50 ms before the queries are there
        late.copy_(on_device)
        distances, ids = there.search(late, 10)
    side.synchronize()
    expected = index.search(query, 10)
    assert_same((distances.cpu().numpy(), ids.cpu().numpy()), expected)
