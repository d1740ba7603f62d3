"""Distillation on Fashion-MNIST: nine methods and the parts of BRCD, in both search paradigms.

python benchmarks/distillation_study.py [--rows brcd kl ...] [--seeds 0 1 2]

The protocol has 1,000 queries, 5,000 training and 64,000 database images; no method sees a label,
but PACKD, whose positives are of one class. The teacher is a hash head trained on frozen
EfficientNet-Lite0 features (ImageNet weights), the student a narrow ConvNet-3 from scratch with the
same hashing loss: a stand-in for the ViT-B/16 and EfficientNet-B0 of paper 004. A method has the
published weight, unless ten times more or less is better by 0.01 in the mean of both paradigms' mAP
(of SSHP alone where codes are not aligned) on a validation split of the training set, with a
teacher of its own and seed 0; the learning rate is the best of 1e-3 and 3e-3 there without
distillation, and all else is the same for all. Every run is a row of results/distillation.csv as
soon as it is done, and is not repeated: stop and start as you like. Then the table of means and
deviations, and the bars; exits with 1 when one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import _study
import torch
from _rows import RESULTS, aligned
from _study import PROVENANCE, Row, number, provenance, text, verdict
from quantization_study import mean, spread, validation

from hashfast._files import read_json
from hashfast.data import Splits, load
from hashfast.distill import DistillConfig, distill
from hashfast.hashing import TrainConfig, train
from hashfast.hashing.logs import RESULTS_FILE
from hashfast.losses import DISTILLATION

BITS, TOPK, EPOCHS = 32, 1000, 10
TEACHER: dict[str, Any] = {
    "data": "fashion-mnist",
    "image_size": 64,
    "method": "cibhash",
    "bits": BITS,
    "backbone": "efficientnet-lite0",
    "weights": "pretrained",
    "frozen": True,
    "augment": "standard",
    "feature_views": 4,
    "epochs": 20,
    "channels_last": True,
    "device": "cpu",
}
STUDENT: dict[str, Any] = {
    "data": "fashion-mnist",
    "method": "cibhash",
    "bits": BITS,
    "width": 16.0,
    "augment": "standard",
    "learning_rate": 1e-3,
    "device": "cpu",
}
VIEWS = 4  # random views of an image, drawn once: the teacher sees each of them once
FACTORS = (0.1, 1.0, 10.0)
MARGIN = 0.01  # by which another weight must beat the published one: what seeds differ by
# Bars on mAP@1000: BRCD over no distillation (SSHP), ASHP at most this below SSHP, and the teacher
# over the student without distillation.
GAIN, GAP, LEAD = 0.02, 0.03, 0.05
COLUMNS = (
    *("part", "row", "weight", "seed", "map_sshp", "map_ashp", "isd", "nra"),
    *("train_seconds", "seconds", *PROVENANCE),
)


class Kind(NamedTuple):
    """A row of the table: its name, the distillation loss ("" is none), its options, the published
    weight, the row whose weight it takes, and the epochs of training."""

    label: str
    loss: str
    weight: float = 1.0
    options: tuple[str, ...] = ()
    weighed_as: str = ""
    epochs: int = EPOCHS


KINDS = {
    "none": Kind("no distillation", ""),
    "kl": Kind("KL", "kl"),
    "sp": Kind("SP", "sp", 3000.0),
    "pkt": Kind("PKT", "pkt", 30000.0),
    "rkd": Kind("RKD", "rkd"),
    "crd": Kind("CRD", "crd", 0.8),
    "sskd": Kind("SSKD", "sskd", 10.0),
    # Of 500 negatives a step takes 0.3 s.
    "crcd": Kind("CRCD", "crcd", 1.0, ("negatives=64",)),
    "packd": Kind("PACKD (with labels)", "packd"),
    "brcd": Kind("BRCD", "brcd"),
    "brcd-bm": Kind("BRCD w/o bit mask", "brcd", 1.0, ("bit_mask=false",), "brcd"),
    "brcd-np": Kind(
        "BRCD w/o false negatives and offset positives",
        *("brcd", 1.0, ("false_negatives=false", "offset_positives=false"), "brcd"),
    ),
    "brcd-p": Kind("BRCD w/o offset positives", "brcd", 1.0, ("offset_positives=false",), "brcd"),
    "none-long": Kind("no distillation, 30 epochs", "", epochs=30),
    "kl-long": Kind("KL, 30 epochs", "kl", weighed_as="kl", epochs=30),
    "brcd-long": Kind("BRCD, 30 epochs", "brcd", weighed_as="brcd", epochs=30),
}


class Run(NamedTuple):
    """A row's identity: part is "validation" or "test"; weight None: there is no distillation."""

    part: str
    row: str
    weight: float | None
    seed: int


class Study(_study.Study):
    """Students; work: folder of teachers and of what is computed once."""

    columns = COLUMNS
    kinds: ClassVar = {
        "seed": int,
        **dict.fromkeys(("map_sshp", "map_ashp", "isd", "train_seconds", "seconds"), float),
        "nra": lambda text: float(text or "nan"),  # the teacher has none
    }

    def __init__(self, out: Path, work: Path) -> None:
        super().__init__(out)
        self.work = work

    def identity(self, row: Row) -> Run:
        return Run(row["part"], row["row"], number(row["weight"]), row["seed"])

    def line(self, run: Run, row: Row) -> str:
        return (
            f"{run.part:<10} {run.row:<8} weight {text(run.weight):<6} seed {run.seed}: SSHP "
            f"{row['map_sshp']:.4f}, ASHP {row['map_ashp']:.4f} ({row['seconds']:.0f} s)"
        )

    def perform(self, run: Run) -> Row:
        start = time.perf_counter()
        folder, facts = self._teacher(run.part)
        if run.row == "teacher":
            found = {"map_sshp": facts["report"]["map"], "map_ashp": facts["report"]["map"]}
            found |= {"isd": 0.0, "nra": float("nan")}
        else:
            found, facts = self._student(run, folder)
        return {
            **run._asdict(),
            "weight": text(run.weight),
            **found,
            "train_seconds": facts["train_seconds"],
            "seconds": time.perf_counter() - start,
            **provenance(),
        }

    def _teacher(self, part: str) -> tuple[Path, dict[str, Any]]:
        """Folder and results of the teacher, trained once."""
        folder = self.work / f"teacher-{part}"
        if not (folder / RESULTS_FILE).is_file():
            config = TrainConfig(**TEACHER, cache=self.work / "cache")
            splits = self._splits(part, TEACHER["image_size"])
            train(config, folder, splits=splits, resume=True, progress=False)
        return folder, read_json(folder / RESULTS_FILE)

    def _student(self, run: Run, teacher: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Quality in both paradigms, and all results."""
        kind = KINDS[run.row]
        config = DistillConfig(
            **STUDENT,
            epochs=kind.epochs,
            teacher=teacher,
            distillation=kind.loss or "kl",
            distillation_options=kind.options,
            distillation_weight=run.weight or 0.0,
            fixed_views=VIEWS,
            cache=self.work / "cache",
            seed=run.seed,
        )
        splits = self._splits(run.part, None)
        _, sshp, ashp, results = distill(config, splits=splits, progress=False)
        assert ashp is not None
        found = {"isd": results["isd"], "nra": results["nra@100"]}
        return {"map_sshp": sshp.map, "map_ashp": ashp.map, **found}, results

    def _splits(self, part: str, image_size: int | None) -> Splits:
        key = f"{part} {image_size}"
        if key not in self.splits:
            whole = load(STUDENT["data"], image_size=image_size)
            whole = whole if part == "test" else validation(whole)
            self.splits[key] = replace(whole, topk=TOPK)
        return self.splits[key]

    def weight(self, row: str) -> float | None:
        """The published weight, or the candidate that is clearly better on the validation split."""
        kind = KINDS[KINDS[row].weighed_as or row]
        if not kind.loss:
            return None
        name = KINDS[row].weighed_as or row
        runs = [Run("validation", name, factor * kind.weight, 0) for factor in FACTORS]

        def quality(run: Run) -> float:
            found = self.result(run)
            both = (found["map_sshp"], found["map_ashp"])
            return statistics.mean(both) if DISTILLATION[kind.loss].aligns else both[0]

        best = max(runs, key=quality)
        published = next(run for run in runs if run.weight == kind.weight)
        clearly = quality(best) - quality(published) > MARGIN
        return best.weight if clearly else published.weight


def table(rows: Iterable[dict[str, Any]]) -> str:
    """A line for each row: mean and deviation over the seeds."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["row"], row["weight"]), []).append(row)
    lines = [("", "weight", f"SSHP mAP@{TOPK}", f"ASHP mAP@{TOPK}", "ISD", "NRA@100", "seeds")]
    for (row, weight), group in groups.items():
        values = (spread(group, key) for key in ("map_sshp", "map_ashp"))
        aligned_by = (f"{mean(group, 'isd'):.2f}", f"{mean(group, 'nra'):.3f}")
        label = KINDS[row].label if row in KINDS else row
        lines.append((label, weight, *values, *aligned_by, str(len(group))))
    return aligned(lines)


def bars(rows: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """(met, what was found) for every bar whose rows were run."""

    def of(row: str, key: str) -> float | None:
        group = [r for r in rows if r["row"] == row]
        return mean(group, key) if group else None

    teacher, none, brcd = (of(row, "map_sshp") for row in ("teacher", "none", "brcd"))
    ashp = of("brcd", "map_ashp")
    found = []
    if teacher is not None and none is not None:
        lead = teacher - none
        found.append((lead >= LEAD, f"teacher - no distillation = {lead:+.4f} (bar +{LEAD})"))
    if brcd is not None and none is not None:
        gain = brcd - none
        found.append((gain >= GAIN, f"SSHP: BRCD - no distillation = {gain:+.4f} (bar +{GAIN})"))
    if brcd is not None and ashp is not None:
        gap = ashp - brcd
        found.append((gap >= -GAP, f"BRCD: ASHP - SSHP = {gap:+.4f} (bar -{GAP})"))
    for name, kind in KINDS.items():
        value = of(name, "map_sshp")
        if kind.loss and kind.loss != "brcd" and value is not None and none is not None:
            gain = value - none
            found.append((gain > 0, f"SSHP: {kind.label} - no distillation = {gain:+.4f} (bar 0)"))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "distillation.csv")
    parser.add_argument(
        "--work", type=Path, default=Path("build/distillation"), help="teachers and their codes"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    study = Study(options.out, options.work)
    runs = [Run("test", "teacher", None, 0)]
    runs += [
        Run("test", row, study.weight(row), seed) for row in options.rows for seed in options.seeds
    ]
    # One seed of everything first, so that an unfinished study shows the whole picture.
    rows = {run: study.result(run) for run in sorted(runs, key=lambda run: run.seed)}
    found = [rows[run] for run in runs]
    print(table(found))
    return verdict(bars(found))


if __name__ == "__main__":
    sys.exit(main())
