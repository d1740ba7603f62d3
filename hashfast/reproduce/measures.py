"""What the runs of experiments do beyond training: each returns what JSON holds.

All take (settings, data, folder, progress), train in the folder, where an interrupted run goes on,
and return the results of training (`hashfast.hashing.train`) with what they measured added.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hashfast._files import read_json, write_json
from hashfast.augment import DEFORMATIONS, build_augmentation, deform
from hashfast.condense.classification import classify
from hashfast.data import ImageDataset, Splits
from hashfast.hashing import Encoded, HashModel, TrainConfig, encode_dataset, train
from hashfast.hashing.checkpoint import load_checkpoint
from hashfast.hashing.loading import shuffled
from hashfast.hashing.logs import METRICS_FILE
from hashfast.index import search
from hashfast.losses import HSWD, SWD
from hashfast.metrics import mean_average_precision

Result = dict[str, Any]
SAMPLE = 2000  # points of a scatter plot
DISTANCE_ROWS = 1000  # outputs that distances are measured on
POINTS = 20  # of a curve over training
QUERIES, NEIGHBOURS = 3, 10


def quality(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Retrieval quality of the trained model."""
    return train(config, folder, splits=splits, resume=True, progress=progress).results


def retrieval_curves(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "precision_curve": P@top-M for M = 1, 2, ..."""
    result = train(config, folder, splits=splits, resume=True, progress=progress)
    return {**result.results, "precision_curve": result.report.precision_curve.round(6).tolist()}


def map_over_training(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "history": mAP after some epochs and at the end, and the "steps" taken until then."""
    followed = replace(config, evaluate_every=max(1, config.epochs // POINTS))
    results = quality(followed, splits, folder, progress)
    steps = len(shuffled(len(splits.train), config.batch_size, 0, 0))
    lines = map(json.loads, (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines())
    history = [(line["epoch"], line["map"]) for line in lines if "map" in line]
    history.append((config.epochs, results["report"]["map"]))
    return {**results, "history": [{"steps": steps * e, "map": value} for e, value in history]}


def accuracy(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "accuracy": of a classifier in place of the hash model, on the queries."""
    return {**quality(config, splits, folder, progress), "accuracy": classify(config, splits)}


def outputs_sample(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "outputs" and "labels" of some database images, the same for every run on a data set."""
    result = train(config, folder, splits=splits, resume=True, progress=progress)
    draws = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(splits.database), generator=draws)[:SAMPLE].sort().values
    encoded = encode_dataset(result.model, splits.database, rows=rows, workers=config.workers)
    sample = {"outputs": encoded.outputs.tolist(), "labels": encoded.labels.tolist()}
    return {**result.results, **sample}


def distances_over_training(
    config: TrainConfig, splits: Splits, folder: Path, progress: bool
) -> Result:
    """Adds "history": squared HSWD and SWD of training outputs, and mAP, at some epochs.

    The learning rate is constant: training stops at each of these epochs and then goes on.
    """
    kept = folder / "distances.json"
    history = read_json(kept) if kept.is_file() else []
    results: Result = {}
    epochs = {max(1, round(config.epochs * i / POINTS)) for i in range(1, POINTS + 1)}
    done = history[-1]["epoch"] if history else 0
    for epoch in sorted(e for e in epochs if e > done or e == config.epochs):
        so_far = replace(config, epochs=epoch, schedule="constant")
        result = train(so_far, folder, splits=splits, resume=True, progress=progress)
        results = result.results
        if epoch > done:
            report = results["report"]
            history.append(
                {"epoch": epoch, "map": report["map"], **_distances(result.model, splits)}
            )
            write_json(kept, history)
    return {**results, "history": history}


def _distances(model: HashModel, splits: Splits) -> dict[str, float]:
    draws = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(splits.train), generator=draws)[:DISTANCE_ROWS]
    outputs = encode_dataset(model, splits.train, rows=rows).outputs
    torch.manual_seed(0)  # of the random codes and directions, the same at every epoch
    with torch.no_grad():
        found = {"hswd": HSWD(model.bits)(outputs), "swd": SWD(model.bits)(outputs)}
    return {name: float(value) for name, value in found.items()}


def proxies(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "proxies" [classes, bits] of DHD."""
    result = train(config, folder, splits=splits, resume=True, progress=progress)
    found = load_checkpoint(folder)["criterion"]["proxies"]
    return {**result.results, "proxies": found.tolist()}


def deformed_quality(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "map_by_deformation": mAP with every query deformed, the database as it is."""
    result = train(config, folder, splits=splits, resume=True, progress=progress)
    database = encode_dataset(result.model, splits.database, workers=config.workers)
    found = {"none": result.report.map}
    for name in DEFORMATIONS:
        query = encode_dataset(result.model, _Deformed(splits.query, name))
        found[name] = mean_average_precision(
            query.codes,
            database.codes,
            query.labels,
            database.labels,
            topk=splits.topk,
            bits=result.model.bits,
        )
    return {**result.results, "map_by_deformation": found}


def found_under_deformations(
    config: TrainConfig, splits: Splits, folder: Path, progress: bool
) -> Result:
    """Adds "found" and "seen": for some queries, {view: what was found for it}, nearest first.

    "found" holds ids, distances and whether they are relevant, for the views of `query_views`.
    """
    result = train(config, folder, splits=splits, resume=True, progress=progress)
    database = encode_dataset(result.model, splits.database, workers=config.workers)
    found = []
    for query in shown_queries(splits):
        views = query_views(splits, query)
        images = torch.stack(list(views.values())).to(result.model.mean.device)
        found.append(_neighbours(result.model, images, splits.query[query][1], database))
    return {**result.results, "found": found}


def shown_queries(splits: Splits) -> Sequence[int]:
    """Queries spread over the query set."""
    return range(0, len(splits.query), -(-len(splits.query) // QUERIES))


def query_views(splits: Splits, query: int) -> dict[str, Tensor]:
    """The query itself and each deformation of it, then a view as DHD's student gets, and grey.

    Images uint8 or float32 [C, H, W] by name; the same at every call.
    """
    image = splits.query[query][0]
    views = {"original": image}
    views |= {name: _Deformed(splits.query, name)[query][0] for name in DEFORMATIONS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(query)
        student = build_augmentation("dhd", splits.image_shape, 1.0)(image[None])[0]
    views["strong view"] = (255 * student).round().to(torch.uint8)
    if len(image) == 3:
        grey = image.float().mean(0, keepdim=True).round().to(torch.uint8)
        views["grey"] = grey.expand_as(image)
    return views


def _neighbours(
    model: HashModel, images: Tensor, label: int | Tensor, database: Encoded
) -> dict[str, list]:
    codes = model.encode(images)
    distances, ids = search(codes, database.codes, min(NEIGHBOURS, len(database.codes)))
    theirs = database.labels[ids]
    relevant = (theirs * label).sum(-1) > 0 if theirs.ndim == 3 else theirs == label
    return {
        "ids": ids.tolist(),
        "distances": distances.tolist(),
        "relevant": relevant.tolist(),
    }


class _Deformed(ImageDataset):
    """The images of a dataset, each deformed by an amount that its index decides."""

    def __init__(self, dataset: ImageDataset, deformation: str) -> None:
        self.dataset, self.deformation = dataset, deformation
        self.image_shape, self.labels = dataset.image_shape, dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int]:
        image, label, position = self.dataset[index]
        draws = torch.Generator().manual_seed(position)
        return deform(image[None], self.deformation, draws)[0], label, position
