"""Parse a command's options, run it, print its result."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Protocol

import tyro
import yaml


class Result(Protocol):
    """What a command returns: text for people, data for --json."""

    def __str__(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Output:
    """Text and data of a result."""

    text: str
    data: dict[str, Any]

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return self.data


def run(name: str, command: Any, arguments: list[str]) -> int:
    """Exit status of `hashfast NAME ARGUMENTS`.

    `--config FILE.yaml` gives defaults for options, named as in the file; options on the command
    line win. `--json` prints the result as JSON.
    """
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    try:
        arguments, path = _take_config(arguments)
        defaults = _read_config(path, command) if path else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"hashfast {name}: {error}", file=sys.stderr)
        return 2
    extra = "  --json: print the result as JSON.  --config FILE.yaml: defaults for these options."
    try:
        options = tyro.cli(
            command,
            args=arguments,
            prog=f"hashfast {name}",
            description=f"{(command.__doc__ or '').strip()}\n\n{extra}",
            **({"default": command(**defaults)} if defaults else {}),
        )
    except SystemExit as error:
        return 0 if error.code in (0, None) else 2
    except (TypeError, ValueError) as error:
        print(f"hashfast {name}: {error}", file=sys.stderr)
        return 2
    try:
        result = options.run()
    except KeyboardInterrupt:
        print(f"hashfast {name}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        print(f"hashfast {name}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result.to_dict(), indent=2, default=str) if as_json else str(result))
    return 0


def _take_config(arguments: list[str]) -> tuple[list[str], Path | None]:
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return arguments[:i] + arguments[i + 1 :], Path(argument.partition("=")[2])
        if argument == "--config":
            if i + 1 == len(arguments):
                raise ValueError("--config needs a file")
            return arguments[:i] + arguments[i + 2 :], Path(arguments[i + 1])
    return arguments, None


def _read_config(path: Path, command: Any) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; expected options as key: value")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    known = {field.name: field for field in dataclasses.fields(command)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(
            f"{path}: unknown option(s) {', '.join(unknown)}; known: {', '.join(known)}"
        )
    required = [
        f.name
        for f in known.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"{path}: must also give {', '.join(missing)}")
    return {
        key: Path(value) if value is not None and _is_path(known[key]) else value
        for key, value in values.items()
    }


def _is_path(field: dataclasses.Field) -> bool:
    return field.type in (Path, Path | None)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Aligned text columns; numbers (right of the first column) are right-aligned."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
