"""The one training loop."""

import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from hashfast import losses
from hashfast._environment import environment
from hashfast._files import write_json, write_text
from hashfast.data import ArrayDataset, Splits, UnreadableImage, load
from hashfast.hashing.checkpoint import CHECKPOINT_FILE, find_run, save_checkpoint
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.encode import encode_dataset
from hashfast.hashing.loading import batches, epoch_seed, resolve_device, shuffled
from hashfast.hashing.model import HashModel, ModelConfig
from hashfast.metrics import Report, evaluate, quantization_error

METRICS_FILE, RESULTS_FILE = "metrics.jsonl", "results.json"
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainResult(NamedTuple):
    """model: trained, in evaluation mode; report: retrieval quality on the protocol;
    results: what results.json holds."""

    model: HashModel
    report: Report
    results: dict[str, Any]


class _Evaluation(NamedTuple):
    report: Report
    quantization_error: float
    unreadable: list[str]


class DivergedError(RuntimeError):
    """A loss term or a weight became NaN or infinite."""


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
    `config.data`. Raises FileExistsError when `out` holds a run and `resume` is off, ValueError
    when its settings or data differ, and DivergedError naming term, step and learning rate.
    Unreadable pictures are left out with one warning and listed in the results; UnreadableImage
    is raised when no training picture is readable.
    """
    device = resolve_device(config.device)
    if splits is None:
        splits = load(config.data, config.root, config.split_seed, config.image_size)
    state = None
    if out is not None:
        out = Path(out)
        state = find_run(out, config, splits.describe(), resume)

    torch.manual_seed(config.seed)
    criterion = build_criterion(config, splits).to(device)
    if splits.train.labels is not None:
        criterion.check_labels(splits.train.labels)
    if criterion.head == "bn" and config.batch_size == 1:
        raise ValueError(
            f"{config.method} normalises over the batch: batch_size must be at least 2"
        )
    model = HashModel(model_config(config, splits, criterion.head), weights=config.weights)
    model.to(device)
    run = _Run(config, splits, model, criterion, device, out, progress)
    if state is not None:
        run.restore(state)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    run.fit()
    return run.finish()


def build_criterion(config: TrainConfig, splits: Splits) -> losses.HashLoss:
    """The loss named by the configuration. Raises ValueError listing the methods."""
    if config.method not in losses.METHODS:
        raise ValueError(f"unknown method {config.method!r}; known: {', '.join(losses.METHODS)}")
    if splits.num_classes < 2:
        raise ValueError(
            f"{config.method} learns from classes and {splits.name} has {splits.num_classes}; "
            "put the pictures of each class in a folder of its own"
        )
    return losses.METHODS[config.method](
        splits.num_classes,
        config.bits,
        quantization=config.quantization,
        quantization_weight=config.quantization_weight,
    )


def model_config(config: TrainConfig, splits: Splits, head: str) -> ModelConfig:
    """Model settings for the protocol's images: arrays are normalised as the training set is."""
    mean, std = ModelConfig.mean, ModelConfig.std
    if isinstance(splits.train, ArrayDataset) and config.weights is None:
        mean, std = channel_statistics(splits.train.images)
    elif splits.image_shape[0] == 1:
        mean, std = (0.449,), (0.226,)  # the means of ImageNet's, for grey pictures
    return ModelConfig(
        backbone=config.backbone,
        bits=config.bits,
        head=head,
        image_shape=splits.image_shape,
        width=config.width,
        mean=mean,
        std=std,
    )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [n, C, H, W], as of [0, 1].

    A channel that varies by less than one grey level has standard deviation 1: dividing by its own
    would blow up the few pixels, or the later images, that differ.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        # By counting, which is exact and needs no float copy of the training set.
        counts = channel.flatten().bincount(minlength=256)
        shares = counts.cpu().double() / channel.numel()
        mean = float(shares @ levels)
        std = float(shares @ (levels - mean).square()) ** 0.5
        means.append(round(mean, 6))
        stds.append(round(std, 6) if std > 1 / 255 else 1.0)
    return tuple(means), tuple(stds)


class _Run:
    """State of a training run: what a checkpoint holds, and the steps over it."""

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        model: HashModel,
        criterion: losses.HashLoss,
        device: torch.device,
        out: Path | None,
        progress: bool,
    ) -> None:
        self.config, self.splits, self.model, self.criterion = config, splits, model, criterion
        self.device, self.out, self.progress = device, out, progress
        self.train_set = splits.train
        if isinstance(self.train_set, ArrayDataset):
            self.train_set = self.train_set.to(device)
        self.parameters = [*model.parameters(), *criterion.parameters()]
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.steps_per_epoch = len(shuffled(len(self.train_set), config.batch_size, 0, 0))
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.forward: Callable[[Tensor], Tensor] = torch.compile(model) if config.compile else model
        self.epoch, self.seconds = 0, 0.0
        self.unreadable: dict[int, str] = {}
        self.history: list[dict[str, Any]] = []

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.seconds, self.history = state["epoch"], state["seconds"], state["history"]

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": self.history,
        }

    def fit(self) -> None:
        total = self.config.epochs * self.steps_per_epoch
        bar = tqdm(
            total=total,
            initial=self.epoch * self.steps_per_epoch,
            unit="step",
            desc=f"{self.config.method} {self.config.bits} bits",
            disable=not self.progress,
        )
        with bar:
            while self.epoch < self.config.epochs:
                line = self._train_epoch(bar)
                every = self.config.evaluate_every
                if every and (self.epoch % every == 0 and self.epoch < self.config.epochs):
                    line["map"] = self._evaluate().report.map
                self.history.append(line)
                bar.set_postfix({k: f"{v:.4g}" for k, v in line.items() if k in ("loss", "map")})
                self._save()

    def _train_epoch(self, bar: tqdm) -> dict[str, Any]:
        start = time.perf_counter()
        # Every epoch seeds its own draws, so that a resumed run repeats them.
        torch.manual_seed(epoch_seed(self.config.seed, self.epoch))
        self.model.train()
        self.criterion.start_epoch(self.epoch)
        watch = _FiniteWatch()
        rows = shuffled(len(self.train_set), self.config.batch_size, self.config.seed, self.epoch)
        sums: dict[str, Tensor] = {}
        loader = batches(self.train_set, rows, self.device, self.config.workers)
        for step, (batch, unreadable) in enumerate(loader, self.epoch * self.steps_per_epoch):
            self.unreadable.update(unreadable)
            if batch is None or len(batch[0]) < min(2, self.config.batch_size):
                continue  # what could be read is too little for batch norm
            self._step(step, *batch)
            for name, value in self.criterion.components.items():
                sums[name] = sums.get(name, 0) + value
            watch.see(step, self.criterion.components)
            bar.update()
        if not sums:
            first = next(iter(self.unreadable.values()))
            raise UnreadableImage(f"no training picture is readable, the first: {first}")
        # The last update shows in no loss of this epoch, and its weights are about to be kept.
        watch.see(
            step, {"weights": torch.nn.utils.get_total_norm([p.detach() for p in self.parameters])}
        )
        watch.raise_if_diverged(self._learning_rate, self.out)
        seconds = time.perf_counter() - start
        self.epoch += 1
        self.seconds += seconds
        return {
            "epoch": self.epoch,
            **{name: float(value) / len(rows) for name, value in sums.items()},
            "learning_rate": self._learning_rate(self.epoch * self.steps_per_epoch - 1),
            "seconds": seconds,
            "images_per_second": len(self.train_set) / seconds,
        }

    def _step(self, step: int, images: Tensor, labels: Tensor, indices: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        with self._autocast():
            outputs = self.forward(images)
        loss = self.criterion(outputs, labels, index=indices)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _autocast(self):
        if self.config.amp == "no":
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.config.amp])

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then one cosine over the rest of the run."""
        warmup = self.config.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return self.config.learning_rate * (step + 1) / (warmup + 1)
        share = (step - warmup) / max(self.config.epochs * self.steps_per_epoch - warmup, 1)
        return self.config.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def _evaluate(self) -> _Evaluation:
        parts = {"query": self.splits.query, "database": self.splits.database}
        encoded = {
            name: encode_dataset(self.model, part, workers=self.config.workers)
            for name, part in parts.items()
        }
        unreadable = [reason for part in encoded.values() for _, reason in part.unreadable]
        query, database = encoded.values()
        report = evaluate(
            query.codes,
            database.codes,
            query.labels,
            database.labels,
            topk=self.splits.topk,
            bits=self.config.bits,
        )
        return _Evaluation(report, quantization_error(database.outputs), unreadable)

    def _save(self) -> None:
        if self.out is None:
            return
        # The checkpoint last: stopped between the two, a resumed run repeats the epoch and writes
        # both again.
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_text(self.out / METRICS_FILE, lines)
        save_checkpoint(self.out, self.config, self.splits.describe(), self.state())

    def finish(self) -> TrainResult:
        report, error, unreadable = self._evaluate()
        self.model.eval()
        # A picture can be in the training set and in the database.
        unreadable = list(dict.fromkeys([*self.unreadable.values(), *unreadable]))
        if unreadable:
            warnings.warn(
                f"{len(unreadable)} unreadable pictures were left out (results.json lists them), "
                f"the first: {unreadable[0]}",
                stacklevel=3,
            )
        results = {
            "config": {
                key: str(value) if isinstance(value, Path) else value
                for key, value in asdict(self.config).items()
            },
            "protocol": self.splits.describe(),
            "report": report.to_dict(),
            "quantization_error": error,
            "unreadable": unreadable,
            "train_seconds": self.seconds,
            "environment": environment(self.device),
        }
        self.model.training_info = {
            "method": self.config.method,
            "quantization": self.config.quantization,
            "protocol": self.splits.name,
            f"mAP@{self.splits.topk} (ties by index)": round(report.map, 4),
            f"mAP@{self.splits.topk} (expected)": round(report.map_by_ties["expected"], 4),
            "results": results,
        }
        if self.out is not None:
            self.model.save_pretrained(self.out)
            write_json(self.out / RESULTS_FILE, results)
        return TrainResult(self.model, report, results)


class _FiniteWatch:
    """Remembers, on the device, the first step at which each loss term was not finite."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def see(self, step: int, components: dict[str, Tensor]) -> None:
        for name, value in components.items():
            first = self.first.get(name)
            if first is None:
                first = torch.full((), -1, device=value.device)
            self.first[name] = torch.where((first < 0) & ~value.isfinite(), step, first)

    def raise_if_diverged(self, learning_rate, out: Path | None) -> None:
        bad = [(int(step), name) for name, step in self.first.items() if step >= 0]
        if not bad:
            return
        step = min(step for step, _ in bad)
        names = ", ".join(name for at, name in bad if at == step)
        kept = ""
        if out is not None and (out / CHECKPOINT_FILE).is_file():
            kept = f"; {out / CHECKPOINT_FILE} holds the last epoch that was fine"
        raise DivergedError(
            f"the loss was not finite at step {step} (terms: {names}; learning rate "
            f"{learning_rate(step):.3g}): lower learning_rate, or use amp=no or bf16{kept}"
        )
