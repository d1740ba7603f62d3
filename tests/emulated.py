"""Kernels in CUDA C++ without a GPU: compiled for the CPU with `cuda_on_cpu/`, called by ctypes."""

import ctypes
import fcntl
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
FOLDER = None  # for the compiled kernels: one of the whole run (conftest.py)
COMPILE = (
    "c++", "-std=c++20", "-O2", "-shared", "-fPIC",
    "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi",
    # Two libraries may hold the same kernel; nvcc lets bytes be read as any type; longjmp leaves
    # stacks that fortified headers check.
    "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE",
    f"-I{TESTS / 'cuda_on_cpu'}", f"-I{TESTS.parent / 'csrc' / 'cuda'}",
)  # fmt: skip


class Library:
    """The functions that a compiled file declares by `EMULATED name(...)`."""

    def __init__(self, path):
        self._functions = ctypes.CDLL(str(path))

    def call(self, name, *arguments, seed=0, resident=1, processors=3, multiplies_bits=True):
        """Calls a function whose parameters are int64_t, double or pointers to arrays' entries.

        seed: which order the threads and blocks run in; resident: how many blocks are in flight.
        Raises RuntimeError with the message of what the function threw.
        """
        if resident < 1 or processors < 1:
            raise ValueError(f"at least 1 resident block and processor, not {resident, processors}")
        self._functions.cuda_on_cpu_set(
            ctypes.c_uint64(seed), *map(ctypes.c_int64, (resident, processors, multiplies_bits))
        )
        function = self._functions[name]
        function.restype = ctypes.c_char_p
        message = function(*map(_argument, arguments))
        if message is not None:
            raise RuntimeError(message.decode())


def _argument(value):
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError("a kernel's array must be contiguous: pass np.ascontiguousarray(...)")
        return value.ctypes.data_as(ctypes.c_void_p)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


def at(array, offset):
    """The same rows, `offset` bytes after an address that every vector could be read from."""
    room = np.empty(array.nbytes + 16 + offset, np.uint8)
    start = -room.ctypes.data % 16 + offset
    out = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


@functools.cache
def library(name):
    """Compiles `cuda_on_cpu/<name>` once a run; skips the test where that is impossible."""
    if not sys.platform.startswith("linux") or shutil.which(COMPILE[0]) is None:
        pytest.skip("needs Linux and a C++ compiler")
    path = FOLDER / f"{name}.so"
    with open(FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not path.exists():
            _compile(TESTS / "cuda_on_cpu" / name, path)
    return Library(path)


def _compile(source, path):
    unfinished = path.with_suffix(".unfinished")
    command = (*COMPILE, str(source), "-o", str(unfinished))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert not done.stderr, done.stderr[-5000:]
    unfinished.rename(path)
