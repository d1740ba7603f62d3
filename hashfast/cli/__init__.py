"""The command line: one file a command, loaded only when it is asked for.

Results go to standard output (with --json as JSON), progress and errors to standard error. Exit
status: 0 done, 1 failed, 2 bad usage.
"""

import difflib
import importlib
import os
import sys
import warnings
from functools import partial
from typing import Any

COMMANDS = {
    "demo": "the whole job on embedded data, in under a minute",
    "methods": "list methods, protocols and backbones",
    "train": "train a hash model on a protocol and evaluate it",
    "condense": "learn a few images a class to train on instead of all, and evaluate them",
    "distill": "train a small student to code as a large teacher does",
    "reproduce": "tables and figures of papers, beside the paper's numbers",
    "encode": "turn pictures or a protocol's images into codes",
    "index": "join codes into one gallery, or describe one",
    "export": "write codes for faiss, numpy, readers of Parquet, or into Milvus",
    "search": "find the nearest pictures of a gallery, or the nearest codes of many",
    "dedup": "find near-duplicates among the pictures of a gallery",
    "eval": "retrieval metrics of query codes against database codes",
    "bench": "speed on this machine, beside a paper's numbers",
    "doctor": "which backend serves each operation, and why one is missing",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    name = f"hashfast {argv[0]}" if argv and argv[0] in COMMANDS else "hashfast"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, name)
            status = _main(argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:  # while modules are loaded; `run` handles the rest
        print(f"{name}: interrupted", file=sys.stderr)
    except BrokenPipeError:
        # The reader is gone: `| head`. What is still buffered would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        import hashfast

        print(f"hashfast {hashfast.__version__}")
        return 0
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"hashfast: unknown command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"hashfast.cli.{name}").Command
    from hashfast.cli._run import run

    return run(name, command, arguments)


def _show_warning(name: str, message: Warning | str, *_: Any) -> None:
    """A warning as users read it: one line, without the place in the source."""
    print(f"{name}: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _usage() -> str:
    lines = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    return f"usage: hashfast COMMAND [options]\n\n{lines}\n\nhashfast COMMAND --help tells more."
