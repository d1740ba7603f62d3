"""What an index holds at one moment: codes and their ids, which belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hashfast._inputs import Array, to_tensor
from hashfast.index.checks import NO_ID
from hashfast.index.ids import Found, as_ids, find_ids, find_row_numbers
from hashfast.index.io import ID_SIZE, FlatFile


@dataclass(frozen=True)
class Held:
    """Codes and ids that never change: a writer makes another, a reader keeps the one it took.

    `more` writes into the free room behind the n codes, where no reader of this one looks.

    Attributes:
        room: codes, uint8 [capacity, code_size], of which the first n are held.
        id_room: ids as bytes, uint8 [capacity, 8] (in a mapped file they are not aligned); None
            where rows are the ids.
        n: codes held.
    """

    room: torch.Tensor
    id_room: torch.Tensor | None
    n: int

    @classmethod
    def of(cls, contents: FlatFile, device: torch.device) -> "Held":
        """Hold the given arrays themselves; nothing ever writes to them."""
        ids = None if contents.ids is None else to_tensor(contents.ids).to(device)
        return cls(to_tensor(contents.codes).to(device), ids, len(contents.codes))

    @classmethod
    def empty(cls, code_size: int, device: torch.device) -> "Held":
        return cls(torch.empty(0, code_size, dtype=torch.uint8, device=device), None, 0)

    @property
    def codes(self) -> torch.Tensor:
        """The codes, uint8 [n, code_size], without a copy."""
        return self.room[: self.n]

    def ids(self) -> np.ndarray:
        """The ids in row order, int64 [n]; a copy."""
        if self.id_room is None:
            return np.arange(self.n, dtype=np.int64)
        return self.id_room[: self.n].cpu().numpy().copy().view(np.int64).reshape(-1)

    def ids_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Ids of found rows, int64 of any shape; -1 stays."""
        if self.id_room is None or not self.n:
            return rows
        found = self.id_room.index_select(0, rows.clamp(min=0).flatten()).view(torch.int64)
        return torch.where(rows < 0, rows, found.view(rows.shape))

    def find(self, ids: np.ndarray) -> Found:
        """Find the rows of ids, int64 [m]."""
        if self.id_room is None:
            return find_row_numbers(ids, self.n)
        return find_ids(ids, self.ids())

    def more(self, codes: torch.Tensor, ids: torch.Tensor | None) -> "Held":
        """Hold codes uint8 [m, code_size] too, with ids as bytes [m, 8] or without."""
        end = self.n + len(codes)
        room, id_room = _with_room(self.room, self.n, end), None
        if ids is not None:
            held = self.room.new_empty(0, ID_SIZE) if self.id_room is None else self.id_room
            id_room = _with_room(held, self.n, end)
            id_room[self.n : end] = ids
        room[self.n : end] = codes
        return Held(room, id_room, end)

    def only(self, rows: torch.Tensor) -> "Held":
        """Hold copies of these rows, int64 [m]."""
        return Held(
            self.room[rows], None if self.id_room is None else self.id_room[rows], len(rows)
        )

    def contents(self, bits: int) -> FlatFile:
        """What a file of these codes holds."""
        ids = None if self.id_room is None else self.id_room[: self.n].cpu().numpy()
        return FlatFile(bits, self.codes.cpu().numpy(), ids)


def id_bytes(ids: Array | Sequence[int], n: int) -> torch.Tensor:
    """Check the ids of n codes and view them as bytes [n, 8]."""
    array = as_ids(ids)
    if len(array) != n:
        raise ValueError(f"ids has shape {array.shape}; expected one id per code, ({n},)")
    if (array == NO_ID).any():
        raise ValueError(f"id {NO_ID} is taken: search returns it where there is no result")
    return torch.from_numpy(array.view(np.uint8).reshape(n, ID_SIZE))


def _with_room(rows: torch.Tensor, used: int, needed: int) -> torch.Tensor:
    """Return rows with room for `needed`; growing by half keeps repeated adding linear."""
    if needed <= len(rows):
        return rows
    capacity = max(needed, len(rows) + len(rows) // 2)
    grown = rows.new_empty(capacity, rows.shape[1])
    grown[:used] = rows[:used]
    return grown
