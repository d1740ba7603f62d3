"""Rows of results: their columns, the CSV files they are kept in, and how they are printed."""

import csv
import datetime
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EAGER, CUDA_GRAPH = "eager", "CUDA graph"

INTEGERS = ("size", "rounds", "threads", "n", "bits", "queries", "k")
FLOATS = (
    *("median_ms", "p20_ms", "p80_ms", "cpu_median_ms", "peak_memory_mb", "ratio"),
    *("build_ms", "first_ms", "gpairs_s", "speedup", "gb_s", "bandwidth_gb_s", "of_bandwidth"),
    *("map", "timed_share", "before_mb", "tpairs_s", "limit_ms", "of_limit", "paper_ms"),
    *("paper_ratio", "per_cycle", "per_second", "clock_ghz", "milliseconds"),
)
COLUMNS = (
    *("op", "provider", "backend", "mode", "execution", "shape", "size", "dtype"),
    *("median_ms", "p20_ms", "p80_ms", "cpu_median_ms", "rounds", "peak_memory_mb"),
    *("ratio", "baseline", "ratio_clock", "threads", "device", "cpu"),
    *("torch", "triton", "hashfast", "commit", "date"),
)

Row = dict[str, Any]


def today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str:
    """HASHFAST_COMMIT, or what git says; "-dirty" marks changes outside the results."""
    if os.environ.get("HASHFAST_COMMIT"):
        return os.environ["HASHFAST_COMMIT"]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def machine_slug(name: str) -> str:
    """File name for a machine: its model's name in lower case, without trademarks and clock rate.

    Raises ValueError when the name holds this computer's host name, which is nobody's business.
    """
    host = re.sub(r"[^a-z0-9]+", "-", platform.node().lower()).strip("-")
    name = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", " ", name.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if not slug:
        raise ValueError(f"{name!r} names no machine; give --machine, such as nvidia-h200")
    if host and f"-{host}-" in f"-{slug}-":
        raise ValueError(
            f"machine {slug!r} holds the host name; give the device's model with --machine"
        )
    return slug


def append_rows(path: Path, rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Append to a CSV file, made with a header when it is new; floats keep 6 digits, NaN is empty.

    Raises ValueError when the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="") as file:
            found = next(csv.reader(file))
        if found != list(columns):
            raise ValueError(f"{path} has columns {found}; expected {list(columns)}: move it away")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({key: _as_text(value) for key, value in row.items()})


def read_rows(path: Path) -> list[Row]:
    """Rows of a results file, numbers as numbers."""
    with path.open(newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        row |= {key: int(row[key]) for key in INTEGERS if key in row}
        row |= {key: float(row[key] or "nan") for key in FLOATS if key in row}
    return rows


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def table(rows: list[Row]) -> str:
    """The rows of one case, one line a provider."""
    head = ("mode", "provider", "backend", "median", "p20 .. p80", "CPU", "MB", "ratio")
    lines = [head]
    for row in rows:
        mode = row["mode"] if row["execution"] == EAGER else f"{row['mode']}, {row['execution']}"
        memory, ratio = row["peak_memory_mb"], row["ratio"]
        lines.append(
            (
                *(mode, row["provider"], row["backend"], duration(row["median_ms"])),
                f"{duration(row['p20_ms'])} .. {duration(row['p80_ms'])}",
                duration(row["cpu_median_ms"]),
                "" if math.isnan(memory) else f"{memory:.1f}",
                "" if math.isnan(ratio) else f"{ratio:.2f}x",
            )
        )
    if all(math.isnan(row["peak_memory_mb"]) for row in rows):
        lines = [line[:6] + line[7:] for line in lines]
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, one line a row."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def duration(milliseconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("us", 1e3), ("ms", 1.0)):
        if milliseconds * scale < 999.5:
            value = milliseconds * scale
            return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 0.01))))}f} {unit}"
    return f"{milliseconds / 1e3:.3g} s"


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"
