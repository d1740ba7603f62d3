"""Exact search of codes that are spread over the processes of torch.distributed."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hashfast import _distributed, ops
from hashfast._inputs import Array, as_codes
from hashfast.index.allowed import Allowed, as_bitmap
from hashfast.index.base import IndexBinary
from hashfast.index.checks import RESULT_BYTES, check_k, check_radius, like, warn_if_padded
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.ids import as_ids, find_ids, find_row_numbers, listed
from hashfast.index.io import ID_SIZE, FlatFile
from hashfast.index.merging import Hits, gather_ranges, gather_topk, join_ranges, padded
from hashfast.index.shards import open_part, read_facts

_GATHERED_BYTES = 64 << 20  # of results of all processes, held at once
_RANGE_QUERIES = 1024  # at once: how many hits they have shows only when they are found


class _Rows(NamedTuple):
    """Rows of the part that may be found: their bitmap, or None for all n of the part."""

    bitmap: np.ndarray | None
    n: int


class IndexBinarySharded:
    """Codes of which every process holds a part, searched as if one process held them all.

    The parts follow one another in the order of ranks: of n0 codes in process 0, process 1 has rows
    n0 and on. Results are those of one index of all codes to the bit, whatever the number of
    processes and the sizes of their parts, which may be empty. Either all parts number their codes
    themselves, and ids are rows of the whole, or all have ids of their own.

    Making one, `open`, `search` and `range_search` are collective: all processes call them, in the
    same order. The arguments of the first process count, every process gets all results, and an
    error in one is raised in all. Without a process group the only process is the first.

    Queries and results travel from where the part lies, by gloo from the CPU and by NCCL from a
    GPU. Meanwhile a process holds the results that all processes have for a block of queries: 64
    MiB, or those of one query where these are more. Hits of a range search, whose number is not
    known before, are exchanged for 1024 queries at once.

    Attributes:
        part: this process's index.
        d: bits per code.
        code_size: bytes per code.
        ntotal: codes in all processes; also len(index).
        first_row: row of this process's first code.
    """

    def __init__(self, part: IndexBinary[Any]) -> None:
        """Join the parts of all processes, which must not change from then on.

        Raises:
            ValueError: parts of different widths, some with ids of their own and some without, or
                a process group that carries no tensors of the CPU.
        """
        _distributed.check_group()
        with _distributed.all_or_none():
            own = part.d, part.ntotal, part.numbered
        parts = _distributed.gather_objects(own)
        _check_alike([f"has {bits}-bit codes" for bits, _, _ in parts])
        kinds = {True: "numbers its codes itself", False: "has codes with ids of their own"}
        _check_alike([kinds[numbered] if n else "" for _, n, numbered in parts])
        self.part = part
        self.d, self.code_size = part.d, part.code_size
        self._numbered = all(numbered for _, n, numbered in parts if n)
        self._sizes = [n for _, n, _ in parts]
        self.ntotal = sum(self._sizes)
        self.first_row = sum(self._sizes[: _distributed.rank()])
        self._device = part.device

    @classmethod
    def open(
        cls, path: str | os.PathLike, device: str | torch.device = "cpu"
    ) -> "IndexBinarySharded":
        """Open a file or folder of codes, of which each process takes its part.

        Args:
            path: an .npy file of packed codes, an index file, a gallery or a Parquet set, as
                `open_part` takes them. On several machines all need it, in a shared folder or as
                copies.
            device: where to search the part, as IndexBinaryFlat.to takes it. On the CPU, and of
                what a GPU has no room for, all but Parquet stays where it is, mapped into memory;
                the files must not be overwritten in place meanwhile.

        Raises:
            OSError, ValueError, TypeError, ImportError: as `open_part`; ValueError also where the
                processes see different codes.
        """
        _distributed.check_group()
        with _distributed.all_or_none():
            rows = open_part(path, _distributed.rank(), _distributed.world())
            ids = None if rows.ids is None else rows.ids.view(np.uint8).reshape(-1, ID_SIZE)
            part = IndexBinaryFlat._holding(FlatFile(rows.bits, rows.codes, ids), device)
            digest = read_facts(path).get("digest")
            which = f", digest {digest}" if digest else ""
            seen = f"sees {rows.n_total} codes of {rows.bits} bits{which} in {path}"
        _check_alike(_distributed.gather_objects(seen))
        return cls(part)

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        return f"IndexBinarySharded(bits={self.d}, ntotal={self.ntotal}, part={self.part!r})"

    def search(
        self, query: Array | None, k: int, allowed: Allowed | None = None
    ) -> tuple[Array, Array]:
        """Find the k nearest codes of every query, exactly, among those of all processes.

        Args:
            query: uint8 [q, code_size], numpy or torch. Only the first process's is read; in the
                others it may be None.
            k: neighbours per query, 1 to 2**31 - 1; results take 12 bytes each.
            allowed: the codes that may be found, in the forms of IndexBinaryFlat.search: ids, a
                bool mask of the rows of all processes, or its bitmap. Default: all.

        Returns:
            distances int32 [q, k] and ids int64 [q, k] in every process, ordered and padded as by
            IndexBinaryFlat.search; of padding the first process warns. numpy; torch on the query's
            device in processes that give a torch query.

        Raises:
            TypeError, ValueError: as of IndexBinaryFlat.search, or a part has changed.
            MemoryError: there is no room for the results.
            RuntimeError: another error in a process, or its end.
        """
        queries, k, rows = self._asked(query, lambda: check_k(k, self.ntotal), allowed)
        width = min(k, max(self._sizes))
        block = max(1, _GATHERED_BYTES // (RESULT_BYTES * len(self._sizes) * max(1, width)))
        for start in range(0, max(1, len(queries)), block):
            some = slice(start, start + block)
            with _distributed.all_or_none():
                if start == 0:
                    distances, ids = self._room(len(queries), k)
                found = self._nearest(queries[some], width, rows)
            distances[some], ids[some] = gather_topk(*found, k)
        if _distributed.rank() == 0:
            warn_if_padded(distances, self.ntotal, filtered=allowed is not None)
        first, second = like(_or_numpy(query), distances, ids)
        return first, second

    def range_search(
        self,
        query: Array | None,
        radius: int,
        allowed: Allowed | None = None,
        strict: bool = False,
    ) -> tuple[Array, Array, Array]:
        """Find every code of any process within `radius` bits of every query, radius included.

        Args:
            query: as in `search`.
            radius: largest distance in bits, 0 or more.
            allowed: the codes that may be found, as in `search`. Default: all.
            strict: keep distances below the radius only, as faiss's range_search does.

        Returns:
            limits int64 [q + 1], distances int32 and ids int64 [limits[-1]] in every process,
            ordered as by IndexBinaryFlat.range_search; numpy or torch as in `search`.

        Raises:
            TypeError, ValueError, RuntimeError: as in `search`.
        """
        queries, radius, rows = self._asked(
            query, lambda: check_radius(radius, self.code_size, strict), allowed
        )
        blocks = []
        for some in queries.split(_RANGE_QUERIES):
            with _distributed.all_or_none():
                found = self._within(some, radius, rows)
            blocks.append(gather_ranges(*found))
        limits, distances, ids = like(_or_numpy(query), *join_ranges(blocks))
        return limits, distances, ids

    def _asked(
        self, query: Array | None, number: Callable[[], int], allowed: Allowed | None
    ) -> tuple[Tensor, int, _Rows]:
        """The first process's queries and number (k or radius), and the rows it allows here."""
        given: list[Tensor] = []

        def check() -> tuple[int, list[tuple[torch.Size, torch.dtype]]]:
            value = number()
            given.append(as_codes(query, "query", self.d, "this index holds"))  # type: ignore[arg-type]
            if allowed is not None:
                given.append(self._bitmap_or_ids(allowed))
            return value, [(tensor.shape, tensor.dtype) for tensor in given]

        value, forms = _distributed.from_first(check)
        n, said = self.part.ntotal, self._sizes[_distributed.rank()]
        with _distributed.all_or_none():
            if n != said:
                raise ValueError(
                    f"the part had {said} codes when it was joined to the others and has {n} now: "
                    "make a new IndexBinarySharded of it"
                )
            tensors = given or [torch.empty(shape, dtype=dtype) for shape, dtype in forms]
            tensors[0] = tensors[0].to(self._device)
        tensors = [_distributed.rows_from_first(tensor) for tensor in tensors]
        if len(tensors) == 1:
            return tensors[0], value, _Rows(None, n)
        return tensors[0], value, self._rows_here(tensors[1])

    def _bitmap_or_ids(self, allowed: Allowed) -> Tensor:
        """A bitmap of all rows, uint8; int64 [m] where codes have ids of their own and these are
        such ids, which only their process finds."""
        values = allowed if isinstance(allowed, Array) else np.asarray(listed(allowed))
        if self._numbered or values.dtype in (torch.uint8, torch.bool, np.uint8, np.bool_):
            find = partial(find_row_numbers, n=self.ntotal)
            bitmap = as_bitmap(allowed, self.ntotal, find, torch.device("cpu"))
            assert bitmap is not None
            return bitmap
        return torch.from_numpy(
            as_ids(listed(allowed), "allowed", "a list or array of ids, or a mask")
        )

    def _rows_here(self, allowed: Tensor) -> _Rows:
        """The rows of this part among those that `_bitmap_or_ids` made."""
        values, n = allowed.numpy(), self.part.ntotal
        mask, missing = np.zeros(n, bool), values[:0]
        with _distributed.all_or_none():
            if allowed.dtype == torch.uint8:
                start, skip = divmod(self.first_row, 8)
                bits = np.unpackbits(values[start : start + (skip + n + 7) // 8])
                mask = bits[skip : skip + n].astype(bool)
                held = None
            else:
                rows, last = find_ids(values, self.part.ids)
                mask[rows] = True
                held = torch.from_numpy(last >= 0)[None]
            found = _Rows(ops.pack(mask), int(mask.sum()))
        if held is not None and len(values):
            missing = values[~_distributed.gather_rows(held).any(0).numpy()]
        if len(missing):
            raise ValueError(
                f"allowed has id {missing[0]}, which none of the {self.ntotal} codes searched has"
            )
        return found

    def _nearest(self, queries: Tensor, width: int, rows: _Rows) -> tuple[Tensor, Tensor]:
        """The nearest codes of this part, with ids of the whole; [q, width], padded."""
        k = min(width, rows.n)
        if not k:
            return padded(*self._room(len(queries), 0), width)
        found: tuple[Any, Any] = self.part.search(queries, k, rows.bitmap)
        return padded(found[0], self._of_all(found[1]), width)

    def _within(self, queries: Tensor, radius: int, rows: _Rows) -> Hits:
        """The hits in this part, with ids of the whole."""
        if radius < 0 or not rows.n:
            limits = torch.zeros(len(queries) + 1, dtype=torch.int64, device=self._device)
            distances, ids = self._room(1, 0)
            return limits, distances[0], ids[0]
        found: tuple[Any, ...] = self.part.range_search(queries, radius, rows.bitmap)
        return found[0], found[1], self._of_all(found[2])

    def _of_all(self, ids: Tensor) -> Tensor:
        return ids + self.first_row if self._numbered else ids

    def _room(self, q: int, k: int) -> tuple[Tensor, Tensor]:
        """Uninitialised distances int32 [q, k] and ids int64 [q, k]."""
        try:
            distances = torch.empty(q, k, dtype=torch.int32, device=self._device)
            return distances, torch.empty(q, k, dtype=torch.int64, device=self._device)
        except RuntimeError as error:
            raise MemoryError(
                f"no memory for k = {k} neighbours of {q} queries, which take "
                f"{RESULT_BYTES * q * k} bytes: lower k or search for fewer queries at once"
            ) from error


def _or_numpy(query: Array | None) -> Array:
    return np.empty(0) if query is None else query


def _check_alike(said: Sequence[str]) -> None:
    """Raise ValueError where two processes say different things; "" goes with everything."""
    heard = [(rank, what) for rank, what in enumerate(said) if what]
    for rank, what in heard:
        if what != heard[0][1]:
            raise ValueError(
                f"process {heard[0][0]} {heard[0][1]} and process {rank} {what}: expected the same "
                "in all"
            )
