"""The whole job on scikit-learn's digits: training, condensation, a gallery to search."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hashfast._environment import environment
from hashfast.condense import CondenseConfig, condense
from hashfast.data import ArrayDataset, Splits, load
from hashfast.distill import DistillConfig, distill
from hashfast.hashing import (
    Encoded,
    HashModel,
    ModelConfig,
    TrainConfig,
    encode_dataset,
    fit_projection,
    train,
)
from hashfast.index import Gallery, search
from hashfast.metrics import Report, evaluate, quantization_error

PROTOCOL, BITS, WIDTH, EPOCHS = "digits", 32, 32, 30
BASELINES = {"random projection": "random", "ITQ": "itq"}
TRAINED: dict[str, tuple[str, Literal["original", "hswd"]]] = {
    "CSQ": ("csq", "original"),
    "OrthoHash": ("orthohash", "original"),
    "OrthoHash + HSWD": ("orthohash", "hswd"),
}
CONDENSED: dict[str, dict[str, Any]] = {
    "CSQ, 1 random image a class": {"method": "random"},
    "CSQ, 1 condensed image a class": {
        "method": "dm",
        "networks": 40,
        "learning_rate": 0.2,
        "real_batch": 0,
    },
}


TEACHER = "OrthoHash + HSWD"
STUDENT: dict[str, Any] = {
    "data": PROTOCOL,
    "method": "cibhash",
    "bits": BITS,
    "epochs": 20,
    "width": WIDTH / 4,
    "learning_rate": 3e-3,
    "augment": "standard",
    "device": "cpu",
}


class Row(NamedTuple):
    """One method's model, its database and query codes, and how good they are."""

    name: str
    model: HashModel
    database: Encoded
    query: Encoded
    report: Report
    train_seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "map_index": self.report.map,
            "map_expected": self.report.map_by_ties["expected"],
            "precision_at_10": self.report.precision_at(10),
            "quantization_error": quantization_error(self.database.outputs),
            "train_seconds": self.train_seconds,
        }


def rows(out: Path, splits: Splits, seed: int = 0) -> Iterator[Row]:
    """Every method of the demo, trained and evaluated on the CPU; models go to `out`/models."""
    for name, head in BASELINES.items():
        start = time.perf_counter()
        channels = splits.image_shape[0]
        config = ModelConfig(
            "pixels", BITS, head, splits.image_shape, mean=(0.0,) * channels, std=(1.0,) * channels
        )
        model = fit_projection(HashModel(config), splits.train)
        seconds = time.perf_counter() - start
        model.training_info = {"method": name, "protocol": splits.name}
        model.save_pretrained(out / "models" / _slug(name))
        yield _evaluated(name, model, splits, seconds)
    for name, (method, quantization) in TRAINED.items():
        yield _trained(name, out, splits, method, quantization, EPOCHS, seed)
    yield from _distilled(out, splits, seed)
    for name, condensation in CONDENSED.items():
        small = CondenseConfig(
            data=PROTOCOL, ipc=1, width=WIDTH, device="cpu", seed=seed, **condensation
        )
        condensed, seconds, _ = condense(small, splits=splits, progress=False)
        condensed.save(out / "condensed" / _slug(name))
        # Ten images are one step an epoch.
        few = condensed.in_place_of_training_set(splits)
        row = _trained(name, out, few, "csq", "original", 150, seed)
        yield row._replace(train_seconds=row.train_seconds + seconds)


def _distilled(out: Path, splits: Splits, seed: int) -> Iterator[Row]:
    """A student of a quarter of the channels, trained without labels: alone, and by a teacher."""
    name = "CIBHash, small network"
    result = train(TrainConfig(**STUDENT, seed=seed), splits=splits, progress=False)
    result.model.save_pretrained(out / "models" / _slug(name))
    yield _evaluated(name, result.model, splits, result.results["train_seconds"])
    teacher = out / "models" / _slug(TEACHER)
    config = DistillConfig(**STUDENT, teacher=teacher, seed=seed)
    student, _, _, results = distill(config, splits=splits, progress=False)
    student.save_pretrained(out / "models" / _slug(f"{name}, BRCD"))
    symmetric = _evaluated(f"{name}, BRCD, SSHP", student, splits, results["train_seconds"])
    yield symmetric
    database = encode_dataset(HashModel.from_pretrained(teacher), splits.database)
    report = _report(symmetric.query, database, splits)
    yield symmetric._replace(name=f"{name}, BRCD, ASHP", database=database, report=report)


def write_gallery(out: Path, row: Row, splits: Splits) -> Path:
    """The database's codes as a gallery in `out`/gallery, and a query picture to look for."""
    from PIL import Image

    items = [f"{PROTOCOL}/database/{i}" for i in row.database.indices.tolist()]
    folder = out / "models" / _slug(row.name)
    info = {
        "source": PROTOCOL,
        "protocol": splits.describe(),
        "split": "database",
        "model": str(folder.resolve()),
        "fingerprint": row.model.fingerprint(),
        "environment": environment(),
    }
    codes, labels = row.database.codes.numpy(), row.database.labels.numpy()
    Gallery.of(codes, BITS, items, labels, info, splits.class_names).save(out / "gallery")
    picture = out / "query.png"
    Image.fromarray(_images(splits.query)[0, 0].numpy()).save(picture)
    return picture


def write_pictures(out: Path, best: Row, all_rows: list[Row], splits: Splits) -> list[Path]:
    """Retrieval grid of the best method, and the curves of all."""
    from hashfast import plots

    shown = torch.arange(0, len(splits.query), len(splits.query) // 10)
    distances, ids = search(best.query.codes[shown], best.database.codes, 10)
    relevant = best.database.labels[ids] == best.query.labels[shown, None]
    grid, curves = out / "retrieval.png", out / "curves.png"
    plots.retrieval_grid(
        _images(splits.query)[shown], _images(splits.database), ids, relevant, distances, grid
    )
    plots.curves({row.name: row.report for row in all_rows}, curves)
    return [grid, curves]


def load_splits() -> Splits:
    return load(PROTOCOL)


@contextmanager
def one_thread() -> Iterator[None]:
    """Digits are too small to share: threads that wait for each other only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _trained(
    name: str,
    out: Path,
    splits: Splits,
    method: str,
    quantization: Literal["original", "hswd"],
    epochs: int,
    seed: int,
) -> Row:
    settings = TrainConfig(
        data=PROTOCOL,
        method=method,
        quantization=quantization,
        bits=BITS,
        epochs=epochs,
        width=WIDTH,
        learning_rate=3e-3,
        device="cpu",
        seed=seed,
    )
    result = train(settings, splits=splits, progress=False)
    result.model.save_pretrained(out / "models" / _slug(name))
    return _evaluated(name, result.model, splits, result.results["train_seconds"])


def _evaluated(name: str, model: HashModel, splits: Splits, seconds: float) -> Row:
    query, database = (encode_dataset(model, part) for part in (splits.query, splits.database))
    return Row(name, model, database, query, _report(query, database, splits), seconds)


def _report(query: Encoded, database: Encoded, splits: Splits) -> Report:
    return evaluate(
        query.codes,
        database.codes,
        query.labels,
        database.labels,
        topk=splits.topk,
        bits=BITS,
    )


def _images(dataset: Any) -> torch.Tensor:
    assert isinstance(dataset, ArrayDataset)
    return dataset.batch(range(len(dataset)))[0]


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower())
