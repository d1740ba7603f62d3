"""Time exact Hamming top-k on the CPU beside faiss, usearch and numpy, and the read bandwidth.

python benchmarks/bench_search.py [--set bars|small|full] [--bits 64] [--codes learned]

Every library searches in a process of its own and they take turns. A ratio is how many times faster
than faiss: in CPU time on one thread, in wall time on more. A search by one query is also held
against the best of three loops that only read the same codes. Exits with 1 when hashfast finds
other distances than faiss, or not in order of (distance, id): its speed is then not printed.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from _bandwidth import READERS, compile_readers
from _bench import stamp
from _peers import HASHFAST, disagreement
from _processes import Remote
from _rows import RESULTS, Row, aligned, append_rows, duration, machine_slug
from _search import PROVIDERS, Answer, Codes, version
from _search_cases import BARS, SETS, Case, add_options, bar_verdicts, cases
from _timing import MIN_ROUNDS, Timing, measure

from hashfast.ops import OPS

BASELINE, JUDGE = "faiss", "numpy"
SECONDS_EACH = {"bars": 1.0, "small": 0.3, "full": 0.5}
# A round of so many pairs takes seconds; three of them must do.
MANY_PAIRS, FEW_ROUNDS = 10**9, 3
# Long beside what the change to another process costs, a few tenths of a millisecond.
TURN_SECONDS = 0.02

COLUMNS = (
    *("provider", "surface", "backend", "codes", "n", "bits", "queries", "k", "threads"),
    *("median_ms", "p20_ms", "p80_ms", "cpu_median_ms", "rounds", "build_ms", "first_ms"),
    *("gpairs_s", "ratio", "baseline", "ratio_clock", "speedup"),
    *("gb_s", "bandwidth_gb_s", "of_bandwidth"),
    *("device", "cpu", "torch", "hashfast", "commit", "date"),
)

Sample = Callable[[int], tuple[float, float]]


class Held(Protocol):
    """A provider somewhere: its methods by name."""

    def call(self, method: str, *arguments: Any) -> Any: ...


class Opened(NamedTuple):
    """A search that is ready: seconds to make it and of its first call, and what that found."""

    build: float
    first: float
    answer: Answer


class SearchBench:
    """Checks and times cases; `notes` and `wrong` say what could not be measured.

    providers: by name; faiss and numpy, which decide what is right, among them.
    bandwidth: whether the one that has hashfast can read memory.
    """

    def __init__(
        self, providers: Mapping[str, Held], kind: str, seconds: float, bandwidth: bool
    ) -> None:
        self.providers, self.kind, self.seconds = providers, kind, seconds
        self.bandwidth = bandwidth
        self.stamp = stamp("cpu", 1)
        self.notes: list[str] = []
        self.wrong: list[str] = []
        self._loaded: Codes | None = None

    def rows(self, case: Case) -> list[Row]:
        """A row for every way of searching that is right; none when hashfast is not."""
        self._load(Codes(case.n, case.bits, self.kind))
        opened = {}
        for name, surface in self._contenders(case):
            try:
                opened[name, surface] = self._open(case, name, surface)
                why = self._why_wrong(name, opened[name, surface], opened)
            except RuntimeError as error:
                why = str(error)
            if why:
                opened.pop((name, surface), None)
                self._leave_out(case, name, surface, why)
                if name in (HASHFAST, BASELINE):
                    return []
        timings = self._timings(case, list(opened))
        for name, surface in opened:
            if name == HASHFAST and not self._same_again(case, surface, opened[name, surface]):
                self._leave_out(case, name, surface, "a later call does not find the same")
                return []
        return [self._row(case, key, opened[key], timings) for key in opened]

    def _load(self, codes: Codes) -> None:
        if codes != self._loaded:
            for provider in self.providers.values():
                provider.call("load", codes)
            self._loaded = codes

    def _contenders(self, case: Case) -> list[tuple[str, str]]:
        """(provider, surface), faiss first: what it finds is what the others must find."""
        fits = [
            name
            for name in sorted(self.providers, key=lambda name: name != BASELINE)
            if case.n * case.queries <= PROVIDERS[name].most_pairs
            and case.threads <= PROVIDERS[name].most_threads
        ]
        return [
            (name, surface)
            for name in fits
            for surface in (case.surfaces if name == HASHFAST else PROVIDERS[name].surfaces)
        ]

    def _open(self, case: Case, name: str, surface: str) -> Opened:
        build = self.providers[name].call("open", surface)
        return Opened(build, *self._answer(case, name, surface))

    def _answer(self, case: Case, name: str, surface: str) -> tuple[float, Answer]:
        arguments = (surface, case.queries, case.k, case.threads)
        return self.providers[name].call("answer", *arguments)

    def _why_wrong(self, name: str, found: Opened, opened: dict[tuple[str, str], Opened]) -> str:
        distances, ids = found.answer
        expected = opened[BASELINE, ""].answer[0]
        why = disagreement(torch.from_numpy(distances), torch.from_numpy(expected))
        if why:
            return f"distances are not those of {BASELINE}: {why}"
        return self.providers[JUDGE].call("judge", distances, ids) if name == HASHFAST else ""

    def _same_again(self, case: Case, surface: str, first: Opened) -> bool:
        _, again = self._answer(case, HASHFAST, surface)
        return all(map(np.array_equal, again, first.answer))

    def _leave_out(self, case: Case, name: str, surface: str, why: str) -> None:
        text = f"{case}: {label(name, surface)}: not timed, {why}"
        self.notes.append(text)
        if name == HASHFAST:
            self.wrong.append(text)

    def _timings(self, case: Case, keys: list[tuple[str, str]]) -> dict[Any, Timing]:
        """By (provider, surface); also by reader, and of hashfast on one thread as "alone"."""
        search = (case.queries, case.k)
        samples: dict[Any, Sample] = {
            (name, surface): partial(
                self.providers[name].call, "time", surface, *search, case.threads
            )
            for name, surface in keys
        }
        ours = self.providers[HASHFAST]
        if case.threads > 1:
            samples["alone"] = partial(ours.call, "time", case.surfaces[0], *search, 1)
        if case.queries == 1 and self.bandwidth:
            samples |= {
                reader: partial(ours.call, "read", reader, case.threads) for reader in READERS
            }

        rounds = FEW_ROUNDS if case.n * case.queries > MANY_PAIRS else MIN_ROUNDS
        return measure(samples, call_sample, self.seconds, rounds, TURN_SECONDS)

    def _row(
        self, case: Case, key: tuple[str, str], opened: Opened, timings: dict[Any, Timing]
    ) -> Row:
        name, surface = key
        clock = "cpu" if case.threads == 1 else "median"

        def seconds(key: Any) -> float:
            return getattr(timings[key], clock)

        timing, size = timings[key], case.n * case.bits / 8e9
        reading = min(
            (seconds(reader) for reader in READERS if reader in timings), default=math.nan
        )
        alone = timings["alone"].median if "alone" in timings else math.nan
        main = key == (HASHFAST, case.surfaces[0])
        return {key: self.stamp[key] for key in COLUMNS if key in self.stamp} | {
            "provider": name,
            "surface": surface,
            "backend": backend(name),
            "codes": self.kind,
            **{axis: getattr(case, axis) for axis in ("n", "bits", "queries", "k", "threads")},
            **timing.columns(),
            "build_ms": 1e3 * opened.build,
            "first_ms": 1e3 * opened.first,
            "gpairs_s": case.n * case.queries / 1e9 / seconds(key) / case.threads,
            "ratio": seconds((BASELINE, "")) / seconds(key),
            "baseline": BASELINE,
            "ratio_clock": "cpu" if case.threads == 1 else "wall",
            "speedup": alone / timing.median if main else math.nan,
            "gb_s": size / seconds(key) if case.queries == 1 else math.nan,
            "bandwidth_gb_s": size / reading,
            "of_bandwidth": reading / seconds(key),
        }


def call_sample(sample: Sample, calls: int) -> tuple[float, float]:
    return sample(calls)


def label(name: str, surface: str) -> str:
    return f"{name} {surface}".strip()


def backend(name: str) -> str:
    """What serves a provider: the kernel of ours, or the other library's version."""
    return OPS["hamming_topk"].backend("cpu") if name == HASHFAST else f"{name} {version(name)}"


def table(rows: list[Row]) -> str:
    """The rows of one case; columns that say nothing are left out."""

    def shown(value: float, form: str) -> str:
        return "" if math.isnan(value) else form.format(value)

    head = ("provider", "backend", "made in", "first call", "median", "p20 .. p80", "CPU")
    head += ("Gpairs/s a core", "ratio", "x 1 thread", "GB/s", "of bandwidth")
    lines = [head]
    for row in rows:
        lines.append(
            (
                *(label(row["provider"], row["surface"]), row["backend"]),
                "" if math.isnan(row["build_ms"]) else duration(row["build_ms"]),
                *(duration(row[key]) for key in ("first_ms", "median_ms")),
                f"{duration(row['p20_ms'])} .. {duration(row['p80_ms'])}",
                duration(row["cpu_median_ms"]),
                f"{row['gpairs_s']:.2f}",
                f"{row['ratio']:.2f}x",
                shown(row["speedup"], "{:.2f}x"),
                shown(row["gb_s"], "{:.1f}"),
                shown(row["of_bandwidth"], "{:.0%}"),
            )
        )
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    return aligned(list(zip(*columns, strict=True)))


def verdicts(rows: list[Row]) -> list[str]:
    """A line for every bar that something was measured for."""
    return bar_verdicts(BARS, rows, 2)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, SETS, ("n", "bits", "queries", "k", "threads"), "CPU")
    parser.add_argument("--codes", choices=("random", "learned"), default="random")
    options = parser.parse_args(arguments)
    axes = {axis: getattr(options, axis) for axis in ("n", "bits", "queries", "k", "threads")}
    options.changed = any(axes.values())
    options.cases = cases(options.set, **axes)
    options.seconds = SECONDS_EACH[options.set] if options.seconds is None else options.seconds
    for case in options.cases:
        if case.bits % 8 or not 0 < case.queries <= 512 or not 0 < case.k <= case.n:
            parser.error(f"{case}: bits come in eights, queries up to 512, k up to n")
    return options


def main(arguments: list[str] | None = None) -> int:
    start = time.perf_counter()
    options = parse(arguments)
    missing = [name for name in PROVIDERS if version(name) is None]
    if BASELINE in missing:
        print("faiss decides what is right: pip install faiss-cpu", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hashfast-")))
        notes = [f"{name}: not installed, left out" for name in missing]
        readers = None
        try:
            readers = compile_readers(folder)
        except RuntimeError as error:
            notes.append(f"no read bandwidth: {error}")
        providers = {
            name: stack.enter_context(
                Remote(factory, *((folder, readers) if name == HASHFAST else ()))
            )
            for name, factory in PROVIDERS.items()
            if name not in missing
        }
        bench = SearchBench(providers, options.codes, options.seconds, readers is not None)
        bench.notes += notes
        rows = run(bench, options)
    for note in bench.notes:
        print(f"note: {note}")
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    print("\n".join(["", *verdicts(rows)]))
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if bench.wrong else 0


def run(bench: SearchBench, options: argparse.Namespace) -> list[Row]:
    """Measure all cases; rows are printed and kept as they come."""
    out = options.out
    if out is None and options.set != "small" and not options.changed:
        slug = machine_slug(options.machine or bench.stamp["device"])
        out = RESULTS / f"search-{slug}.csv"
    made = bench.stamp
    print(f"hashfast {made['hashfast']}, torch {made['torch']}; {made['cpu']}")
    print(f"commit {made['commit']}; {made['date']}; {options.codes} codes")
    if out:
        print(f"rows are appended to {out}")
    rows = []
    for case in options.cases:
        found = bench.rows(case)
        if found:
            clock = {"cpu": "CPU", "wall": "wall"}[found[0]["ratio_clock"]]
            print(f"\n{case}  (ratio to {BASELINE} in {clock} time)\n{table(found)}", flush=True)
            if out:
                append_rows(out, found, COLUMNS)
        rows += found
    return rows


if __name__ == "__main__":
    sys.exit(main())
