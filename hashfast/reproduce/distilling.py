"""What runs of paper 004 do: train a model, or a student of one, and look at their codes.

As in measures.py, all take (settings, data, folder, progress) and return what JSON holds. Teachers
are trained once for all runs of all experiments: they are kept in `teachers` beside `runs`, and
what models give for whole sets in `cache`.
"""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hashfast._cache import ArrayCache
from hashfast._files import read_json
from hashfast._runs import digest
from hashfast.augment import build_augmentation
from hashfast.data import Splits
from hashfast.distill import DistillConfig, Teacher, distill
from hashfast.distill.teacher import signs
from hashfast.hashing import HashModel, TrainConfig, encode_dataset, train
from hashfast.hashing.features import Loading, known_labels, rows_of_images
from hashfast.hashing.learner import augmentation_name
from hashfast.hashing.loading import resolve_device, seed_draws
from hashfast.hashing.logs import RESULTS_FILE
from hashfast.losses.distillation import Clusters
from hashfast.metrics import opr
from hashfast.reproduce.identity import identity

Result = dict[str, Any]
SAMPLE = 500  # images whose codes are kept
SHOWN_CLASSES = 5  # that they are of
CLASS = 0  # whose bits are counted
CLUSTERS = (5, 10, 15, 20, 25)
MODEL_SEED = 0


@dataclass(frozen=True)
class StudentConfig(DistillConfig):
    """A distillation whose teacher is told by its settings, and trained when it is needed first."""

    taught_by: TrainConfig | None = None
    """Settings of the teacher; where its images lie and what it is trained on are the student's."""


def paradigms(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Quality of a model without a teacher, and of a student (StudentConfig) in both paradigms.

    Of a student adds "codes", {"student", "teacher", "labels"}: packed codes and classes of some
    database images, the same for every student of a data set.
    """
    out = _experiment_folder(folder)
    if not isinstance(config, StudentConfig):
        kept = replace(config, cache=out / "cache")
        return train(kept, folder, splits=splits, resume=True, progress=progress).results
    assert config.taught_by is not None
    here = {name: getattr(config, name) for name in ("root", "device", "workers")}
    teacher = _trained(replace(config.taught_by, **here), splits, out, progress)
    settings = {field.name: getattr(config, field.name) for field in fields(DistillConfig)}
    student = DistillConfig(**settings | {"teacher": teacher, "cache": out / "cache"})
    result = distill(student, folder, splits=splits, resume=True, progress=progress)
    codes = _sampled_codes(result.model, _loaded(teacher, config, out), splits, config.workers)
    return {**result.results, "codes": codes}


def bits_of_a_class(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "codes", packed, of the database's images of the first class, and "expectations": of
    each bit, |mean| of -1 and +1 among them."""
    out = _experiment_folder(folder)
    model = _trained(config, splits, out, progress)
    encoded = _loaded(model, config, out).encoded(splits, "database")
    rows = _classes(encoded.labels) == CLASS
    expectations = signs(encoded.outputs[rows]).mean(0).abs()
    found = {"codes": encoded.codes[rows].tolist(), "expectations": expectations.tolist()}
    return {**read_json(model / RESULTS_FILE), **found}


def offset_positives(config: TrainConfig, splits: Splits, folder: Path, progress: bool) -> Result:
    """Adds "opr", {clusters: rate of training images whose random view is in another cluster}.

    Views are those that the model was trained with.

    config.seed is that of views and k-means; the model is always that of seed 0.
    """
    out = _experiment_folder(folder)
    path = _trained(replace(config, seed=MODEL_SEED), splits, out, progress)
    model = _loaded(path, config, out)
    shape, device = model.model.config.image_shape, model.loading.device
    augmentation = build_augmentation(augmentation_name(config, "u2"), shape)

    def outputs(images: Tensor, chunk: int) -> Tensor:
        seed_draws(device, config.seed, "offset positives", chunk)
        return model.outputs(augmentation(images))

    images = splits.train.resized(shape[1])
    seen = rows_of_images(images, outputs, model.bits, "views", model.loading)
    both = torch.from_numpy(np.stack([model.of(splits, "train"), np.concatenate(list(seen))]))
    original, view = signs(both[:, ~both.isnan().any(2).any(0)])
    rates = {}
    for k in CLUSTERS:
        clusters = Clusters.fit(original, k, config.seed)
        rates[str(k)] = opr(clusters.labels, clusters.assign(view))
    return {**read_json(path / RESULTS_FILE), "opr": rates}


def _experiment_folder(folder: Path) -> Path:
    """Where experiments keep what their runs share; folder: of one of the runs."""
    return folder.parents[1]


def _trained(config: TrainConfig, splits: Splits, out: Path, progress: bool) -> Path:
    """Folder of the model of these settings; an interrupted training is gone on with."""
    name = f"{config.backbone}-{config.method}-{config.bits}bits-{digest(identity(config))}"
    path = out / "teachers" / name
    if not (path / RESULTS_FILE).is_file():
        if progress:
            print(f"model to look at or learn from: {name}", file=sys.stderr)
        kept, sized = replace(config, cache=out / "cache"), _resized(splits, config.image_size)
        train(kept, path, splits=sized, resume=True, progress=progress)
    return path


def _resized(splits: Splits, image_size: int | None) -> Splits:
    """The same images as squares of that side; None keeps theirs."""
    if image_size is None:
        return splits
    parts = {
        part: getattr(splits, part).resized(image_size) for part in ("query", "train", "database")
    }
    return replace(splits, **parts, image_shape=parts["train"].image_shape)


def _loaded(folder: Path, config: TrainConfig, out: Path) -> Teacher:
    loading = Loading(resolve_device(config.device), config.workers)
    return Teacher(folder, ArrayCache(out / "cache"), loading)


def _sampled_codes(
    student: HashModel, teacher: Teacher, splits: Splits, workers: int
) -> dict[str, list]:
    classes = _classes(known_labels(splits.database))
    rows = ((classes >= 0) & (classes < SHOWN_CLASSES)).nonzero().flatten()
    draws = torch.Generator().manual_seed(0)
    rows = rows[torch.randperm(len(rows), generator=draws)[:SAMPLE]].sort().values
    ours = encode_dataset(student, splits.database, rows=rows, workers=workers)
    theirs = teacher.encoded(splits, "database")
    same = torch.searchsorted(theirs.indices, ours.indices)
    return {
        "student": ours.codes.tolist(),
        "teacher": theirs.codes[same].tolist(),
        "labels": classes[ours.indices].tolist(),
    }


def _classes(labels: Tensor) -> Tensor:
    """The class of each image, -1 where it has several or none: int64 [n]."""
    if labels.ndim == 1:
        return labels
    return torch.where(labels.sum(1) == 1, labels.argmax(1), -1)
