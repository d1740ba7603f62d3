"""Kernels in CUDA C++ without a GPU: compiled for the CPU with `cuda_on_cpu/`, called by ctypes."""

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
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


@functools.cache
def library(name):
    """Compiles `cuda_on_cpu/<name>` once; skips the test where that is impossible."""
    if not sys.platform.startswith("linux") or shutil.which(COMPILE[0]) is None:
        pytest.skip("needs Linux and a C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        command = (*COMPILE, str(TESTS / "cuda_on_cpu" / name), "-o", str(path))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        assert not done.stderr, done.stderr[-5000:]
        return Library(path)
