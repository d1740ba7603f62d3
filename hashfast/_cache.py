"""Arrays that take long to compute, kept in a folder by all that they depend on."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hashfast import _distributed
from hashfast._files import atomic_write
from hashfast._runs import digest


class ArrayCache:
    """Arrays by settings, each a .npy file that appears once it is whole.

    folder: None keeps them for the life of this object. Several processes share one that all of
    them see: the first computes, the others wait; without a folder each computes its own.
    """

    def __init__(self, folder: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else Path(folder or "")
        self._shared = folder is not None

    def get(
        self,
        name: str,
        settings: dict[str, Any],
        shape: tuple[int, ...],
        dtype: str,
        chunks: Callable[[], Iterable[np.ndarray]],
    ) -> np.ndarray:
        """The array kept for `settings`, or else what `chunks` yields, joined along dimension 0.

        name: first part of the file's name, for people. The array is mapped, not read: it can be
        larger than the memory.
        """
        path = self.folder / f"{name}-{digest(settings)}.npy"
        if not path.is_file() and (_distributed.rank() == 0 or not self._shared):
            self.folder.mkdir(parents=True, exist_ok=True)
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            with atomic_write(path) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks():
                    file.write(np.ascontiguousarray(chunk, dtype).tobytes())
        if self._shared:
            _distributed.barrier()
        return np.load(path, mmap_mode="c")  # "r" would not be a tensor without a warning
