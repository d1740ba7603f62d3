"""The exact index over packed codes, with the habits of faiss's IndexBinaryFlat."""

import operator
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import torch

from hashfast import ops
from hashfast._files import atomic_write
from hashfast._inputs import Array, as_codes, to_tensor
from hashfast.index.checks import NO_ID, as_integer, check_k, check_radius, like
from hashfast.index.io import ID_SIZE, FlatFile, read_flat, write_flat


class IndexBinaryFlat:
    """Packed codes searched exactly by Hamming distance.

    Codes are uint8 [n, ceil(bits / 8)] as `hashfast.pack` makes them (bit order of np.packbits and
    faiss, padding bits zero), numpy or torch. A code added without an id has its row as id.

    Attributes:
        d: bits per code.
        code_size: bytes per code.
        ntotal: codes held; also len(index).
        device: where the codes lie and searches run.
        is_trained: True; there is nothing to train.
    """

    is_trained = True

    def __init__(self, bits: int, device: str | torch.device = "cpu") -> None:
        """Make an empty index.

        Args:
            bits: bits per code, at least 1; need not be a multiple of 8.
            device: where to keep the codes.
        """
        self.d = as_integer(bits, "bits", 1)
        self.code_size = (self.d + 7) // 8
        self.device = torch.device(device)
        self.reset()

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        return f"IndexBinaryFlat(bits={self.d}, ntotal={self.ntotal}, device='{self.device}')"

    @property
    def codes(self) -> Array:
        """The codes, uint8 [ntotal, code_size], without a copy.

        A read-only numpy view of an index on the CPU; a tensor for one on another device.
        """
        codes = self._codes[: self.ntotal]
        if self.device.type != "cpu":
            return codes
        view = codes.numpy()
        view.flags.writeable = False
        return view

    @property
    def ids(self) -> np.ndarray:
        """The ids in row order, int64 [ntotal]: those given, or row numbers; a copy."""
        if self._ids is None:
            return np.arange(self.ntotal, dtype=np.int64)
        return self._ids[: self.ntotal].cpu().numpy().copy().view(np.int64).reshape(-1)

    def add(self, codes: Array) -> None:
        """Append codes uint8 [n, code_size]; their ids are the next row numbers.

        The codes are copied into the index, whose memory grows by half when it is full. The first
        `add` to a memory-mapped index copies its codes into memory; the file stays as it is.

        Raises:
            TypeError, ValueError: not packed codes of this index's width.
            ValueError: the index holds codes added with ids.
        """
        if self.ntotal and self._ids is not None:
            raise ValueError("this index holds ids given with its codes: use add_with_ids")
        self._append(self._checked(codes, "codes"), None)

    def add_with_ids(self, codes: Array, ids: Array | Sequence[int]) -> None:
        """Append codes uint8 [n, code_size] under the given ids, integers [n].

        An id may repeat, as in faiss; -1 is refused, because it means "no result".

        Raises:
            TypeError, ValueError: not packed codes of this index's width, or not n integer ids.
            ValueError: the index holds codes that were added without ids.
        """
        if self.ntotal and self._ids is None:
            raise ValueError(
                f"this index numbers its {self.ntotal} codes itself: use add, "
                "or start a new index with add_with_ids"
            )
        rows = self._checked(codes, "codes")
        self._append(rows, _as_ids(ids, len(rows)))

    def search(self, query: Array, k: int) -> tuple[Array, Array]:
        """Find the k nearest codes of every query, exactly.

        Args:
            query: uint8 [q, code_size], numpy or torch; moved to the index's device if elsewhere.
            k: neighbours per query, at least 1.

        Returns:
            distances int32 [q, k] in bits and ids int64 [q, k], sorted by distance, equal
            distances by the order in which codes were added. Where k > ntotal the rest is distance
            2**31 - 1 and id -1, with a warning. numpy for a numpy query; torch on the query's
            device for a torch query.

        Raises:
            TypeError, ValueError: a query that is not packed codes of this width, or a bad k.
        """
        queries = self._checked(query, "query")
        k = check_k(k, self.ntotal)
        distances, rows = ops.hamming_topk(queries.to(self.device), self._codes[: self.ntotal], k)
        found, ids = like(query, distances, self._ids_of(rows))
        return found, ids

    def range_search(self, query: Array, radius: int) -> tuple[Array, Array, Array]:
        """Find every code within `radius` bits of every query, the radius included.

        Args:
            query: uint8 [q, code_size], numpy or torch; moved to the index's device if elsewhere.
            radius: largest distance in bits, 0 or more. faiss's IndexBinaryFlat keeps d < radius:
                its range_search(query, radius + 1) finds the same codes.

        Returns:
            limits int64 [q + 1], distances int32 and ids int64 [limits[-1]]: the hits of query i
            are distances[limits[i]:limits[i + 1]], ordered as by `search`. numpy for a numpy
            query; torch on the query's device for a torch query.

        Raises:
            TypeError, ValueError: a query that is not packed codes of this width, or a bad radius.
        """
        queries = self._checked(query, "query")
        radius = check_radius(radius, self.code_size)
        limits, distances, rows = ops.hamming_range(
            queries.to(self.device), self._codes[: self.ntotal], radius
        )
        bounds, found, ids = like(query, limits, distances, self._ids_of(rows))
        return bounds, found, ids

    def reconstruct(self, id: int) -> Array:
        """Return a copy of the code with this id, uint8 [code_size]; numpy or tensor as `codes`.

        Of a repeated id, the code added last. Where ids were given, they are all read.

        Raises:
            IndexError: no such id.
        """
        row = operator.index(id)
        if self._ids is not None:
            found = np.flatnonzero(self.ids == row)
            row = int(found[-1]) if len(found) else -1
        if not 0 <= row < self.ntotal:
            raise IndexError(f"id {id} is not in this index of {self.ntotal} codes")
        code = self.codes[row]
        return code.copy() if isinstance(code, np.ndarray) else code.clone()

    def reset(self) -> None:
        """Forget all codes and ids, and free their memory."""
        self.ntotal = 0
        self._codes = torch.empty(0, self.code_size, dtype=torch.uint8, device=self.device)
        # int64 ids as their bytes: in a memory-mapped file they are not aligned
        self._ids: torch.Tensor | None = None

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file that faiss reads too; an error leaves an older file whole.

        faiss reads it as IndexBinaryFlat, or as IndexBinaryIDMap if ids were given. Bits that
        are not a multiple of 8 do not exist in faiss: such a file only `load_index` reads.
        """
        with atomic_write(path) as file:
            self.write(file)

    def write(self, file: BinaryIO) -> None:
        """Write what `save` writes into a file that is open for it."""
        ids = self._ids
        write_flat(
            file,
            FlatFile(
                self.d,
                self._codes[: self.ntotal].cpu().numpy(),
                None if ids is None else ids[: self.ntotal].cpu().numpy(),
            ),
        )

    def to_faiss(self) -> Any:
        """Copy into a faiss.IndexBinaryFlat, or IndexBinaryIDMap if ids were given.

        Raises:
            ImportError: faiss is not installed.
            ValueError: bits is not a multiple of 8, which faiss needs.
        """
        if self.d % 8:
            raise ValueError(
                f"faiss holds whole bytes, this index {self.d}-bit codes. Distances are the same "
                f"in a {8 * self.code_size}-bit index of these codes: add them to "
                f"IndexBinaryFlat({8 * self.code_size})"
            )
        faiss = _import_faiss()
        index = faiss.IndexBinaryFlat(self.d)
        codes = self._codes[: self.ntotal].cpu().numpy()
        if self._ids is None:
            index.add(codes)
            return index
        index = faiss.IndexBinaryIDMap(index)
        index.add_with_ids(codes, self.ids)
        return index

    @classmethod
    def from_faiss(cls, index: Any) -> "IndexBinaryFlat":
        """Copy a faiss.IndexBinaryFlat, or an IndexBinaryIDMap or IndexBinaryIDMap2 of one.

        Raises:
            ImportError: faiss is not installed.
            TypeError: another kind of index.
        """
        faiss = _import_faiss()
        flat, ids = index, None
        if isinstance(index, faiss.IndexBinaryIDMap):
            flat = faiss.downcast_IndexBinary(index.index)
            ids = faiss.vector_to_array(index.id_map).view(np.uint8).reshape(-1, ID_SIZE)
        if not isinstance(flat, faiss.IndexBinaryFlat):
            raise TypeError(
                f"index is {type(flat).__name__}; expected faiss.IndexBinaryFlat "
                "or an IndexBinaryIDMap of one"
            )
        codes = faiss.vector_to_array(flat.xb).reshape(-1, flat.code_size)
        return cls._holding(FlatFile(flat.d, codes, ids))

    @classmethod
    def _holding(cls, contents: FlatFile, device: str | torch.device = "cpu") -> "IndexBinaryFlat":
        """Make an index of the given arrays themselves; `_append` never writes to them."""
        index = cls(contents.bits, device)
        index._codes = to_tensor(contents.codes).to(index.device)
        if contents.ids is not None:
            index._ids = to_tensor(contents.ids).to(index.device)
        index.ntotal = len(contents.codes)
        return index

    def _checked(self, codes: Array, name: str) -> torch.Tensor:
        return as_codes(codes, name, self.d, "this index holds")

    def _append(self, codes: torch.Tensor, ids: torch.Tensor | None) -> None:
        start, end = self.ntotal, self.ntotal + len(codes)
        all_codes = _with_room(self._codes, start, end)
        all_ids = None
        if ids is not None:
            held = self._codes.new_empty(0, ID_SIZE) if self._ids is None else self._ids
            all_ids = _with_room(held, start, end)
            all_ids[start:end] = ids
        all_codes[start:end] = codes
        self._codes, self._ids, self.ntotal = all_codes, all_ids, end

    def _ids_of(self, rows: torch.Tensor) -> torch.Tensor:
        if self._ids is None or not self.ntotal:
            return rows
        found = self._ids.index_select(0, rows.clamp(min=0).flatten()).view(torch.int64)
        return torch.where(rows < 0, rows, found.view(rows.shape))


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


def _with_room(rows: torch.Tensor, used: int, needed: int) -> torch.Tensor:
    """Return rows with room for `needed`; growing by half keeps repeated adding linear."""
    if needed <= len(rows):
        return rows
    capacity = max(needed, len(rows) + len(rows) // 2)
    grown = rows.new_empty(capacity, rows.shape[1])
    grown[:used] = rows[:used]
    return grown


def _as_ids(ids: Array | Sequence[int], n: int) -> torch.Tensor:
    """Check ids and view them as bytes [n, 8]."""
    array = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if array.shape != (n,):
        raise ValueError(f"ids has shape {array.shape}; expected one id per code, ({n},)")
    if n and array.dtype.kind not in "iu":
        raise TypeError(f"ids is {array.dtype}; expected integers")
    wide = array.astype(np.int64)
    if array.dtype.kind == "u" and (wide < 0).any():
        raise ValueError(f"ids go up to {array.max()}; expected int64, at most {2**63 - 1}")
    if (wide == NO_ID).any():
        raise ValueError(f"id {NO_ID} is taken: search returns it where there is no result")
    return torch.from_numpy(wide.view(np.uint8).reshape(n, ID_SIZE))


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "faiss is not installed: pip install faiss-cpu. Files need no faiss: "
            "save and load_index read and write its format"
        ) from error
    return faiss
