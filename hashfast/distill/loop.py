"""A whole distillation: teacher, student, training, both paradigms, what is kept of them."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from hashfast import _distributed
from hashfast._cache import ArrayCache
from hashfast.data import Splits
from hashfast.distill.config import DistillConfig
from hashfast.distill.fixed_views import FixedViews
from hashfast.distill.galleries import save_galleries
from hashfast.distill.learner import DistillLearner
from hashfast.distill.objective import Objective
from hashfast.distill.paradigms import NEIGHBOURS, Paradigms, alignment, evaluate_paradigms
from hashfast.distill.teacher import Teacher, signs
from hashfast.distill.views import FreshViews
from hashfast.hashing import HashModel
from hashfast.hashing.checkpoint import find_run
from hashfast.hashing.evaluation import Evaluation
from hashfast.hashing.features import FeatureCache, Loading, known_labels
from hashfast.hashing.learner import augmentation_name
from hashfast.hashing.loading import resolve_device, seed_draws
from hashfast.hashing.methods import read_arguments
from hashfast.hashing.train import Run, build_model, load_splits, steps_per_epoch
from hashfast.losses import BRCD, DISTILLATION
from hashfast.metrics import Report

BEST = {"map": "best-sshp", "map_ashp": "best-ashp"}
"""Where the best student by each paradigm is kept, by the name of its mAP in metrics.jsonl."""
CLUSTERS_FILE = "clusters.safetensors"


class DistillResult(NamedTuple):
    """model: the student, in evaluation mode; sshp, ashp: retrieval quality of both paradigms
    (ashp: None where the codes differ in length); results: what results.json holds."""

    model: HashModel
    sshp: Report
    ashp: Report | None
    results: dict[str, Any]


def distill(
    config: DistillConfig,
    out: Path | None = None,
    *,
    splits: Splits | None = None,
    resume: bool = False,
    progress: bool = True,
) -> DistillResult:
    """Train a student on a protocol's training set to code as a teacher does (paper 004).

    `out` receives all that `train` writes, and folders:

        database-sshp, database-ashp: galleries of the database, coded by the student and by the
            teacher, for the student to search; the second only where both have codes of one length;
        best-sshp, best-ashp: the students that were best by either paradigm, where
            config.evaluate_every asks for evaluations during training (on the protocol's queries:
            numbers of these students are optimistic).

    BRCD's clusters and masks are in clusters.safetensors (`Clusters.load`). The teacher's codes,
    and views drawn once, are kept in config.cache. The other arguments, the errors and the use of
    several processes are those of `train`; ValueError also for a teacher of other images.
    """
    if config.teacher is None:
        raise ValueError("a distillation needs a teacher: name the folder of a trained model")
    if config.tensorboard and out is None:
        raise ValueError("tensorboard=True writes into the run's folder: name one by out")
    with _distributed.setup(resolve_device(config.device)) as device:
        splits = load_splits(config, splits)
        shown = progress and _distributed.rank() == 0
        arrays = ArrayCache(config.cache)
        teacher = Teacher(config.teacher, arrays, Loading(device, config.workers, shown))
        _check_teacher(teacher, splits, config.bits)
        state = None
        if out is not None:
            out = Path(out)
            state = find_run(out, config, _described(splits, teacher), resume)
        run = build_run(config, splits, teacher, arrays, out, progress)
        result = run.perform(state)
        ashp = run.paradigms and run.paradigms.ashp
        return DistillResult(
            result.model, result.report, ashp.report if ashp else None, result.results
        )


def build_run(
    config: DistillConfig,
    splits: Splits,
    teacher: Teacher,
    arrays: ArrayCache,
    out: Path | None,
    progress: bool,
) -> "DistillRun":
    """Everything that learns, drawn from the seed, and the views it learns from."""
    device = teacher.loading.device
    model, base = build_model(config, splits, device)
    loss = DISTILLATION[config.distillation]
    if "labels" in loss.needs and splits.num_classes < 2:
        raise ValueError(
            f"{config.distillation} learns from classes and {splits.name} has "
            f"{splits.num_classes}: choose a loss that needs none, such as brcd"
        )
    given = read_arguments(loss, config.distillation_options, config.distillation)
    distillation = loss(config.bits, teacher.bits, **given)
    objective = Objective(
        base,
        distillation,
        config.base_weight,
        config.distillation_weight,
        config.compare == "codes",
    )
    name = augmentation_name(config, "u_student" if "u_student" in base.needs else "u2")
    if name == "none" and (objective.second_view or config.anchor == "augmented"):
        who = config.distillation if objective.augmented_views else config.method
        raise ValueError(f"{who} looks at random views of images: choose an augmentation")
    augmented = config.anchor == "augmented"
    number = config.feature_views if config.frozen else config.fixed_views
    if number == 1 and augmented and objective.second_view:
        setting = "feature_views" if config.frozen else "fixed_views"
        raise ValueError(
            f"{config.method} with {config.distillation} compares two random views of an image, "
            f"and 1 is kept: choose {setting} of at least 2, or anchor original"
        )
    from hashfast.augment import build_augmentation

    augmentation = build_augmentation(name, splits.image_shape)
    originals = teacher.of(splits, "train")
    outputs = torch.from_numpy(originals).nan_to_num()
    # Whether the teacher's outputs were read or computed, its loading has made draws or not.
    seed_draws(device, config.seed, "distillation")
    codes = signs(outputs) if config.compare == "codes" else outputs
    distillation.prepare(codes, splits.train.labels)
    objective.to(device)
    features = None
    views: FreshViews | FixedViews
    if number:
        if config.frozen:
            features = FeatureCache(model, arrays, config.workers, teacher.loading.progress)
        views = FixedViews(
            objective,
            augmentation,
            name,
            number,
            teacher,
            splits,
            arrays,
            seed=config.seed,
            augmented_anchor=augmented,
            features=features,
        )
    else:
        views = FreshViews(objective, augmentation, teacher, originals, augmented)
    steps = steps_per_epoch(config, splits)
    learner = DistillLearner(config, model, objective, views, device, steps)
    return DistillRun(config, splits, learner, teacher, features, out, progress)


class DistillRun(Run):
    """A training run whose model is evaluated in both paradigms."""

    config: DistillConfig

    def __init__(
        self,
        config: DistillConfig,
        splits: Splits,
        learner: DistillLearner,
        teacher: Teacher,
        features: FeatureCache | None,
        out: Path | None,
        progress: bool,
    ) -> None:
        super().__init__(config, splits, learner, out, progress)
        self.teacher, self.features = teacher, features
        self.title = config.distillation
        self.paradigms: Paradigms | None = None
        self.views, self.distillation = learner.views, learner.objective.distillation

    def load(self) -> None:
        if isinstance(self.views, FixedViews):
            self.train_set, self.unreadable = self.views, self.views.unreadable
        else:
            super().load()

    def described(self) -> dict[str, Any]:
        return _described(self.splits, self.teacher)

    def evaluate(self) -> Evaluation:
        self.paradigms = evaluate_paradigms(
            self.learner.model, self.splits, self.teacher, self.config.workers, self.features
        )
        return self.paradigms.sshp

    def evaluated(self, evaluation: Evaluation) -> dict[str, Any]:
        self.learner.model.training_info = self._lesson()
        return self._keep_best()

    def facts(self) -> dict[str, Any]:
        assert self.paradigms is not None
        ashp = self.paradigms.ashp
        model = self.learner.model
        aligned = alignment(model, self.splits, self.teacher, self.config.workers, self.features)
        return {
            **self._lesson(),
            "report_ashp": ashp and ashp.report.to_dict(),
            "isd": aligned and aligned.isd,
            f"nra@{NEIGHBOURS}": aligned and aligned.nra,
        }

    def write(self, model: HashModel, results: dict[str, Any]) -> None:
        super().write(model, results)
        assert self.log is not None
        assert self.paradigms is not None
        if self.config.evaluate_every:
            self._keep_best()
        save_galleries(self.log.out, model, self.splits, self.paradigms, self.teacher)
        if isinstance(self.distillation, BRCD):
            self.distillation.clusters.save(self.log.out / CLUSTERS_FILE)

    def _keep_best(self) -> dict[str, float]:
        """Keep the student by each paradigm whose mAP is the highest so far; returns the mAPs."""
        assert self.paradigms is not None
        found = {"map": self.paradigms.sshp.report.map}
        if self.paradigms.ashp is not None:
            found["map_ashp"] = self.paradigms.ashp.report.map
        for name, value in found.items():
            earlier = [line[name] for line in self.history if name in line]
            if self.log is not None and value > max(earlier, default=-1.0):
                self.learner.model.save_pretrained(self.log.out / BEST[name])
        return found

    def _lesson(self) -> dict[str, Any]:
        """What a student says of how it was taught: it decides which galleries it may search."""
        return {
            "distillation": self.config.distillation,
            "teacher": {
                "folder": str(self.teacher.folder.resolve()),
                "fingerprint": self.teacher.fingerprint,
                "backbone": self.teacher.model.config.backbone,
                "aligned": DISTILLATION[self.config.distillation].aligns,
            },
        }


def _described(splits: Splits, teacher: Teacher) -> dict[str, Any]:
    """What a run was trained on and by whom, which a resumed one must find again."""
    return splits.describe() | {"teacher": teacher.fingerprint}


def _check_teacher(teacher: Teacher, splits: Splits, bits: int) -> None:
    theirs, size, _ = teacher.model.config.image_shape
    ours = splits.image_shape[0]
    if ours != theirs:
        raise ValueError(
            f"{splits.name} has images of {ours} channels and the teacher in {teacher.folder} "
            f"takes {theirs} (1: grey, 3: RGB): train the teacher on such images"
        )
    if teacher.bits == bits:  # what is compared at the end must not fail there
        for part in ("train", "database"):
            known_labels(getattr(splits, part).resized(size))
