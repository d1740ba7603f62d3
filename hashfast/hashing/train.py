"""The one training loop."""

import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from hashfast import _distributed
from hashfast._cache import ArrayCache
from hashfast._files import write_json
from hashfast.data import ArrayDataset, CondensedSet, ImageDataset, Splits, UnreadableImage, load
from hashfast.hashing.checkpoint import CHECKPOINT_FILE, find_run, save_checkpoint
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.evaluation import Evaluation, evaluate_model
from hashfast.hashing.features import FeatureCache
from hashfast.hashing.learner import SECOND_VIEWS, Learner, augmentation_name
from hashfast.hashing.loading import batches, empty_batch, resolve_device, shuffled
from hashfast.hashing.logs import RESULTS_FILE, Log, describe_results, describe_training
from hashfast.hashing.methods import build_criterion, build_unsupervised, find_method
from hashfast.hashing.model import HashModel
from hashfast.hashing.normalisation import model_config
from hashfast.hashing.watch import Watch
from hashfast.losses import METHODS, HashLoss, UnsupervisedLoss
from hashfast.metrics import Report


class TrainResult(NamedTuple):
    """model: trained, in evaluation mode; report: retrieval quality on the protocol;
    results: what results.json holds."""

    model: HashModel
    report: Report
    results: dict[str, Any]


def train(
    config: TrainConfig,
    out: Path | None = None,
    *,
    splits: Splits | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train on a protocol's training set, then evaluate database against queries.

    `out` receives model.safetensors, config.json, a card, metrics.jsonl (a line an epoch),
    results.json and, after every epoch, checkpoint.pt; None writes nothing. `resume` continues
    from that checkpoint, with the same result as an uninterrupted run. `splits` overrides loading
    `config.data`; `config.condensed` takes the place of its training set.

    Raises FileExistsError when `out` holds a run and `resume` is off, ValueError when its settings
    or data differ, DivergedError naming term, step and learning rate, and what `CondensedSet.load`
    and `in_place_of_training_set` raise.
    Unreadable pictures are left out with one warning and listed in the results; UnreadableImage
    is raised when no training picture is readable. torch's global generators are seeded.

    Started by torchrun, the processes share every batch of `batch_size` images and the encoding;
    all return the result, and the first alone writes and shows progress. They must see the same
    `out`.
    """
    if config.tensorboard and out is None:
        raise ValueError("tensorboard=True writes into the run's folder: name one by out")
    with _distributed.setup(resolve_device(config.device)) as device:
        splits = load_splits(config, splits)
        state = None
        if out is not None:
            out = Path(out)
            state = find_run(out, config, splits.describe(), resume)
        learner = build_learner(config, splits, device)
        return Run(config, splits, learner, out, progress).perform(state)


def load_splits(config: TrainConfig, splits: Splits | None = None) -> Splits:
    """What a run trains on and is evaluated on; `splits` overrides loading `config.data`."""
    if splits is None:
        splits = load(config.data, config.root, config.split_seed, config.image_size)
    if config.condensed is not None:
        splits = CondensedSet.load(config.condensed).in_place_of_training_set(splits)
    return splits


def build_learner(config: TrainConfig, splits: Splits, device: torch.device) -> Learner:
    """Everything that learns, drawn from the seed, for data that has been checked."""
    model, criterion = build_model(config, splits, device)
    return Learner(config, model, criterion, device, steps_per_epoch(config, splits))


def build_model(
    config: TrainConfig, splits: Splits, device: torch.device
) -> tuple[HashModel, HashLoss | UnsupervisedLoss]:
    """The model and its loss, drawn from the seed, for data that has been checked."""
    least = min(2, config.batch_size)
    if len(splits.train) < least:
        raise ValueError(f"the training set has {len(splits.train)} pictures; it needs {least}")
    method = find_method(config.method)
    if method.head == "bn" and config.batch_size == 1:
        raise ValueError(
            f"{config.method} normalises over the batch: batch_size must be at least 2"
        )
    second = next((name for name in SECOND_VIEWS if name in method.needs), None)
    one = augmentation_name(config, second) == "none" or config.feature_views == 1
    if config.frozen and second and one:
        raise ValueError(
            f"{config.method} compares two views of an image, and the features kept are of one: "
            "choose an augmentation, and feature_views of at least 2"
        )
    if config.frozen and config.weights is None and config.backbone != "pixels":
        warnings.warn(
            f"the frozen {config.backbone} was never trained, and its features say little: give it "
            "weights",
            stacklevel=2,
        )
    torch.manual_seed(config.seed)
    settings = model_config(config, splits, method.head)
    if config.method in METHODS:
        criterion = build_criterion(config, splits).to(device)
        if splits.train.labels is not None:
            criterion.check_labels(splits.train.labels)
        return HashModel(settings, weights=config.weights).to(device), criterion
    model = HashModel(settings, weights=config.weights).to(device)
    return model, build_unsupervised(config, model).to(device)


def steps_per_epoch(config: TrainConfig, splits: Splits) -> int:
    return len(shuffled(len(splits.train), config.batch_size, 0, 0))


class Run:
    """A training run: what was done so far, its epochs, and what is kept of them."""

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        learner: Learner,
        out: Path | None,
        progress: bool,
    ) -> None:
        self.config, self.splits, self.learner = config, splits, learner
        self.first = _distributed.rank() == 0
        self.title = config.method
        self.out, self.progress = out, progress and self.first
        self.log: Log | None = None
        self.train_set: ImageDataset = splits.train
        self.features: FeatureCache | None = None
        self.epoch, self.seconds = 0, 0.0
        self.unreadable: dict[int, str] = {}
        self.history: list[dict[str, Any]] = []

    def perform(self, state: dict[str, Any] | None) -> TrainResult:
        """Train from the start, or from a checkpoint's state, to the end."""
        self.start(state)
        try:
            self.load()
            self.fit()
            return self.finish()
        finally:
            self.close()

    def load(self) -> None:
        """Put the training set where steps read it; of a frozen backbone, compute the features."""
        if not self.config.frozen:
            if isinstance(self.train_set, ArrayDataset):
                self.train_set = self.train_set.to(self.learner.device)
            return
        arrays = ArrayCache(self.config.cache)
        features = FeatureCache(self.learner.model, arrays, self.config.workers, self.progress)
        name = augmentation_name(self.config, self.learner.second)
        if name != "none" and self.learner.second == "u_student":
            # What the first of two views is weakened by, see training_views.
            name = f"{name} {self.config.augment_scale}"
        drawn = name, self.config.feature_views, self.config.seed
        view = (self.learner.view, *drawn) if name != "none" else ()
        kept = features.of(self.splits, "train", *view)
        self.features, self.train_set, self.unreadable = features, kept, kept.unreadable

    def start(self, state: dict[str, Any] | None) -> None:
        """Continue from a checkpoint's state, if there is one, and open the log."""
        if state is not None:
            self.learner.restore(state)
            self.epoch, self.seconds = state["epoch"], state["seconds"]
            self.history = state["history"]
            self.unreadable = state.get("unreadable", {})
        epochs = _distributed.gather_counts(self.epoch)
        if len(set(epochs)) > 1:
            raise ValueError(
                f"the processes found checkpoints of epochs {', '.join(map(str, epochs))} in "
                f"{self.out}: it must be one folder that all of them see"
            )
        if self.out is not None and self.first:
            self.out.mkdir(parents=True, exist_ok=True)
            self.log = Log(self.out, self.epoch, self.config.tensorboard)

    def fit(self) -> None:
        bar = tqdm(
            total=self.config.epochs * self.learner.steps_per_epoch,
            initial=self.epoch * self.learner.steps_per_epoch,
            unit="step",
            desc=f"{self.title} {self.config.bits} bits",
            disable=not self.progress,
        )
        with bar:
            while self.epoch < self.config.epochs:
                line = self._train_epoch(bar)
                every = self.config.evaluate_every
                if every and (self.epoch % every == 0 and self.epoch < self.config.epochs):
                    line |= self.evaluated(self.evaluate())
                self.history.append(line)
                bar.set_postfix({k: f"{v:.4g}" for k, v in line.items() if k in ("loss", "map")})
                self._save()

    def _train_epoch(self, bar: tqdm) -> dict[str, Any]:
        start = time.perf_counter()
        self.learner.start_epoch(self.epoch)
        watch = Watch(
            self.learner.learning_rate,
            self.out and self.out / CHECKPOINT_FILE,
            # The scaler leaves out a step whose gradient overflows, and scales the next ones less.
            tolerated=("gradient_norm",) if self.config.amp == "fp16" else (),
        )
        rows = shuffled(len(self.train_set), self.config.batch_size, self.config.seed, self.epoch)
        shares = [_distributed.own_share(batch) for batch in rows]
        loader = batches(self.train_set, shares, self.learner.device, self.config.workers)
        steps = 0
        for step, (batch, unreadable) in enumerate(
            loader, self.epoch * self.learner.steps_per_epoch
        ):
            self.unreadable.update(unreadable)
            counts = _distributed.gather_counts(0 if batch is None else len(batch[0]))
            if sum(counts) < min(2, self.config.batch_size):
                continue  # what could be read is too little for batch norm
            if batch is None:
                batch = empty_batch(self.train_set, self.learner.device)
            watch.see(step, self.learner.step(step, batch, counts))
            steps += 1
            bar.update()
        self._share_unreadable()
        if not steps:
            first = next(iter(self.unreadable.values()), "all but one of a batch")
            raise UnreadableImage(f"no training picture is readable, the first: {first}")
        # The last update shows in no loss of this epoch, and its weights are about to be kept.
        watch.see(step, {"weight_norm": self.learner.weight_norm()})
        watch.read()
        if self.learner.stuck():
            raise watch.diverged(step, ["gradient_norm"])
        seconds = time.perf_counter() - start
        self.epoch += 1
        self.seconds += seconds
        return {
            "epoch": self.epoch,
            **watch.means(),
            "learning_rate": self.learner.learning_rate(
                self.epoch * self.learner.steps_per_epoch - 1
            ),
            "seconds": seconds,
            "images_per_second": len(self.train_set) / seconds,
        }

    def _share_unreadable(self) -> None:
        for found in _distributed.gather_objects(self.unreadable):
            self.unreadable |= found

    def evaluate(self) -> Evaluation:
        """Retrieval quality of the model as it is now."""
        return evaluate_model(
            self.learner.model, self.splits, self.config.workers, features=self.features
        )

    def evaluated(self, evaluation: Evaluation) -> dict[str, Any]:
        """What an epoch's line says of an evaluation during training."""
        return {"map": evaluation.report.map}

    def _save(self) -> None:
        if self.log is None:
            return
        # The checkpoint last: stopped between the two, a resumed run repeats the epoch and writes
        # both again.
        self.log.write(self.history)
        state = {
            **self.learner.state(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": self.history,
            "unreadable": self.unreadable,
        }
        save_checkpoint(self.log.out, self.config, self.described(), state)

    def described(self) -> dict[str, Any]:
        """What the run was trained on, which a resumed one must find again."""
        return self.splits.describe()

    def facts(self) -> dict[str, Any]:
        """What the results say besides."""
        return {}

    def write(self, model: HashModel, results: dict[str, Any]) -> None:
        """Keep the trained model and the results."""
        assert self.log is not None
        model.save_pretrained(self.log.out)
        write_json(self.log.out / RESULTS_FILE, results)

    def finish(self) -> TrainResult:
        """Evaluate, describe and write the model."""
        self.learner.optimizer.zero_grad()  # gradients take as much memory as the model returned
        evaluation = self.evaluate()
        model = self.learner.model.eval()
        distinct = evaluation.report.distinct_codes
        if distinct < self.splits.num_classes and self.first:
            warnings.warn(
                f"the codes have collapsed: the database has {distinct} distinct ones for "
                f"{self.splits.num_classes} classes, and mAP is the order of ties",
                stacklevel=3,
            )
        # A picture can be in the training set and in the database.
        trained = [reason for _, reason in sorted(self.unreadable.items())]
        unreadable = list(dict.fromkeys([*trained, *evaluation.unreadable]))
        if unreadable and self.first:
            warnings.warn(
                f"{len(unreadable)} unreadable pictures were left out (results.json lists them), "
                f"the first: {unreadable[0]}",
                stacklevel=3,
            )
        results = describe_results(
            self.config, self.splits, evaluation, unreadable, self.seconds, self.learner.device
        )
        facts = self.facts()
        results |= facts
        model.training_info = (
            describe_training(self.config, self.splits, evaluation, results) | facts
        )
        if self.log is not None:
            self.write(model, results)
        _distributed.barrier()  # what is written is there when any process returns
        return TrainResult(model, evaluation.report, results)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()
