"""Peers in processes of their own, where they find what their users have: no other library."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from _rows import first_line

# A thread that waits by spinning would keep a core from the process that is timed next.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}


class Remote:
    """An object made and kept in a fresh process; its methods are called from here.

    Between calls the process sleeps. `call` raises RuntimeError with the first line of what went
    wrong there, also when the process has ended.

    factory: a function or class that can be imported by its name.
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        self.name = factory.__name__
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=ENVIRONMENT | os.environ,
            )
        # Where to import from comes before what needs it.
        self._pipe.send(sys.path)
        self._pipe.send((factory, arguments))

    def call(self, method: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((method, arguments))
            done, result = self._pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise RuntimeError(f"the process of {self.name} ended with code {code}") from None
        if not done:
            raise RuntimeError(result)
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(pipe: Connection) -> None:
    """Make the object, then answer calls until the other end closes."""
    sys.path[:] = pipe.recv()
    factory, arguments = pipe.recv()
    target = factory(*arguments)
    while True:
        try:
            method, values = pipe.recv()
        except EOFError:
            return
        try:
            reply = True, getattr(target, method)(*values)
        except Exception as error:
            reply = False, first_line(error)
        pipe.send(reply)


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in 10^6 bytes.

    Not ru_maxrss: that starts with the memory of the process which started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("/proc/self/status has no VmHWM, the peak of resident memory")


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
