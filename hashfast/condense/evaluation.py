"""What condensed sets are worth: networks trained on them alone, evaluated on the protocol."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hashfast._runs import Runs
from hashfast.condense.classification import classify
from hashfast.condense.comparison import Comparison
from hashfast.condense.config import CondenseConfig
from hashfast.condense.evaluation_config import EvaluationConfig
from hashfast.condense.loop import condense
from hashfast.condense.real import in_memory
from hashfast.data import ArrayDataset, ImageDataset, Splits
from hashfast.data.condensed import CondensedSet
from hashfast.hashing import TrainConfig, train
from hashfast.hashing.loading import batches, resolve_device

OfSeed = Callable[[int], CondensedSet | None]
QUERIES, DATABASE = 1000, 5000
_CHUNK = 256
_FREE = ("root", "workers", "device")  # settings that say where, not what


def evaluate_set(
    condensed: CondensedSet | None,
    splits: Splits,
    config: CondenseConfig,
    evaluation: EvaluationConfig,
    *,
    method: str | None = None,
    backbone: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a new network on a condensed set alone; how it retrieves the protocol's database.

    condensed: None takes the whole training set. method, backbone: the evaluation's first if None.
    Returns, as JSON holds it, "map", "accuracy" (of a classifier trained besides, if
    `evaluate_accuracy`), "train_seconds" of the hashing network, "report" (see Report.to_dict) and
    "precision_curve", its P@top-M. Raises what `train` raises, and ValueError for a set that does
    not fit the protocol and for a whole training set with several labels an image.
    """
    if condensed is None:
        splits = in_memory(splits, config.device, config.workers)
    splits = _trained_on(condensed, splits)
    images = len(splits.train)
    settings = evaluation.training(config, images, method=method, backbone=backbone, seed=seed)
    found = _retrieve(settings, splits)
    if evaluation.evaluate_accuracy:
        found |= _classify(settings, splits)
    return found


def compare(
    config: CondenseConfig,
    evaluation: EvaluationConfig,
    splits: Splits,
    sets: Mapping[str, CondensedSet | OfSeed],
    *,
    out: Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare condensed sets with selections of as many images and, if asked, with all images.

    Rows are Random and Herding, the sets by name, and Whole set; columns are networks and hashing
    losses, and accuracies if asked. Every cell has the evaluation's seeds. The selections are made
    anew for every seed; so can a set be that is given as a function of it. Results of single runs
    are kept in `out`, where an interrupted comparison goes on. Raises what `evaluate_set` and
    the selections raise.
    """
    if evaluation.evaluate_baselines or evaluation.evaluate_whole:
        splits = in_memory(splits, config.device, config.workers)
    rows = _rows(config, evaluation, splits, sets)
    columns: dict[str, tuple[str, str | None]] = {}
    for backbone in evaluation.backbones(config):
        for method in evaluation.evaluate_methods:
            columns[f"{backbone} {method} mAP"] = backbone, method
        if evaluation.evaluate_accuracy:
            columns[f"{backbone} accuracy"] = backbone, None

    def run(row: str, column: str, seed: int) -> dict[str, Any]:
        bar.set_postfix_str(f"{row}, {column}, seed {seed}")
        backbone, method = columns[column]
        data = _trained_on(rows[row](seed), splits)
        images = len(data.train)
        settings = evaluation.training(config, images, method=method, backbone=backbone, seed=seed)
        perform = _retrieve if method else _classify
        found = _kept(out, f"{row} {column} {seed}", perform, settings, data)
        bar.update()
        return found

    seeds = evaluation.evaluate_seeds
    total = len(rows) * len(columns) * len(seeds)
    with tqdm(total=total, unit="run", desc="compare", disable=not progress) as bar:
        results = {
            row: {column: [run(row, column, seed) for seed in seeds] for column in columns}
            for row in rows
        }
    return Comparison(results, seeds, splits.topk)


def quick_evaluation(
    splits: Splits, config: CondenseConfig, evaluation: EvaluationConfig
) -> Callable[[CondensedSet], dict[str, Any]]:
    """A function that estimates the mAP of a condensed set, to be called while it is condensed.

    It trains one network, with the evaluation's first loss, network and seed, and ranks a sample of
    5,000 database images for 1,000 queries. mAP is cut at the same share of the database as in the
    protocol: an estimate of its mAP, for following a run and not for tables.
    """
    device = resolve_device(config.device)
    query = _sample(splits.query, QUERIES, device, config.workers)
    database = _sample(splits.database, DATABASE, device, config.workers)
    topk = max(1, round(splits.topk * len(database) / len(splits.database)))
    sampled = replace(splits, query=query, database=database, topk=topk)
    evaluation = replace(evaluation, evaluate_accuracy=False)
    seed = evaluation.evaluate_seeds[0]

    def evaluate(condensed: CondensedSet) -> dict[str, Any]:
        return {"map": evaluate_set(condensed, sampled, config, evaluation, seed=seed)["map"]}

    return evaluate


def _rows(
    config: CondenseConfig,
    evaluation: EvaluationConfig,
    splits: Splits,
    sets: Mapping[str, CondensedSet | OfSeed],
) -> dict[str, OfSeed]:
    """What is compared: sets by seed, each made once; None is the whole training set."""
    rows: dict[str, OfSeed] = {}
    for name in evaluation.evaluate_baselines:
        rows[name.capitalize()] = cache(partial(_selected, name, config, splits))
    for name, given in sets.items():
        rows[name] = cache(given) if callable(given) else partial(_always, given)
    if evaluation.evaluate_whole:
        rows["Whole set"] = partial(_always, None)
    return rows


def _always(given: CondensedSet | None, seed: int) -> CondensedSet | None:
    return given


def _selected(name: str, config: CondenseConfig, splits: Splits, seed: int) -> CondensedSet:
    """Real images that a selection keeps."""
    # What the compared method has of its own gives way to the selection's.
    config = replace(
        config, method=name, factor=None, network_augmentation=None, network_pool=None, seed=seed
    )
    return condense(config, splits=splits, progress=False).condensed


def _trained_on(condensed: CondensedSet | None, splits: Splits) -> Splits:
    return splits if condensed is None else condensed.in_place_of_training_set(splits)


def _retrieve(settings: TrainConfig, splits: Splits) -> dict[str, Any]:
    result = train(settings, splits=splits, progress=False)
    return {
        "map": result.report.map,
        "train_seconds": result.results["train_seconds"],
        "report": result.report.to_dict(),
        "precision_curve": result.report.precision_curve.round(6).tolist(),
    }


def _classify(settings: TrainConfig, splits: Splits) -> dict[str, Any]:
    return {"accuracy": classify(settings, splits)}


def _kept(
    folder: Path | None,
    name: str,
    perform: Callable[[TrainConfig, Splits], dict[str, Any]],
    settings: TrainConfig,
    splits: Splits,
) -> dict[str, Any]:
    """What a run finds; read from the folder, if it has been done there."""
    if folder is None:
        return perform(settings, splits)
    facts = {
        "perform": perform.__name__,
        "settings": {key: v for key, v in asdict(settings).items() if key not in _FREE},
        "protocol": splits.describe(),
    }
    return Runs(folder).get(name, facts, lambda _: perform(settings, splits))


def _sample(dataset: ImageDataset, size: int, device: torch.device, workers: int) -> ArrayDataset:
    """Up to `size` of the images, always the same ones, in memory."""
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:size]
    parts = [
        batch[:2]
        for batch, _ in batches(dataset, rows.sort().values.split(_CHUNK), device, workers)
        if batch is not None
    ]
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return ArrayDataset(images, labels)
