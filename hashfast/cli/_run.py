"""Parse a command's options, run it, print its result."""

import dataclasses
import inspect
import json
import os
import shlex
import sys
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

import tyro
import yaml

# How YAML spells null, and switches: as the part before an option's name.
_NULL = ("", "~", "null", "Null", "NULL")
_SWITCH = {
    **dict.fromkeys(("true", "True", "yes", "on"), ""),
    **dict.fromkeys(("false", "False", "no", "off"), "no-"),
}
_FAILURES = (OSError, ValueError, TypeError, RuntimeError, ImportError, EOFError, MemoryError)
WITH_PRESETS = {"train", "condense", "distill"}
"""Commands that take --preset, each the presets made for it."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command returns: text for people, data for --json."""

    text: str
    data: dict[str, Any]

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return self.data


def run(name: str, command: Any, arguments: list[str]) -> int:
    """Exit status of `hashfast NAME ARGUMENTS`.

    `--config FILE.yaml` gives defaults for options, named as in the file, and to the commands of
    WITH_PRESETS `--preset NAME` gives them too; of both the file's win, and options on the command
    line always. `--json` prints the result as JSON.
    """
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    path = preset = None
    given: list[str] = []
    try:
        arguments, path = _take(arguments, "--config", "a file")
        if path is not None:
            arguments, given = _with_defaults(arguments, *_read_config(Path(path), command))
        if name in WITH_PRESETS:
            arguments, preset = _take(arguments, "--preset", "a name: hashfast methods lists them")
        if preset is not None:
            words = _read_preset(preset, name, command)
            arguments, given = _with_defaults(arguments, [], words)[0], [*words, *given]
    except (OSError, ValueError, yaml.YAMLError) as error:
        return failed(name, error, 2)
    extra = "With --json the result is JSON; --config FILE.yaml gives defaults for these options."
    if name in WITH_PRESETS:
        extra += " So does --preset NAME, with the settings of a paper (hashfast methods)."
    try:
        options = tyro.cli(
            command,
            args=arguments,
            prog=f"hashfast {name}",
            description=f"{inspect.getdoc(command) or ''}\n\n{extra}",
        )
    except SystemExit as error:
        if error.code in (0, None):
            return 0
        if given:
            sources = " and ".join(filter(None, (preset and f"preset {preset}", path)))
            print(f"hashfast {name}: {sources} gives {shlex.join(given)}", file=sys.stderr)
        return 2
    try:
        result = options.run()
        if result is not None:
            shown = json.dumps(result.to_dict(), indent=2, default=str) if as_json else str(result)
            print(shown)
    except KeyboardInterrupt:
        hint = "; --resume continues from the last checkpoint" * hasattr(options, "resume")
        return failed(name, f"interrupted{hint}")
    except BrokenPipeError:
        raise
    except _FAILURES as error:
        return failed(name, error)
    return 0


def failed(name: str, why: object, status: int = 1) -> int:
    """Say why on standard error; returns the exit status."""
    print(f"hashfast {name}: {str(why) or type(why).__name__}", file=sys.stderr)
    return status


def check_names(data: str, *backbones: str) -> None:
    """Raise ValueError for names that are checked again where they are used: bad usage here."""
    from hashfast.data import PROTOCOLS
    from hashfast.hashing.backbones import backbone_statistics

    if data not in PROTOCOLS:
        raise ValueError(f"unknown protocol {data!r}; known: {', '.join(PROTOCOLS)}")
    for backbone in backbones:
        with suppress(ImportError):  # a library that is missing is no bad usage
            backbone_statistics(backbone)


def _take(arguments: list[str], option: str, what: str) -> tuple[list[str], str | None]:
    """The arguments without an option, and its value."""
    for i, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return arguments[:i] + arguments[i + 1 :], argument.partition("=")[2]
        if argument == option:
            if i + 1 == len(arguments):
                raise ValueError(f"{option} needs {what}")
            return arguments[:i] + arguments[i + 2 :], arguments[i + 1]
    return arguments, None


def _with_defaults(
    arguments: list[str], positional: list[str], options: list[str]
) -> tuple[list[str], list[str]]:
    """The arguments with others that they win over among them, and those others alone.

    Of a repeated option the last counts, so the others come first; but after the positional
    arguments that the user begins with, which would else continue a list. The positional among the
    others count when the user begins with none.
    """
    start = next((i for i, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    if start:
        positional = []
    return [*positional, *arguments[:start], *options, *arguments[start:]], positional + options


def _read_preset(preset: str, name: str, command: Any) -> list[str]:
    """The settings of a preset for `hashfast NAME`, spelled as on the command line."""
    from hashfast.presets import find_preset

    def text(value: Any) -> Any:
        return [str(part) for part in value] if isinstance(value, tuple) else str(value)

    settings = {key: text(value) for key, value in find_preset(preset, name).settings.items()}
    return _spelled(settings, command, f"preset {preset}")[1]


def _read_config(path: Path, command: Any) -> tuple[list[str], list[str]]:
    """Positional arguments and options of a YAML file, spelled as on the command line."""
    with path.open(encoding="utf-8") as file:
        # Scalars stay as written, as a shell would pass them: 1e-3, and `no` as a choice.
        values = yaml.load(file, Loader=yaml.BaseLoader)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no options; expected lines of key: value")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    return _spelled(values, command, str(path))


def _spelled(values: dict[str, Any], command: Any, source: str) -> tuple[list[str], list[str]]:
    """Positional arguments and options of texts by name, spelled as on the command line."""
    known = typing.get_type_hints(command)
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(
            f"{source}: unknown option(s) {', '.join(unknown)}; known: {', '.join(known)}"
        )
    marked = typing.get_type_hints(command, include_extras=True)
    positional: list[str] = []
    options: list[str] = []
    for key, kind in known.items():  # positional arguments in the command's order
        try:
            words = _words(values.get(key, ""), kind)
        except ValueError as error:
            raise ValueError(f"{source}: {key} is {error}") from None
        flag = key.replace("_", "-")
        if tyro.conf.Positional in getattr(marked[key], "__metadata__", ()):
            positional += words
        elif kind is bool:
            options += [f"--{word}{flag}" for word in words]
        elif len(words) == 1:
            options.append(f"--{flag}={words[0]}")  # the value may begin with a dash
        elif words:
            options += [f"--{flag}", *words]
    return positional, options


def _words(value: Any, kind: Any) -> list[str]:
    """A YAML value as words of a command line; none for null. A switch gives "" or "no-", and a
    switch that may be left open True or False."""
    if value in _NULL:
        return []
    parts = value if isinstance(value, list) and typing.get_origin(kind) is tuple else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{value}; expected one value")
    if kind in (bool, bool | None):
        if value not in _SWITCH:
            raise ValueError(f"{value}; expected true or false")
        return [_SWITCH[value] if kind is bool else str(not _SWITCH[value])]
    return [os.path.expanduser(part) for part in parts]


def table(header: list[str], rows: list[list[str]]) -> str:
    """Aligned text columns; those of numbers are right-aligned."""
    cells = [header, *rows]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    marks = [">" if all(map(_is_number, column[1:])) else "<" for column in columns]
    lines = [
        "  ".join(
            f"{cell:{mark}{width}}" for cell, mark, width in zip(row, marks, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
