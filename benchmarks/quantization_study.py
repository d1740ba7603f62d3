"""One loss for quantisation, measured: six methods with no, their own, SWD and HSWD quantisation.

python benchmarks/quantization_study.py [--methods csq dch ...] [--seeds 0 1 2]

Fashion-MNIST (1,000 / 5,000 / 64,000), narrow ConvNet-3, five epochs. The weight of each
quantisation term is chosen on a validation split of the training set, with seed 0; then every seed
is trained on the whole training set and evaluated on the protocol. Every run is a row of
results/quantization.csv as soon as it is done, and is not repeated: stop and start as you like.
Then the table of means and deviations, and the bars; exits with 1 when one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import _study
import torch
from _rows import RESULTS, aligned
from _study import PROVENANCE, Row, number, provenance, text, verdict

from hashfast.data import Splits, load, split_rows
from hashfast.hashing import TrainConfig, train

METHODS = ("dsdh", "hashnet", "greedyhash", "dch", "csq", "dbdh")
QUANTIZATIONS = ("none", "original", "swd", "hswd")
# Candidates for the weight: around the method's own, and around the paper's 0.1.
FACTORS = (0.1, 1.0, 10.0)
OWN_WEIGHT = {"dsdh": 55.0, "greedyhash": 0.1, "dch": 0.1, "csq": 1e-4, "dbdh": 0.1}
DISTRIBUTION_WEIGHT = 0.1
OTHER_LENGTHS = {"csq": (16, 64), "dsdh": (16, 64)}  # with one seed
SETTINGS: dict[str, Any] = {
    "data": "fashion-mnist",
    "width": 32,
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "device": "cpu",
    "compile": True,
}
# Chosen on the validation split with each method's own quantisation, out of 1e-3 and 3e-3.
LEARNING_RATES = {"dsdh": 1e-3, "dbdh": 1e-3}
# Bars: HSWD against no quantisation in this many methods, and against the method's own in mAP.
IMPROVED_METHODS, ALLOWED_LOSS = 4, 0.005

COLUMNS = (
    *("part", "method", "quantization", "weight", "bits", "seed"),
    *("map", "quantization_error", "bit_entropy", "distinct_codes", "train_seconds", "seconds"),
    *PROVENANCE,
)


class Run(NamedTuple):
    """A row's identity: part is "validation" or "test"; weight None: there is nothing to weigh."""

    part: str
    method: str
    quantization: str
    weight: float | None
    bits: int
    seed: int


class Study(_study.Study):
    """Training runs with a quantisation term."""

    columns = COLUMNS
    kinds: ClassVar = {
        **dict.fromkeys(("bits", "seed", "distinct_codes"), int),
        **dict.fromkeys(
            ("map", "quantization_error", "bit_entropy", "train_seconds", "seconds"), float
        ),
    }

    def identity(self, row: Row) -> Run:
        part, method, quantization = row["part"], row["method"], row["quantization"]
        return Run(part, method, quantization, number(row["weight"]), row["bits"], row["seed"])

    def line(self, run: Run, row: Row) -> str:
        return (
            f"{run.part:<10} {run.method:<10} {run.quantization:<8} weight {text(run.weight):<6} "
            f"{run.bits} bits seed {run.seed}: mAP {row['map']:.4f} ({row['seconds']:.0f} s)"
        )

    def perform(self, run: Run) -> Row:
        config = TrainConfig(
            **SETTINGS
            | {"learning_rate": LEARNING_RATES.get(run.method, SETTINGS["learning_rate"])},
            method=run.method,
            quantization=run.quantization,
            quantization_weight=run.weight,
            bits=run.bits,
            seed=run.seed,
        )
        if not self.splits:
            whole = load(SETTINGS["data"])
            self.splits = {"test": whole, "validation": validation(whole)}
        start = time.perf_counter()
        result = train(config, splits=self.splits[run.part], progress=False)
        return {
            **run._asdict(),
            "weight": text(run.weight),
            "map": result.report.map,
            "quantization_error": result.results["quantization_error"],
            "bit_entropy": result.report.bit_entropy,
            "distinct_codes": result.report.distinct_codes,
            "train_seconds": result.results["train_seconds"],
            "seconds": time.perf_counter() - start,
            **provenance(),
        }

    def weight(self, method: str, quantization: str) -> float | None:
        """The candidate with the best mAP on the validation split, at 32 bits."""
        runs = [
            Run("validation", method, quantization, w, 32, 0) for w in weights(method, quantization)
        ]
        if len(runs) == 1:
            return runs[0].weight
        return max(runs, key=lambda run: self.result(run)["map"]).weight


def weights(method: str, quantization: str) -> list[float | None]:
    own = OWN_WEIGHT.get(method) if quantization == "original" else DISTRIBUTION_WEIGHT
    if quantization == "none" or own is None:
        return [None]  # nothing to weigh: HashNet's own is its continuation
    return [factor * own for factor in FACTORS]


def validation(splits: Splits) -> Splits:
    """A split of the training set by the protocol's recipe: a tenth queries, seven tenths trained
    on, the rest searched."""
    whole = splits.train
    rows = split_rows(whole.labels.numpy(), query=50, train=350, train_in_database=False, seed=0)
    parts = {name: whole.subset(part) for name, part in rows.items()}
    return replace(splits, **parts, topk=1000)


def lengths(method: str, seeds: list[int]) -> Iterator[tuple[int, int]]:
    """(bits, seed) of a method's runs."""
    yield from ((32, seed) for seed in seeds)
    yield from ((bits, seeds[0]) for bits in OTHER_LENGTHS.get(method, ()))


def table(rows: Iterable[Row]) -> str:
    """A line for each method, length and quantisation: mean and deviation over the seeds."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (row["method"], row["bits"], row["quantization"], row["weight"])
        groups.setdefault(key, []).append(row)
    lines = [
        (
            "method",
            "bits",
            "quantisation",
            "weight",
            "mAP",
            "error (rad)",
            "entropy",
            "codes",
            "seeds",
        )
    ]
    for (method, bits, quantization, weight), group in groups.items():
        means = (spread(group, key) for key in ("map", "quantization_error", "bit_entropy"))
        codes = f"{mean(group, 'distinct_codes'):.0f}"
        lines.append((method, str(bits), quantization, weight, *means, codes, str(len(group))))
    return aligned(lines)


def spread(group: list[Row], key: str) -> str:
    values = [row[key] for row in group]
    deviation = f" +- {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def mean(group: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in group)


def bars(rows: list[Row]) -> list[tuple[bool, str]]:
    """(met, what was found) for the two claims, over the methods that are complete at 32 bits."""

    def of(method: str, quantization: str) -> list[Row]:
        return [
            row
            for row in rows
            if (row["method"], row["quantization"], row["bits"]) == (method, quantization, 32)
        ]

    methods = [m for m in METHODS if all(of(m, q) for q in QUANTIZATIONS)]
    improved = [
        m
        for m in methods
        if mean(of(m, "hswd"), "quantization_error") < mean(of(m, "none"), "quantization_error")
        or mean(of(m, "hswd"), "bit_entropy") > mean(of(m, "none"), "bit_entropy")
    ]
    gains = [mean(of(m, "hswd"), "map") - mean(of(m, "original"), "map") for m in methods]
    gain = statistics.mean(gains) if gains else float("nan")
    each = ", ".join(f"{method} {g:+.4f}" for method, g in zip(methods, gains, strict=True))
    return [
        (
            len(improved) >= IMPROVED_METHODS,
            f"HSWD has a lower error or a higher entropy than none in {len(improved)} of "
            f"{len(methods)} methods (bar {IMPROVED_METHODS}): {', '.join(improved)}",
        ),
        (
            gain >= -ALLOWED_LOSS,
            f"mAP of HSWD less that of the method's own: {gain:+.4f} on average (bar "
            f"-{ALLOWED_LOSS}); {each}",
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "quantization.csv")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    study = Study(options.out)
    runs = [
        Run("test", method, quantization, study.weight(method, quantization), bits, seed)
        for method in options.methods
        for quantization in QUANTIZATIONS
        for bits, seed in lengths(method, options.seeds)
    ]
    # One seed of everything first, so that an unfinished study shows the whole picture.
    rows = {
        run: study.result(run) for run in sorted(runs, key=lambda run: (run.seed, run.bits != 32))
    }
    rows = [rows[run] for run in runs]
    print(table(rows))
    return verdict(bars(rows))


if __name__ == "__main__":
    sys.exit(main())
