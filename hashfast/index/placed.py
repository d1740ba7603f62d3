"""Codes of the host that devices search: each a part of the rows, of which it keeps what fits."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from hashfast.index.checks import as_device, as_integer, enough_memory, topk
from hashfast.index.held import Held, Ids
from hashfast.index.merging import Hits, merge_ranges, merge_topk
from hashfast.index.streaming import ALIGNED, stream
from hashfast.ops.hamming import hamming_range_count_op, hamming_range_op

Device = str | int | torch.device
MOST_ROWS = 2**32 - 1  # that the CUDA operations search at once, as they number them in 32 bits
_HEAD_ROOM = 2 << 30  # bytes of a GPU that searches need at least, and a tenth of what is free
_NEW = 4  # when more than one of so many codes is new, all are placed anew
T = TypeVar("T")
Search = Generator[None, None, T]
"""A search of one part, which pauses where others may go on."""


class Places(NamedTuple):
    """Where codes are searched: devices, and the bytes of codes that each may keep; None for what
    is free."""

    devices: tuple[torch.device, ...]
    memory: int | None

    @classmethod
    def of(cls, device: Device | Sequence[Device], memory: int | None) -> "Places":
        """Check what `to` is given: TypeError or ValueError where it names no such places."""
        named = [device] if isinstance(device, Device) else device
        if not isinstance(named, Sequence) or not all(map(_names_device, named)):
            raise TypeError(
                f"device is {device!r}; expected a device such as 'cuda:0', or a list of them"
            )
        if not len(named):
            raise ValueError("device is an empty list; expected a device or a list of them")
        memory = None if memory is None else as_integer(memory, "memory", 0)
        return cls(tuple(map(as_device, named)), memory)


def _names_device(value: object) -> bool:
    return isinstance(value, Device) and not isinstance(value, bool)


@dataclass(frozen=True)
class Part:
    """Rows start to stop - 1, searched on one device.

    Attributes:
        kept: uint8 [m, width] on that device, the first of these rows; the others are copied there
            by each search.
    """

    kept: Tensor
    start: int
    stop: int

    @property
    def streamed(self) -> int:
        return self.stop - self.start - len(self.kept)

    def upto(self, stop: int) -> "Part":
        """The same part with rows added; those that share a byte of a bitmap stay together."""
        return Part(self.kept[: len(self.kept) // ALIGNED * ALIGNED], self.start, stop)

    def nearest(
        self, codes: Tensor, queries: Tensor, k: int, allowed: Tensor | None
    ) -> Search[tuple[Tensor, Tensor]]:
        """Distances int32 and rows int64 of the nearest, both [q, k] or fewer; `codes` are those of
        the host, `allowed` is the bitmap of all."""
        queries, seen = queries.to(self.kept.device), 0
        best: list[tuple[Tensor, Tensor]] = []
        for first, block in self._blocks(codes):
            seen += len(block)
            bitmap = self._cut(allowed, first, len(block))
            distances, rows = topk(queries, block, min(k, max(1, len(block))), bitmap)
            if first:
                rows = torch.where(rows < 0, rows, rows + first)
            best = [merge_topk([*best, (distances, rows)], min(k, max(1, seen)))]
            yield
        return best[0]

    def within(
        self, codes: Tensor, queries: Tensor, radius: int, allowed: Tensor | None
    ) -> Search[Hits]:
        """Limits int64 [q + 1], distances int32 and rows int64 of the hits."""
        queries, hits = queries.to(self.kept.device), []
        for first, block in self._blocks(codes):
            bitmap = self._cut(allowed, first, len(block))
            counts = hamming_range_count_op(queries, block, radius, bitmap)
            limits = pad(counts.cumsum(0), (1, 0))
            yield  # the other devices count, too, before this one is waited for
            distances, rows = hamming_range_op(queries, block, radius, limits, bitmap)
            hits.append((limits, distances, rows + first))
        return merge_ranges(hits)

    def _blocks(self, codes: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The rows of this part on its device, block by block, with the row each begins with."""
        begin = self.start + len(self.kept)
        step = MOST_ROWS // ALIGNED * ALIGNED
        if len(self.kept) or not self.streamed:
            for first in range(0, max(1, len(self.kept)), step):
                yield self.start + first, self.kept[first : first + step]
        if self.streamed:
            for first, block in stream(codes[begin : self.stop], self.kept.device):
                yield begin + first, block

    def _cut(self, allowed: Tensor | None, first: int, n: int) -> Tensor | None:
        if allowed is None:
            return None
        return allowed[first // ALIGNED : -(-(first + n) // ALIGNED)].to(self.kept.device)


@dataclass(frozen=True)
class Placement:
    """What devices keep of n codes: parts that follow one another, and ids for what they find."""

    parts: tuple[Part, ...]
    ids: Ids
    n: int

    def upto(self, ids: Ids) -> "Placement | None":
        """With codes added, which are streamed; None where they are too many for that."""
        if ids.n == self.parts[-1].stop:
            return self
        if ids.n - self.n > self.n // _NEW:
            return None
        parts = (*self.parts[:-1], self.parts[-1].upto(ids.n))
        return Placement(parts, ids, self.n)


@dataclass(frozen=True)
class Placed(Held):
    """Codes and ids on the host, and parts of them on devices; these are placed when they are
    searched, so that no memory is taken twice while they change."""

    places: Places
    placement: Placement | None = None

    def more(self, codes: Tensor, ids: Tensor | None) -> Self:
        longer = super().more(codes, ids)
        return replace(longer, placement=self.placement and self.placement.upto(longer.ids))

    def only(self, rows: Tensor) -> Self:
        return replace(super().only(rows), placement=None)

    @property
    def is_placed(self) -> bool:
        return self.placement is not None

    @property
    def streamed(self) -> int:
        return sum(part.streamed for part in self._placement.parts)

    def placed(self) -> Self:
        return self if self.is_placed else replace(self, placement=_place(self, self.places))

    def unsettled(self) -> Self:
        if self.placement is None or self.placement.n == self.ids.n:
            return self
        return replace(self, placement=None)

    def __reduce__(self) -> tuple:
        """Copies and pickles are placed where they are searched."""
        return type(self), (self.rows, self.ids, self.places)

    def ids_at(self, rows: Tensor) -> Tensor:
        return self._placement.ids.at(rows)

    def nearest(self, queries: Tensor, k: int, allowed: Tensor | None) -> tuple[Tensor, ...]:
        with enough_memory(self.ids.n, k, len(queries)):
            found = self._searched(lambda part: part.nearest(self.codes, queries, k, allowed))
            return merge_topk(found, k)

    def within(self, queries: Tensor, radius: int, allowed: Tensor | None) -> tuple[Tensor, ...]:
        return merge_ranges(
            self._searched(lambda part: part.within(self.codes, queries, radius, allowed))
        )

    @property
    def _placement(self) -> Placement:
        assert self.placement is not None, "placed before it is searched"
        return self.placement

    def _searched(self, search: Callable[[Part], Search[tuple]]) -> list[tuple]:
        """What the search of each part finds, on the first device."""
        parts, home = self._placement.parts, self.places.devices[0]
        found = _in_turns([(part.kept.device, search(part)) for part in parts])
        return [tuple(column.to(home) for column in columns) for columns in found]


def _in_turns(searches: Sequence[tuple[torch.device, Search[T]]]) -> list[T]:
    """Run searches until all have ended; each gives its device work before one is waited for."""
    ended: dict[int, T] = {}
    while len(ended) < len(searches):
        for i, (device, search) in enumerate(searches):
            if i in ended:
                continue
            try:
                with _current(device):
                    next(search)
            except StopIteration as end:
                ended[i] = end.value
    return [ended[i] for i in range(len(searches))]


def _current(device: torch.device) -> AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _place(held: Held, places: Places) -> Placement:
    """Give each device a share of the rows, and copy what fits there."""
    n, devices = held.ids.n, places.devices
    share = max(1, -(-n // (ALIGNED * len(devices)))) * ALIGNED
    parts = []
    for device, start in zip(devices, range(0, max(1, n), share), strict=False):
        rows = held.codes[start : start + share]
        fit = free(device) if places.memory is None else places.memory
        if rows.nbytes > fit:
            rows = rows[: int(fit) // rows.shape[1] // ALIGNED * ALIGNED]
        parts.append(Part(rows.to(device), start, min(start + share, n)))
    ids = held.ids
    # A search that waits for copies may wait for ids as well.
    if not any(part.streamed for part in parts) and ids.nbytes <= free(devices[0]):
        ids = ids.to(devices[0])
    return Placement(tuple(parts), ids, n)


def free(device: torch.device) -> float:
    """Bytes of a GPU for codes and ids: those not in use, less what searches need; of other devices
    no limit is known."""
    if device.type != "cuda":
        return math.inf
    unused, _ = torch.cuda.mem_get_info(device)
    unused += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, unused - max(_HEAD_ROOM, unused // 10))
