"""Train on real data over several seeds and hold the result against fixed bars.

python benchmarks/quality.py [--parts digits fashion] [--seeds 0 1 2]

A bar is met when the mean over the seeds reaches it. Rows are appended to results/quality.csv;
exits with 1 when a bar is missed. The terms of quantisation are held against each other by
quantization_study.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _rows import RESULTS, append_rows, commit, today

import hashfast
from hashfast._environment import environment
from hashfast.data import Splits, load
from hashfast.hashing import RandomProjection, TrainConfig, train
from hashfast.presets import PRESETS

BITS = 32
DIGITS_MARGIN = 0.20  # mAP of the trained codes above that of a random projection of the pixels
FASHION_ORTHOHASH = 0.79  # mAP@5000
FASHION_CSQ = 0.77  # mAP@5000
FASHION_DHD = 0.76  # mAP@5000

DIGITS = {"data": "digits", "width": 32, "epochs": 20, "bits": BITS}
FASHION = {
    "data": "fashion-mnist",
    "width": 32,
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "bits": BITS,
}

COLUMNS = (
    *("bar", "value", "threshold", "passed", "seeds", "values", "seconds", "settings"),
    *("device", "torch", "hashfast", "commit", "date"),
)


@dataclass(frozen=True)
class Bar:
    """value: what one seed reaches, from the settings with that seed and the protocol's split."""

    name: str
    part: str
    threshold: float
    settings: dict[str, Any]
    value: Callable[[TrainConfig, Splits], float]


def trained_map(config: TrainConfig, splits: Splits) -> float:
    return train(config, splits=splits, progress=False).report.map


def random_projection_map(splits: Splits, bits: int, seed: int) -> float:
    """mAP of random hyperplanes on the pixels, centred on the training set."""

    def pixels(part: str) -> torch.Tensor:
        return getattr(splits, part).images.flatten(1).float() / 255

    projection = RandomProjection(bits, seed=seed).fit(pixels("train"))
    report = hashfast.evaluate(
        hashfast.pack(projection(pixels("query"))),
        hashfast.pack(projection(pixels("database"))),
        splits.query.labels,
        splits.database.labels,
        topk=splits.topk,
        bits=bits,
    )
    return report.map


def margin(config: TrainConfig, splits: Splits) -> float:
    trained = trained_map(config, splits)
    return trained - random_projection_map(splits, config.bits, config.seed)


BARS = (
    Bar(
        "digits: OrthoHash - random projection, mAP",
        "digits",
        DIGITS_MARGIN,
        DIGITS | {"method": "orthohash"},
        margin,
    ),
    Bar(
        "fashion-mnist: OrthoHash, mAP@5000",
        "fashion",
        FASHION_ORTHOHASH,
        FASHION | {"method": "orthohash"},
        trained_map,
    ),
    Bar(
        "fashion-mnist: CSQ, mAP@5000",
        "fashion",
        FASHION_CSQ,
        FASHION | {"method": "csq"},
        trained_map,
    ),
    Bar(
        "fashion-mnist: DHD, mAP@5000",
        "fashion",
        FASHION_DHD,
        dict(PRESETS["fashion-mnist/dhd"].settings),
        trained_map,
    ),
)


def run(bar: Bar, seeds: Sequence[int], device: str, epochs: int | None) -> dict[str, Any]:
    """One row of results: the bar and what every seed reached."""
    changed = {"device": device} | ({} if epochs is None else {"epochs": epochs})
    configs = [TrainConfig(**bar.settings | changed, seed=seed) for seed in seeds]
    splits = load(configs[0].data)
    start = time.perf_counter()
    values = [bar.value(config, splits) for config in configs]
    mean = sum(values) / len(values)
    on = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    found = environment(on)
    return {
        "bar": bar.name,
        "value": mean,
        "threshold": bar.threshold,
        "passed": mean >= bar.threshold,
        "seeds": " ".join(map(str, seeds)),
        "values": " ".join(f"{value:.4f}" for value in values),
        "seconds": time.perf_counter() - start,
        "settings": settings_text(configs[0]),
        **{key: found[key] for key in ("device", "torch", "hashfast")},
        "commit": commit(),
        "date": today(),
    }


def settings_text(config: TrainConfig) -> str:
    """The settings that differ from the defaults, as JSON."""
    defaults = asdict(TrainConfig())
    changed = {k: v for k, v in asdict(config).items() if v != defaults[k] and k != "seed"}
    return json.dumps(changed, default=str)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = sorted({bar.part for bar in BARS})
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument("--epochs", type=int, help="try with fewer epochs; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.csv")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    missed = 0
    for bar in (bar for bar in BARS if bar.part in options.parts):
        row = run(bar, options.seeds, options.device, options.epochs)
        verdict = "passed" if row["passed"] else "MISSED"
        print(
            f"{verdict}  {row['bar']}: {row['value']:.4f} (bar {row['threshold']}; seeds "
            f"{row['seeds']}: {row['values']}) in {row['seconds']:.0f} s on {row['device']}",
            flush=True,
        )
        missed += not row["passed"]
        if options.epochs is None:
            append_rows(options.out, [row], COLUMNS)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
