"""What an index holds at one moment: codes and their ids, which belong together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from hashfast import ops
from hashfast._inputs import Array, to_tensor
from hashfast.index.checks import NO_ID, topk
from hashfast.index.ids import Found, as_ids, find_ids, find_row_numbers
from hashfast.index.io import ID_SIZE, FlatFile


@dataclass(frozen=True)
class Rows:
    """Rows of bytes that never change: a writer makes others, a reader keeps those it took.

    `more` writes into the free room behind the n rows, where no reader of these looks.

    Attributes:
        room: uint8 [capacity, width], of which the first n rows are held.
        n: rows held.
    """

    room: torch.Tensor
    n: int

    @classmethod
    def of(cls, rows: Array, device: torch.device) -> "Rows":
        """Hold the given array itself; nothing ever writes to it."""
        return cls(to_tensor(rows).to(device), len(rows))

    @classmethod
    def empty(cls, width: int, device: torch.device) -> "Rows":
        return cls(torch.empty(0, width, dtype=torch.uint8, device=device), 0)

    @property
    def rows(self) -> torch.Tensor:
        """The rows, uint8 [n, width], without a copy."""
        return self.room[: self.n]

    def more(self, rows: torch.Tensor) -> "Rows":
        """Hold rows uint8 [m, width] too; growing by half keeps repeated adding linear."""
        end, room = self.n + len(rows), self.room
        if end > len(room):
            room = room.new_empty(max(end, len(room) + len(room) // 2), room.shape[1])
            room[: self.n] = self.rows
        room[self.n : end] = rows
        return Rows(room, end)

    def only(self, rows: torch.Tensor) -> "Rows":
        """Hold copies of these rows, int64 [m]."""
        return Rows(self.room[rows.to(self.room.device)], len(rows))

    def to(self, device: torch.device) -> "Rows":
        """The same rows on a device, without the room behind them: in it only one writer writes."""
        return Rows(self.rows.to(device), self.n)


@dataclass(frozen=True)
class Ids:
    """Ids of n codes: those given, as bytes [n, 8] (in a mapped file they are not aligned), or None
    where rows are the ids."""

    given: Rows | None
    n: int

    @classmethod
    def of(cls, ids: Array | None, n: int, device: torch.device) -> "Ids":
        return cls(None if ids is None else Rows.of(ids, device), n)

    def array(self) -> np.ndarray:
        """The ids in row order, int64 [n]; a copy."""
        if self.given is None:
            return np.arange(self.n, dtype=np.int64)
        return self.given.rows.cpu().numpy().copy().view(np.int64).reshape(-1)

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        """Ids of found rows, int64 of any shape, on their device; -1 stays."""
        if self.given is None or not self.n:
            return rows
        wanted = rows.clamp(min=0).flatten().to(self.given.room.device)
        found = self.given.room.index_select(0, wanted).view(torch.int64).to(rows.device)
        return torch.where(rows < 0, rows, found.view(rows.shape))

    def find(self, ids: np.ndarray) -> Found:
        """Find the rows of ids, int64 [m]."""
        if self.given is None:
            return find_row_numbers(ids, self.n)
        return find_ids(ids, self.array())

    def more(self, n: int, ids: torch.Tensor | None) -> "Ids":
        """Ids of n codes more, given as bytes [n, 8] or None.

        Raises ValueError where codes with and without ids of their own would mix.
        """
        if self.n and (ids is None) != (self.given is None):
            if ids is None:
                raise ValueError("this index holds ids given with its codes: use add_with_ids")
            raise ValueError(
                f"this index numbers its {self.n} codes itself: use add, "
                "or start a new index with add_with_ids"
            )
        if ids is None:
            return Ids(None, self.n + n)
        return Ids((self.given or Rows.empty(ID_SIZE, ids.device)).more(ids), self.n + n)

    def only(self, rows: torch.Tensor) -> "Ids":
        """Ids of these rows, int64 [m]."""
        return Ids(None if self.given is None else self.given.only(rows), len(rows))

    def to(self, device: torch.device) -> "Ids":
        return Ids(None if self.given is None else self.given.to(device), self.n)

    @property
    def nbytes(self) -> int:
        return 0 if self.given is None else self.given.rows.nbytes

    def bytes(self) -> np.ndarray | None:
        """Those given, as a file has them, uint8 [n, 8]; None where rows are the ids."""
        return None if self.given is None else self.given.rows.cpu().numpy()


@dataclass(frozen=True)
class Held:
    """Codes in row order, and their ids."""

    rows: Rows
    ids: Ids

    @classmethod
    def of(cls, contents: FlatFile, device: torch.device) -> "Held":
        """Hold the given arrays themselves; nothing ever writes to them."""
        codes = Rows.of(contents.codes, device)
        return cls(codes, Ids.of(contents.ids, codes.n, device))

    @classmethod
    def empty(cls, code_size: int, device: torch.device) -> "Held":
        return cls(Rows.empty(code_size, device), Ids(None, 0))

    @property
    def codes(self) -> torch.Tensor:
        """The codes, uint8 [n, code_size], without a copy."""
        return self.rows.rows

    @property
    def device(self) -> torch.device:
        """Where the codes lie."""
        return self.rows.room.device

    def more(self, codes: torch.Tensor, ids: torch.Tensor | None) -> Self:
        """Hold codes uint8 [m, code_size] too, with ids as bytes [m, 8] or without."""
        more_ids = self.ids.more(len(codes), None if ids is None else ids.to(self.device))
        return replace(self, rows=self.rows.more(codes), ids=more_ids)

    def only(self, rows: torch.Tensor) -> Self:
        """Hold copies of these rows, int64 [m]."""
        return replace(self, rows=self.rows.only(rows), ids=self.ids.only(rows))

    @property
    def is_placed(self) -> bool:
        """Whether the codes lie where they are searched."""
        return True

    @property
    def streamed(self) -> int:
        """Codes that every search copies to where it runs."""
        return 0

    def placed(self) -> Self:
        """The same, where they are searched."""
        return self

    def unsettled(self) -> Self:
        """The same, to be placed anew where codes were added since they were placed."""
        return self

    def to(self, device: torch.device) -> "Held":
        """The same codes and ids on one device."""
        return Held(self.rows.to(device), self.ids.to(device))

    def codes_at(self, rows: torch.Tensor) -> torch.Tensor:
        """Copies of the codes of these rows, int64 [m]."""
        return self.codes[rows.to(self.device)]

    def ids_at(self, rows: torch.Tensor) -> torch.Tensor:
        """Ids of found rows, int64 of any shape, on their device; -1 stays."""
        return self.ids.at(rows)

    def nearest(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """Distances int32 and rows int64, both [q, k], of those that a bitmap allows."""
        return topk(queries, self.codes, k, allowed)

    def within(
        self, queries: torch.Tensor, radius: int, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """Limits int64 [q + 1], distances int32 and rows int64 of the hits."""
        return ops.hamming_range(queries, self.codes, radius, allowed)

    def contents(self, bits: int) -> FlatFile:
        """What a file of these codes holds."""
        return FlatFile(bits, self.codes.cpu().numpy(), self.ids.bytes())


def id_bytes(ids: Array | Sequence[int], n: int) -> torch.Tensor:
    """Check the ids of n codes and view them as bytes [n, 8]."""
    array = as_ids(ids)
    if len(array) != n:
        raise ValueError(f"ids has shape {array.shape}; expected one id per code, ({n},)")
    if (array == NO_ID).any():
        raise ValueError(f"id {NO_ID} is taken: search returns it where there is no result")
    return torch.from_numpy(array.view(np.uint8).reshape(n, ID_SIZE))
