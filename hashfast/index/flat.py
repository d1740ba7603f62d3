"""The exact index over packed codes, with the habits of faiss's IndexBinaryFlat."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import torch

from hashfast._inputs import Array, as_codes
from hashfast.index.allowed import Allowed, as_bitmap
from hashfast.index.base import IndexBinary
from hashfast.index.checks import check_k, check_radius, like, warn_if_padded
from hashfast.index.held import Held
from hashfast.index.io import FlatFile, read_flat, write_flat
from hashfast.index.pairs import pairs
from hashfast.index.placed import MOST_ROWS, Device, Placed, Places, free
from hashfast.index.with_faiss import copy_from_faiss, copy_to_faiss

_CPU = torch.device("cpu")


class IndexBinaryFlat(IndexBinary[Held]):
    """Packed codes all of which every search reads, many queries at a time.

    `to` moves them to a GPU or several. Of codes that lie on one GPU, a search with a torch query
    there only issues work to the current stream: it waits for nothing, except that `allowed` in
    another form than a mask or bitmap there is made on the host, and it can be captured in a CUDA
    graph. So nothing is looked up to check it: set padding bits of the query are taken for zeros,
    and where `allowed` leaves fewer than k codes there is no warning. A range search waits for the
    number of hits.

    Any number of threads may read while one adds or removes; each call sees the codes of one
    moment. A process forked after a search on several threads hangs when it searches, as with torch
    and faiss (OpenMP): start processes by spawn, or call torch.set_num_threads(1) in the child
    first.

    Attributes:
        devices: those searched; `device`, where results are put together, is the first.
    """

    _places: Places | None = None  # of codes that lie on the host and are searched elsewhere

    def __init__(self, bits: int, device: str | torch.device = "cpu") -> None:
        """Make an empty index.

        Args:
            bits: bits per code, 1 to 65,528; need not be a multiple of 8.
            device: where to keep the codes.

        Raises:
            TypeError, ValueError: bits is not such a number.
        """
        super().__init__(bits, device)

    def __repr__(self) -> str:
        if self._places is None:
            where = f"device='{self.device}'"
        else:
            where = f"devices={[str(device) for device in self.devices]}"
        return f"IndexBinaryFlat(bits={self.d}, ntotal={self.ntotal}, {where})"

    def to(
        self, device: Device | Sequence[Device], *, memory: int | None = None
    ) -> "IndexBinaryFlat":
        """The index on another device, or on several; results are the same to the bit.

        Like a tensor's `to`, it makes a new index that changes for itself, or returns this one
        where it is there already. Fewer than 2**32 codes that fit on one device lie there alone,
        unless `memory` is given. In all other cases the host keeps the codes, and each device
        searches a part of the rows, of which it keeps what fits; every search copies the others
        there, block by block, each while the one before is searched (through 256 MiB of the GPU's
        and of pinned memory; all queries of a call share the copies). `codes` and `pairs` are then
        the host's.

        Codes added to such an index are streamed until a quarter is new, or `to` is called again
        with the same devices; after that, and after codes are removed, the next search places all
        anew. From the adding until then, ids are looked up on the host. Codes added to those that
        lie on a GPU alone may copy these into room half as large again, and for a moment both are
        there: where that does not fit, add before moving, or give `memory`.

        Args:
            device: "cuda", "cuda:1", a torch.device, "cpu"; or a list, of which each device takes
                as many rows.
            memory: bytes of codes that each device keeps at most, also of those added later; ids
                come on top. Default: of a GPU what is free, less a tenth of it and at least 2 GiB
                for searches.

        Raises:
            TypeError, ValueError, RuntimeError: no such device, or a bad `memory`.
        """
        held, places = self._held, Places.of(device, memory)
        home = places.devices[0]
        if places.devices == self.devices and memory in (None, self._memory):
            self._update(lambda held: held.unsettled())
            self._ready()
            return self
        other = IndexBinaryFlat(self.d, home)
        alone = len(places.devices) == 1 and memory is None
        fits = held.ids.n <= MOST_ROWS and held.codes.nbytes + held.ids.nbytes <= free(home)
        if alone and (held.device == home or fits):
            other._held = held.to(home)
            return other
        host = held.to(_CPU)
        other._places = places
        other._held = Placed(host.rows, host.ids, places)
        other._ready()
        return other

    @property
    def devices(self) -> tuple[torch.device, ...]:
        return (self.device,) if self._places is None else self._places.devices

    @property
    def streamed(self) -> int:
        """Codes that every search copies to a device, because they do not fit there."""
        return self._ready().streamed

    @property
    def codes(self) -> Array:
        """The codes, uint8 [ntotal, code_size], without a copy.

        A read-only numpy view of codes on the host; a tensor of those on another device.
        """
        return _as_held(self._held.codes)

    def search(self, query: Array, k: int, allowed: Allowed | None = None) -> tuple[Array, Array]:
        held, queries = self._ready(), self._queries(query)
        n = held.ids.n
        k = check_k(k, n)
        bitmap = as_bitmap(allowed, n, held.ids.find, self.device)
        distances, rows = held.nearest(queries.to(self.device), k, bitmap)
        found, ids = like(query, distances, held.ids_at(rows))
        warn_if_padded(found, n, filtered=allowed is not None)
        return found, ids

    def range_search(
        self, query: Array, radius: int, allowed: Allowed | None = None, strict: bool = False
    ) -> tuple[Array, Array, Array]:
        held, queries = self._ready(), self._queries(query)
        radius = check_radius(radius, self.code_size, strict)
        bitmap = as_bitmap(allowed, held.ids.n, held.ids.find, self.device)
        limits, distances, rows = held.within(queries.to(self.device), radius, bitmap)
        bounds, found, ids = like(query, limits, distances, held.ids_at(rows))
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
        codes = _as_held(held.codes)
        found = pairs(codes, radius)
        if held.ids.given is None:
            return found
        (ids,) = like(codes, torch.from_numpy(held.ids.array()))
        return ((ids[i], ids[j], distances) for i, j, distances in found)

    def reset(self) -> None:
        if self._places is None:
            self._held = Held.empty(self.code_size, self.device)
        else:
            empty = Held.empty(self.code_size, _CPU)
            self._held = Placed(empty.rows, empty.ids, self._places)

    def write(self, file: BinaryIO) -> None:
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
        """Make an index of the given arrays themselves, or of copies on another device."""
        index = cls(contents.bits)
        index._held = Held.of(contents, _CPU)
        return index.to(device)

    @property
    def _memory(self) -> int | None:
        return None if self._places is None else self._places.memory

    def _ready(self) -> Held:
        """The codes where they are searched."""
        while not (held := self._held).is_placed:  # another thread may change them meanwhile
            self._update(lambda held: held.placed())
        return held

    def _queries(self, query: Array) -> torch.Tensor:
        on_host = not isinstance(query, torch.Tensor) or query.device.type == "cpu"
        if on_host or not self.d % 8 or query.shape[1:] != (self.code_size,):
            return self._checked(query, "query")
        return clear_padding(as_codes(query, "query"), self.d)


def clear_padding(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """A copy of codes uint8 [n, ceil(bits / 8)] whose last bits beyond `bits` are zero."""
    codes = codes.clone()
    codes[:, -1] &= 0xFF << -bits % 8 & 0xFF
    return codes


def _as_held(codes: torch.Tensor) -> Array:
    if codes.device.type != "cpu":
        return codes
    view = codes.numpy()
    view.flags.writeable = False
    return view


def as_flat(index: IndexBinary[Any]) -> IndexBinaryFlat:
    """The codes and ids of any index on the CPU in a flat one; itself where it is one."""
    if isinstance(index, IndexBinaryFlat):
        return index
    flat = IndexBinaryFlat(index.d)
    if index.numbered:
        flat.add(index.codes)
    else:
        flat.add_with_ids(index.codes, index.ids)
    return flat


def load_flat(
    path: str | os.PathLike, mmap: bool = False, device: str | torch.device = "cpu"
) -> IndexBinaryFlat:
    """`hashfast.load_index` where only a flat index will do."""
    return IndexBinaryFlat._holding(read_flat(path, mmap), device)
