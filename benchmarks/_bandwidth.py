"""The read bandwidth of memory, as the best of three plain loops compiled here (_bandwidth.c)."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

READERS = ("plain", "prefetched", "two streams")
_SOURCE = Path(__file__).with_name("_bandwidth.c")
_BUILD = ("-O3", "-march=native", "-shared", "-fPIC", "-pthread")


def compile_readers(folder: Path) -> Path:
    """Build the loops for this CPU; raises RuntimeError where there is no compiler, or it fails."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("read bandwidth needs a C compiler: none is on PATH, and CC is not set")
    library = folder / "_bandwidth.so"
    command = [*compiler.split(), *_BUILD, str(_SOURCE), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[:300]}")
    return library


class Readers:
    """The compiled loops; each reads all of an array but its last, incomplete block of 512 bytes.

    The number returned is the XOR of the 64-bit words that were read.
    """

    def __init__(self, library: Path) -> None:
        self._read = ctypes.CDLL(str(library)).read_memory
        self._read.restype = ctypes.c_uint64
        self._read.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int)

    def read(self, name: str, array: np.ndarray, threads: int) -> int:
        """Read a C-contiguous array with the loop of that name; raises ValueError otherwise."""
        if not array.flags.c_contiguous:
            raise ValueError("the array to read is not contiguous: np.ascontiguousarray copies it")
        return self._read(array.ctypes.data, array.nbytes, READERS.index(name), threads)
