"""Blocks of codes on their way to a device: their order, and who waits for whom.

Streams and events of a GPU are played on a CPU: copies are made when the events that are waited for
ask for them, not before, and every use of a buffer must be ordered after the last one by waits.
"""

from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import torch
from hamming_oracle import random_codes
from index_examples import index_of

from hashfast.index import streaming

CPU = torch.device("cpu")
BEFORE = 3  # what the stream that searches did before


class Line:
    """A stream, or the host: things done one after the other, and how far others are known to be.

    What a stream does late lies in `waiting`: (number, thing to do).
    """

    def __init__(self, device=None):
        self.done, self.known, self.waiting = 0, {}, []

    def step(self):
        self.done += 1
        return self.done

    def knows(self, line, moment):
        return line is self or self.known.get(line, 0) >= moment

    def learn(self, line, moment, known):
        for other, at in ((line, moment), *known.items()):
            self.known[other] = max(self.known.get(other, 0), at)

    def wait_event(self, event):
        if event.line is not None:
            self.learn(event.line, event.moment, event.known)

    def wait_stream(self, line):
        self.learn(line, line.done, line.known)
        for _, act in line.waiting:
            act()
        line.waiting.clear()


class Searching(Line):
    """The stream that searches: what it waits for is done before it goes on."""

    def wait_event(self, event):
        super().wait_event(event)
        event.happen()


class Event:
    def __init__(self):
        self.line, self.moment, self.known = None, 0, {}

    def record(self, line):
        self.line, self.moment, self.known = line, line.step(), dict(line.known)

    def happen(self):
        if self.line is not None:
            due = [act for moment, act in self.line.waiting if moment <= self.moment]
            self.line.waiting = [late for late in self.line.waiting if late[0] > self.moment]
            for act in due:
                act()

    def synchronize(self):
        if self.line is not None:
            host.learn(self.line, self.moment, self.known)
        self.happen()


class Cuda:
    """What streaming takes of torch.cuda."""

    Event = Event

    def __init__(self):
        self.searching, self.copying, self.current = Searching(), None, None
        self.searching.done = BEFORE

    def current_stream(self, device):
        return self.searching

    def Stream(self, device):
        self.copying = Line()
        return self.copying

    @contextmanager
    def stream(self, line):
        self.current = line
        yield
        self.current = None


class Watched(streaming._Buffer):
    """A buffer that notices when it is used before another has done with it."""

    made: ClassVar = []

    def __init__(self, *args):
        super().__init__(*args)
        self.made.append(self)
        self.staged = self.sent = self.read = (host, 0)

    def stage(self, block):
        assert host.knows(*self.sent), "what is staged here is still being copied"
        super().stage(block)
        self.staged = host, host.step()

    def copy(self, n):
        line = streaming.cuda.current
        assert line.knows(*self.read), "the block that was here is still being searched"
        assert line.knows(streaming.cuda.searching, BEFORE), "the memory is still in use"
        self.sent = line, line.step()
        line.waiting.append((line.done, lambda: super(Watched, self).copy(n)))

    def search(self):
        line = streaming.cuda.searching
        assert line.knows(*self.sent), "the block is not there yet"
        self.read = line, line.step()


host = Line()


@pytest.fixture
def played(monkeypatch):
    """The code for GPUs, on the CPU."""
    monkeypatch.setattr(streaming, "cuda", Cuda())
    monkeypatch.setattr(streaming, "_Buffer", Watched)
    monkeypatch.setattr(
        streaming, "_pinned", lambda *shape: torch.empty(shape, dtype=torch.uint8).fill_(0x55)
    )
    Watched.made.clear()
    return streaming.cuda


@pytest.mark.parametrize("n", [1, 8, 16, 17, 47, 48, 100])
def test_blocks_come_whole_and_in_order_and_never_too_early(played, n):
    rows = torch.from_numpy(random_codes(n))
    parts, starts = [], []
    for start, block in streaming._overlapped(rows, CPU, 16):
        (buffer,) = (one for one in Watched.made if one.there.data_ptr() == block.data_ptr())
        buffer.search()
        starts.append(start)
        parts.append(block.clone())
    assert starts == list(range(0, n, 16))
    np.testing.assert_array_equal(torch.cat(parts), rows)
    assert len(Watched.made) == 2
    for buffer in Watched.made:
        assert played.searching.knows(*buffer.sent)


def test_the_next_block_is_on_its_way_while_one_is_searched(played):
    sent = []
    for start, _ in streaming._overlapped(torch.from_numpy(random_codes(64)), CPU, 16):
        sent.append((start, sum(buffer.sent[1] > 0 for buffer in Watched.made)))
        assert len(played.copying.waiting) == (start < 48)
    assert sent == [(0, 2), (16, 2), (32, 2), (48, 2)]


def test_a_search_that_stops_early_leaves_no_copy_behind(played):
    blocks = streaming._overlapped(torch.from_numpy(random_codes(64)), CPU, 16)
    next(blocks)
    blocks.close()
    assert not played.copying.waiting
    for buffer in Watched.made:
        assert played.searching.knows(*buffer.sent)


def test_an_index_finds_the_same_through_buffers(played, monkeypatch):
    codes, query = random_codes(300), random_codes(5, seed=1)
    index = index_of(codes, ids=range(1000, 1300))
    there = index.to(["cpu", "cpu"], memory=8 * 30)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 8 * 24)
    monkeypatch.setattr(
        streaming, "stream", lambda rows, device: streaming._overlapped(rows, device, 24)
    )
    monkeypatch.setattr("hashfast.index.placed.stream", streaming.stream)
    for allowed in (None, range(1000, 1300, 3)):
        for k in (1, 40):
            for one, other in zip(
                there.search(query, k, allowed), index.search(query, k, allowed), strict=True
            ):
                np.testing.assert_array_equal(one, other)
        for one, other in zip(
            there.range_search(query, 28, allowed),
            index.range_search(query, 28, allowed),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    assert Watched.made


@pytest.mark.parametrize(("size", "rows"), [(1, 64), (8, 8), (7, 8), (200, 8)])
def test_blocks_begin_at_a_byte_of_a_bitmap(monkeypatch, size, rows):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 64)
    codes = torch.from_numpy(random_codes(100, size))
    blocks = list(streaming.stream(codes, CPU))
    assert [start for start, _ in blocks] == list(range(0, 100, rows))
    np.testing.assert_array_equal(torch.cat([block for _, block in blocks]), codes)
