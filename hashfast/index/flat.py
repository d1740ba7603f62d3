"""The exact index over packed codes, with the habits of faiss's IndexBinaryFlat."""

import operator
import os
from collections.abc import Iterator, Sequence, Set
from typing import Any, BinaryIO

import numpy as np
import torch

from hashfast import ops
from hashfast._files import atomic_write
from hashfast._inputs import MAX_CODE_BYTES, Array, as_codes
from hashfast.index.allowed import Allowed, as_bitmap
from hashfast.index.checks import as_integer, check_k, check_radius, like, topk, warn_if_padded
from hashfast.index.held import Held, id_bytes
from hashfast.index.ids import as_ids, listed
from hashfast.index.io import FlatFile, read_flat, write_flat
from hashfast.index.pairs import pairs
from hashfast.index.with_faiss import copy_from_faiss, copy_to_faiss


class IndexBinaryFlat:
    """Packed codes searched exactly by Hamming distance.

    Codes are uint8 [n, ceil(bits / 8)] as `hashfast.pack` makes them (bit order of np.packbits and
    faiss, padding bits zero), numpy or torch. A code added without an id has its row as id.
    range_search includes the radius, unlike faiss's.

    Any number of threads may read while one adds or removes; each call sees the codes of one
    moment. A process forked after a search on several threads hangs when it searches, as with torch
    and faiss (OpenMP): start processes by spawn, or call torch.set_num_threads(1) in the child
    first.

    Attributes:
        d: bits per code.
        code_size: bytes per code.
        ntotal: codes held; also len(index).
        device: where the codes lie and searches run.
        is_trained: True; there is nothing to train.
    """

    is_trained = True
    _held: Held  # readers take it once, writers replace it whole

    def __init__(self, bits: int, device: str | torch.device = "cpu") -> None:
        """Make an empty index.

        Args:
            bits: bits per code, 1 to 65,528; need not be a multiple of 8.
            device: where to keep the codes.

        Raises:
            TypeError, ValueError: bits is not such a number.
        """
        self.d = as_integer(bits, "bits", 1, 8 * MAX_CODE_BYTES)
        self.code_size = (self.d + 7) // 8
        self.device = torch.device(device)
        self.reset()

    @property
    def ntotal(self) -> int:
        return self._held.n

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        return f"IndexBinaryFlat(bits={self.d}, ntotal={self.ntotal}, device='{self.device}')"

    @property
    def codes(self) -> Array:
        """The codes, uint8 [ntotal, code_size], without a copy.

        A read-only numpy view of an index on the CPU; a tensor for one on another device.
        """
        return self._as_held(self._held.codes)

    @property
    def ids(self) -> np.ndarray:
        """The ids in row order, int64 [ntotal]: those given, or row numbers; a copy."""
        return self._held.ids()

    def add(self, codes: Array) -> None:
        """Append codes uint8 [n, code_size]; their ids are the next row numbers.

        The codes are copied into the index, whose memory grows by half when it is full. The first
        `add` to a memory-mapped index copies its codes into memory; the file stays as it is.

        Raises:
            TypeError, ValueError: not packed codes of this index's width.
            ValueError: the index holds codes added with ids.
        """
        held = self._held
        if held.n and held.id_room is not None:
            raise ValueError("this index holds ids given with its codes: use add_with_ids")
        self._held = held.more(self._checked(codes, "codes"), None)

    def add_with_ids(self, codes: Array, ids: Array | Sequence[int]) -> None:
        """Append codes uint8 [n, code_size] under the given ids, integers [n].

        An id may repeat, as in faiss; -1 is refused, because it means "no result".

        Raises:
            TypeError, ValueError: not packed codes of this index's width, or not n integer ids.
            ValueError: the index holds codes that were added without ids.
        """
        held = self._held
        if held.n and held.id_room is None:
            raise ValueError(
                f"this index numbers its {held.n} codes itself: use add, "
                "or start a new index with add_with_ids"
            )
        rows = self._checked(codes, "codes")
        self._held = held.more(rows, id_bytes(ids, len(rows)))

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
        held, queries = self._held, self._checked(query, "query")
        k = check_k(k, held.n)
        bitmap = as_bitmap(allowed, held.n, held.find, self.device)
        distances, rows = topk(queries.to(self.device), held.codes, k, bitmap)
        found, ids = like(query, distances, held.ids_of(rows))
        warn_if_padded(rows, held.n, filtered=allowed is not None)
        return found, ids

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
        held, queries = self._held, self._checked(query, "query")
        radius = check_radius(radius, self.code_size, strict)
        bitmap = as_bitmap(allowed, held.n, held.find, self.device)
        limits, distances, rows = ops.hamming_range(
            queries.to(self.device), held.codes, radius, bitmap
        )
        bounds, found, ids = like(query, limits, distances, held.ids_of(rows))
        return bounds, found, ids

    def pairs(self, radius: int) -> Iterator[tuple[Array, Array, Array]]:
        """Stream the pairs of codes held that are at most `radius` bits apart, each pair once.

        Args:
            radius: largest distance in bits, 0 or more.

        Returns:
            An iterator of blocks: ids int64 [p] of the code that was added first, ids int64 [p] of
            the other, and distances int32 [p]; sorted by first row, distance and second row. numpy
            or tensors as `codes`. Codes added or removed meanwhile change nothing.

        Raises:
            TypeError, ValueError: a bad radius.
        """
        held = self._held
        codes = self._as_held(held.codes)
        found = pairs(codes, radius)
        if held.id_room is None:
            return found
        (ids,) = like(codes, torch.from_numpy(held.ids()).to(self.device))
        return ((ids[i], ids[j], distances) for i, j, distances in found)

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
        n = min(as_integer(n, "n", 0), held.n + 1)  # of more ids than codes one is missing
        is_int64 = -(2**63) <= first <= 2**63 - max(n, 1)
        rows = held.find(first + np.arange(n)).last if is_int64 else np.array([-1])
        if (rows < 0).any():
            missing = first + int(np.argmax(rows < 0))
            raise IndexError(f"id {missing} is not in this index of {held.n} codes")
        codes = held.codes[torch.from_numpy(rows).to(self.device)]
        return codes.numpy() if self.device.type == "cpu" else codes

    def remove_ids(self, ids: Array | Sequence[int] | Set[int]) -> int:
        """Remove the codes with these ids, integers [m] or a set; returns how many there were.

        The other codes keep their order, and an error leaves all as it was. As in faiss: ids that
        the index does not hold are ignored, a repeated id loses all its codes, and in an index that
        numbers its codes itself the later ones move up, so that their ids change. Codes and ids
        that are left are copied; the file of a memory-mapped index stays as it is.

        Raises:
            TypeError, ValueError: not integers [m].
        """
        held = self._held
        kept = np.ones(held.n, bool)
        kept[held.find(as_ids(listed(ids))).rows] = False
        rows = torch.from_numpy(np.flatnonzero(kept)).to(self.device)
        removed = held.n - len(rows)
        if removed:
            self._held = held.only(rows)
        return removed

    def reset(self) -> None:
        """Forget all codes and ids, and free their memory."""
        self._held = Held.empty(self.code_size, self.device)

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file that faiss reads too; an error leaves an older file whole.

        faiss reads it as IndexBinaryFlat, or as IndexBinaryIDMap if ids were given. Bits that
        are not a multiple of 8 do not exist in faiss: such a file only `load_index` reads.
        """
        with atomic_write(path) as file:
            self.write(file)

    def write(self, file: BinaryIO) -> None:
        """Write what `save` writes into a file that is open for it."""
        write_flat(file, self._held.contents(self.d))

    def to_faiss(self) -> Any:
        """Copy into a faiss.IndexBinaryFlat, or IndexBinaryIDMap if ids were given.

        Raises:
            ImportError: faiss is not installed.
            ValueError: bits is not a multiple of 8, which faiss needs.
        """
        return copy_to_faiss(self._held.contents(self.d))

    @classmethod
    def from_faiss(cls, index: Any) -> "IndexBinaryFlat":
        """Copy a faiss.IndexBinaryFlat, or an IndexBinaryIDMap or IndexBinaryIDMap2 of one.

        Raises:
            ImportError: faiss is not installed.
            TypeError: another kind of index.
        """
        return cls._holding(copy_from_faiss(index))

    @classmethod
    def _holding(cls, contents: FlatFile, device: str | torch.device = "cpu") -> "IndexBinaryFlat":
        """Make an index of the given arrays themselves."""
        index = cls(contents.bits, device)
        index._held = Held.of(contents, index.device)
        return index

    def _as_held(self, codes: torch.Tensor) -> Array:
        if self.device.type != "cpu":
            return codes
        view = codes.numpy()
        view.flags.writeable = False
        return view

    def _checked(self, codes: Array, name: str) -> torch.Tensor:
        return as_codes(codes, name, self.d, "this index holds")


def load_index(
    path: str | os.PathLike, mmap: bool = False, device: str | torch.device = "cpu"
) -> IndexBinaryFlat:
    """Load an index saved by `save` or by faiss (IndexBinaryFlat, also inside an id map).

    Args:
        path: the file.
        mmap: search the file where it lies instead of reading it first. The file must not be
            overwritten in place or cut short meanwhile; `save`, which replaces files whole, is
            safe. Adding to the index copies it into memory and leaves the file alone.
        device: where to keep the codes; anything but the CPU copies them there.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: the file is truncated, too long, or not such an index; says what was found.
    """
    return IndexBinaryFlat._holding(read_flat(path, mmap), device)
