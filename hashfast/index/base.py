"""What every index over packed codes has in common: codes come and go, are found and kept."""

import operator
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Set
from typing import Any, BinaryIO, Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from hashfast._files import atomic_write
from hashfast._inputs import MAX_CODE_BYTES, Array, as_codes
from hashfast.index.allowed import Allowed
from hashfast.index.checks import as_device, as_integer
from hashfast.index.held import Ids, id_bytes
from hashfast.index.ids import as_ids, listed


class Contents(Protocol):
    """What an index holds at one moment; it never changes."""

    @property
    def ids(self) -> Ids: ...
    def more(self, codes: torch.Tensor, ids: torch.Tensor | None) -> Self: ...
    def only(self, rows: torch.Tensor) -> Self: ...
    def codes_at(self, rows: torch.Tensor) -> torch.Tensor: ...


C = TypeVar("C", bound=Contents)


class IndexBinary(ABC, Generic[C]):
    """Packed codes searched by Hamming distance, with the habits of faiss's binary indexes.

    Codes are uint8 [n, ceil(bits / 8)] as `hashfast.pack` makes them (bit order of np.packbits and
    faiss, padding bits zero), numpy or torch. A code added without an id has its row as id.
    range_search includes the radius, unlike faiss's.

    Attributes:
        d: bits per code.
        code_size: bytes per code.
        ntotal: codes held; also len(index).
        device: where searches run, and the codes lie unless they are spread (IndexBinaryFlat.to).
        is_trained: True; there is nothing to train.
    """

    is_trained = True
    _held: C  # readers take it once, writers replace it whole

    def __init__(self, bits: int, device: str | torch.device) -> None:
        self._writing = threading.Lock()
        self.d = as_integer(bits, "bits", 1, 8 * MAX_CODE_BYTES)
        self.code_size = (self.d + 7) // 8
        self.device = as_device(device)
        self.reset()

    @property
    def ntotal(self) -> int:
        return self._held.ids.n

    def __len__(self) -> int:
        return self.ntotal

    @property
    def numbered(self) -> bool:
        """Whether rows are the ids: none were given with the codes."""
        return self._held.ids.given is None

    @property
    def ids(self) -> np.ndarray:
        """The ids in row order, int64 [ntotal]: those given, or row numbers; a copy."""
        return self._held.ids.array()

    @property
    @abstractmethod
    def codes(self) -> Array:
        """The codes in row order, uint8 [ntotal, code_size]."""

    def add(self, codes: Array) -> None:
        """Append codes uint8 [n, code_size]; their ids are the next row numbers.

        The codes are copied into the index, whose memory grows by half when it is full. The first
        `add` to a memory-mapped index copies its codes into memory; the file stays as it is.

        Raises:
            TypeError, ValueError: not packed codes of this index's width.
            ValueError: the index holds codes added with ids.
        """
        rows = self._checked(codes, "codes")
        self._update(lambda held: held.more(rows, None))

    def add_with_ids(self, codes: Array, ids: Array | Sequence[int]) -> None:
        """Append codes uint8 [n, code_size] under the given ids, integers [n].

        An id may repeat, as in faiss; -1 is refused, because it means "no result".

        Raises:
            TypeError, ValueError: not packed codes of this index's width, or not n integer ids.
            ValueError: the index holds codes that were added without ids.
        """
        rows = self._checked(codes, "codes")
        given = id_bytes(ids, len(rows))
        self._update(lambda held: held.more(rows, given))

    @abstractmethod
    def search(self, query: Array, k: int, allowed: Allowed | None = None) -> tuple[Array, Array]:
        """Find the k nearest codes of every query, exactly.

        Args:
            query: uint8 [q, code_size], numpy or torch; moved to the index's device if elsewhere.
            k: neighbours per query, 1 to 2**31 - 1; results take 12 bytes each.
            allowed: the codes that may be found: ids, integers [m] or a set (a repeated id allows
                all its codes); a bool mask of rows [ntotal]; or uint8 [ceil(ntotal / 8)], the
                bitmap that `hashfast.pack` makes of a mask (ready for use, so worth keeping:
                hashfast.pack(np.isin(index.ids, ids)); make it anew after `add` or `remove_ids`).
                Default: all.

        Returns:
            distances int32 [q, k] in bits and ids int64 [q, k], sorted by distance, equal
            distances by the order in which codes were added. Where fewer than k codes are held or
            allowed, the rest is distance 2**31 - 1 and id -1, with a warning. numpy for a numpy
            query; torch on the query's device for a torch query.

        Raises:
            TypeError, ValueError: a query that is not packed codes of this width, a bad k,
                `allowed` of another form, or with an id that the index does not hold.
            MemoryError: there is no room for the results.
        """

    @abstractmethod
    def range_search(
        self, query: Array, radius: int, allowed: Allowed | None = None, strict: bool = False
    ) -> tuple[Array, Array, Array]:
        """Find every code within `radius` bits of every query, the radius included.

        Args:
            query: uint8 [q, code_size], numpy or torch; moved to the index's device if elsewhere.
            radius: largest distance in bits, 0 or more.
            allowed: the codes that may be found, as in `search`. Default: all.
            strict: keep distances below the radius only, as faiss's range_search does.

        Returns:
            limits int64 [q + 1], distances int32 and ids int64 [limits[-1]]: the hits of query i
            are distances[limits[i]:limits[i + 1]], ordered as by `search`. numpy for a numpy
            query; torch on the query's device for a torch query.

        Raises:
            TypeError, ValueError: a query that is not packed codes of this width, a bad radius,
                `allowed` of another form, or with an id that the index does not hold.
        """

    def reconstruct(self, id: int) -> Array:
        """Return a copy of the code with this id, uint8 [code_size]; numpy or tensor as `codes`.

        Of a repeated id, the code added last. Where ids were given, they are all read.

        Raises:
            IndexError: no such id.
        """
        return self.reconstruct_n(id, 1)[0]

    def reconstruct_n(self, first: int, n: int) -> Array:
        """Return copies of the codes with ids first .. first + n - 1, uint8 [n, code_size].

        Otherwise as `reconstruct`. (faiss's IndexBinaryFlat reads past its codes instead of
        raising.)

        Raises:
            IndexError: an id that the index does not hold.
            TypeError, ValueError: n is not an integer, or negative.
        """
        held, first = self._held, operator.index(first)
        n = min(as_integer(n, "n", 0), held.ids.n + 1)  # of more ids than codes one is missing
        is_int64 = -(2**63) <= first <= 2**63 - max(n, 1)
        rows = held.ids.find(first + np.arange(n)).last if is_int64 else np.array([-1])
        if (rows < 0).any():
            missing = first + int(np.argmax(rows < 0))
            raise IndexError(f"id {missing} is not in this index of {held.ids.n} codes")
        codes = held.codes_at(torch.from_numpy(rows))
        return codes.numpy() if codes.device.type == "cpu" else codes

    def remove_ids(self, ids: Array | Sequence[int] | Set[int]) -> int:
        """Remove the codes with these ids, integers [m] or a set; returns how many there were.

        The other codes keep their order, and an error leaves all as it was. As in faiss: ids that
        the index does not hold are ignored, a repeated id loses all its codes, and in an index that
        numbers its codes itself the later ones move up, so that their ids change. Codes and ids
        that are left are copied; the file of a memory-mapped index stays as it is.

        Raises:
            TypeError, ValueError: not integers [m].
        """
        removed = 0
        wanted = as_ids(listed(ids))

        def without(held: C) -> C:
            nonlocal removed
            kept = np.ones(held.ids.n, bool)
            kept[held.ids.find(wanted).rows] = False
            rows = torch.from_numpy(np.flatnonzero(kept))
            removed = held.ids.n - len(rows)
            return held.only(rows) if removed else held

        self._update(without)
        return removed

    @abstractmethod
    def reset(self) -> None:
        """Forget all codes and ids, and free their memory."""

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file that `load_index` reads; an error leaves an older file whole.

        Of the kinds of index, faiss reads the files of IndexBinaryFlat: as IndexBinaryFlat, or as
        IndexBinaryIDMap if ids were given. Bits that are not a multiple of 8 do not exist in faiss:
        such a file only `load_index` reads.
        """
        with atomic_write(path) as file:
            self.write(file)

    @abstractmethod
    def write(self, file: BinaryIO) -> None:
        """Write what `save` writes into a file that is open for it."""

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, which is made anew: an index is copied, and sent to other processes."""
        return {name: value for name, value in vars(self).items() if name != "_writing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _writing=threading.Lock())

    def _update(self, change: Callable[[C], C]) -> None:
        with self._writing:  # a search may make tables while another thread adds
            self._held = change(self._held)

    def _checked(self, codes: Array, name: str) -> torch.Tensor:
        return as_codes(codes, name, self.d, "this index holds")

    def _query_array(self, query: Array) -> np.ndarray:
        """Queries as a contiguous array, for searches that are as short as the checks."""
        if (
            type(query) is np.ndarray
            and query.dtype == np.uint8
            and query.ndim == 2
            and query.shape[1] == self.code_size
            and not self.d % 8
            and query.flags.c_contiguous
        ):
            return query
        return np.ascontiguousarray(self._checked(query, "query").cpu().numpy())
