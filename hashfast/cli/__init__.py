"""The command line: one file a command, loaded only when it is asked for.

Results go to standard output (with --json as JSON), progress and errors to standard error. Exit
status: 0 done, 1 failed, 2 bad usage.
"""

import difflib
import importlib
import sys

COMMANDS = {
    "demo": "the whole job on embedded data, in under a minute",
    "methods": "list methods, protocols and backbones",
    "train": "train a hash model on a protocol and evaluate it",
    "encode": "turn pictures or a protocol's images into codes",
    "index": "join codes into one gallery, or describe one",
    "search": "find the nearest pictures of a gallery",
    "eval": "retrieval metrics of query codes against database codes",
    "doctor": "which backend serves each operation, and why one is missing",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
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


def _usage() -> str:
    lines = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    return f"usage: hashfast COMMAND [options]\n\n{lines}\n\nhashfast COMMAND --help tells more."
