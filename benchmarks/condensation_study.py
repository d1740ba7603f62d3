"""Condensation on Fashion-MNIST: what every method's images are worth, and which part does it.

python benchmarks/condensation_study.py [--ipc 1 10] [--seeds 0 1 2] [--rows iem dm ...]

The protocol has 1,000 queries, 5,000 training and 64,000 database images. Images are condensed in
narrow ConvNet-3 networks; then a new DHD network is trained on them alone, for as many steps
whatever the set's size, and evaluated with mAP@5000. Every seed draws images, networks and the
evaluated network anew. Learning rates were chosen on a validation split of the training set
Every run is a row of
results/condensation.csv as soon as it is done, and is not repeated: stop and start as you like.
Then the table of means and deviations, and the bars; exits with 1 when one is missed.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import _study
import torch
from _rows import RESULTS, aligned
from _study import PROVENANCE, Row, number, provenance, text, verdict
from quantization_study import mean, spread, validation

from hashfast.condense import CondenseConfig, EvaluationConfig, condense, evaluate_set
from hashfast.data import load

NETWORK: dict[str, Any] = {"data": "fashion-mnist", "width": 32.0, "device": "cpu"}
EVALUATION = EvaluationConfig(
    evaluate_steps=400,
    evaluate_batch=32,
    evaluate_augment_scale=0.2,
    evaluate_compile=True,
)
# Settings by images a class. With one, steps are cheap beside the features of the real images, and
# IEM makes several with every network; DM has a new network for each.
_STEPS: dict[str, Any] = {"networks": 60, "inner_steps": 1, "real_batch": 64}
_MORE: dict[str, Any] = {**_STEPS, "networks": 120}
STEPS: dict[str, dict[int, dict[str, Any]]] = {
    "dm": {1: _MORE, 10: _STEPS},
    "iem": {1: {**_MORE, "inner_steps": 5, "real_draws": "network"}, 10: _STEPS},
}
GRADIENTS: dict[str, Any] = {"networks": 5, "inner_steps": 5, "real_batch": 32}
POOL: dict[str, Any] = {"network_pool": "pretrained", "pool_size": 5, "hashing": "csq"}
# Learning rates of the images that are tried on the validation split, by images a class.
CANDIDATES: dict[str, dict[int, tuple[float, ...]]] = {
    "dm": {1: (0.02, 0.06, 0.2), 10: (0.2, 0.6, 2.0)},
    "iem": {1: (0.005, 0.01, 0.02), 10: (0.07, 0.2, 0.6)},
    "iem-v1": {1: (0.0025, 0.01), 10: (0.05, 0.2)},
    "dsa": {1: (0.006,), 10: (0.006,)},
    "idc": {1: (0.005,), 10: (0.005,)},
}
# Bars on mAP: the first row above the second by at least this.
BARS = {
    1: (("dm", "random", 0.05), ("iem", "dm", 0.02)),
    10: (("iem", "dm", -0.005), ("iem", "random", 0.02)),
}
COLUMNS = (
    *("part", "row", "ipc", "learning_rate", "seed", "map", "networks", "inner_steps"),
    *("condense_seconds", "seconds", *PROVENANCE),
)


class Kind(NamedTuple):
    """A row of the table: its name, the method, what differs from the settings in STEPS, and whose
    learning rate it takes."""

    label: str
    method: str
    settings: dict[str, Any]
    rate: str | None = None


KINDS = {
    "random": Kind("Random", "random", {}),
    "herding": Kind("Herding", "herding", {**POOL, "pool_size": 1}),
    "dm": Kind("DM", "dm", {}, "dm"),
    "dm-na": Kind("DM, perturbed networks", "dm", {"network_augmentation": True}, "dm"),
    "dm-mf": Kind("DM, multi-formation", "iem", {"network_augmentation": False}, "iem"),
    "iem": Kind("IEM (v2)", "iem", {}, "iem"),
    "iem-v1": Kind("IEM (v1)", "iem", POOL, "iem-v1"),
    "dsa": Kind("DSA", "dsa", GRADIENTS, "dsa"),
    "idc": Kind("IDC", "idc", GRADIENTS, "idc"),
}


class Run(NamedTuple):
    """A row's identity: part is "validation" or "test"; learning_rate None: nothing is learnt."""

    part: str
    row: str
    ipc: int
    learning_rate: float | None
    seed: int


class Study(_study.Study):
    """Condensed sets and networks trained on them; work: folder of pretrained networks."""

    columns = COLUMNS
    kinds: ClassVar = {
        **dict.fromkeys(("ipc", "seed", "networks", "inner_steps"), int),
        **dict.fromkeys(("map", "condense_seconds", "seconds"), float),
    }

    def __init__(self, out: Path, work: Path) -> None:
        super().__init__(out)
        self.work = work

    def identity(self, row: Row) -> Run:
        rate = number(row["learning_rate"])
        return Run(row["part"], row["row"], row["ipc"], rate, row["seed"])

    def line(self, run: Run, row: Row) -> str:
        return (
            f"{run.part:<10} {run.row:<8} ipc {run.ipc:<2} rate {text(run.learning_rate):<6} seed "
            f"{run.seed}: mAP {row['map']:.4f} (condensed in {row['condense_seconds']:.0f} s, "
            f"{row['seconds']:.0f} s in all)"
        )

    def perform(self, run: Run) -> Row:
        kind = KINDS[run.row]
        if not self.splits:
            whole = load(NETWORK["data"])
            self.splits = {"test": whole, "validation": validation(whole)}
        config = CondenseConfig(
            **NETWORK,
            **STEPS.get(kind.method, {}).get(run.ipc, {}),
            **kind.settings,
            method=kind.method,
            ipc=run.ipc,
            learning_rate=run.learning_rate,
            seed=run.seed,
            pool_folder=self.work / "pool",
        )
        start = time.perf_counter()
        splits = self.splits[run.part]
        result = condense(config, splits=splits, progress=False)
        found = evaluate_set(result.condensed, splits, config, EVALUATION, seed=run.seed)
        return {
            **run._asdict(),
            "learning_rate": text(run.learning_rate),
            "map": found["map"],
            "networks": config.networks or 0,
            "inner_steps": config.inner_steps or 0,
            "condense_seconds": result.seconds,
            "seconds": time.perf_counter() - start,
            **provenance(),
        }

    def rate(self, row: str, ipc: int) -> float | None:
        """The candidate with the best mAP on the validation split."""
        name = KINDS[row].rate
        if name is None:
            return None
        runs = [Run("validation", name, ipc, rate, 0) for rate in CANDIDATES[name][ipc]]
        if len(runs) == 1:
            return runs[0].learning_rate
        return max(runs, key=lambda run: self.result(run)["map"]).learning_rate


def table(rows: Iterable[dict[str, Any]]) -> str:
    """A line for each row and number of images: mean and deviation over the seeds."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["ipc"], row["row"], row["learning_rate"]), []).append(row)
    lines = [("images a class", "", "rate", "mAP@5000", "condensed in (s)", "seeds")]
    for (ipc, row, rate), group in groups.items():
        seconds = f"{mean(group, 'condense_seconds'):.0f}"
        lines.append(
            (str(ipc), KINDS[row].label, rate, spread(group, "map"), seconds, str(len(group)))
        )
    return aligned(lines)


def bars(rows: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """(met, what was found) for every bar whose two rows were run."""

    def of(row: str, ipc: int) -> list[dict[str, Any]]:
        return [r for r in rows if (r["row"], r["ipc"]) == (row, ipc)]

    found = []
    for ipc, pairs in BARS.items():
        for better, worse, least in pairs:
            if of(better, ipc) and of(worse, ipc):
                gap = mean(of(better, ipc), "map") - mean(of(worse, ipc), "map")
                names = f"{KINDS[better].label} - {KINDS[worse].label}"
                text = f"{ipc} a class: {names} = {gap:+.4f} (bar {least:+.3f})"
                found.append((gap >= least, text))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ipc", nargs="+", type=int, choices=BARS, default=list(BARS))
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "condensation.csv")
    parser.add_argument(
        "--work", type=Path, default=Path("build/condensation"), help="pretrained networks"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    study = Study(options.out, options.work)
    runs = [
        Run("test", row, ipc, study.rate(row, ipc), seed)
        for ipc in options.ipc
        for row in options.rows
        for seed in options.seeds
    ]
    # One seed of everything first, so that an unfinished study shows the whole picture.
    rows = {run: study.result(run) for run in sorted(runs, key=lambda run: run.seed)}
    found = [rows[run] for run in runs]
    print(table(found))
    return verdict(bars(found))


if __name__ == "__main__":
    sys.exit(main())
