"""Codes of the host as blocks on a device: while one is searched, the next is on its way.

On a GPU there are two buffers. The host puts a block together in pinned memory, a stream of its own
copies it, and the stream that searches waits for it; events keep a buffer from being filled before
its last block has been copied, or searched. All orders are those of streams: nothing waits for the
whole GPU. The host's own memory is left unpinned, as it may be a mapped file.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, cuda

BLOCK_BYTES = 128 << 20  # of a GPU's memory two of them, and of pinned memory
ALIGNED = 8  # rows that share a byte of a bitmap


def stream(rows: Tensor, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Give the rows uint8 [n, width] of the host on a device, one block after the other.

    Each comes with the number of its first row, a multiple of 8. It may be read by what is issued
    to the current stream before the next one is asked for, and must not be changed.
    """
    step = max(1, BLOCK_BYTES // rows.shape[1] // ALIGNED) * ALIGNED
    if device.type == "cuda":
        yield from _overlapped(rows, device, step)
        return
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step].to(device)


def _overlapped(rows: Tensor, device: torch.device, step: int) -> Iterator[tuple[int, Tensor]]:
    searching, copying = cuda.current_stream(device), cuda.Stream(device)
    step = min(step, len(rows))
    buffers = [_Buffer(step, rows.shape[1], device) for _ in range(2)]
    copying.wait_stream(searching)  # which may still use what the allocator gave us
    try:
        buffers[0].send(rows[:step], copying)
        for i, start in enumerate(range(0, len(rows), step)):
            this, other = buffers[i % 2], buffers[1 - i % 2]
            following = rows[start + step : start + 2 * step]
            if len(following):
                other.send(following, copying)
            searching.wait_event(this.copied)
            yield start, this.there[: len(rows) - start]
            this.searched.record(searching)
    finally:
        searching.wait_stream(copying)  # before the allocator gives the buffers to others


class _Buffer:
    """Room for a block where the host puts it together, and where it is searched."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.here = _pinned(rows, width)
        self.there = torch.empty(rows, width, dtype=torch.uint8, device=device)
        # An event that was never recorded holds nothing up.
        self.copied, self.searched = cuda.Event(), cuda.Event()

    def send(self, block: Tensor, copying: cuda.Stream) -> None:
        self.copied.synchronize()
        self.stage(block)
        copying.wait_event(self.searched)
        with cuda.stream(copying):
            self.copy(len(block))
            self.copied.record(copying)

    def stage(self, block: Tensor) -> None:
        self.here[: len(block)].copy_(block)

    def copy(self, n: int) -> None:
        self.there[:n].copy_(self.here[:n], non_blocking=True)


def _pinned(rows: int, width: int) -> Tensor:
    return torch.empty(rows, width, dtype=torch.uint8, pin_memory=True)
