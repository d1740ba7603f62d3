"""The one condensation loop."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from hashfast._environment import environment
from hashfast._files import write_text
from hashfast.condense.base import images_optimizer
from hashfast.condense.config import CondenseConfig
from hashfast.condense.methods import METHODS
from hashfast.condense.networks import Networks
from hashfast.condense.real import RealImages
from hashfast.condense.selection import Selection
from hashfast.condense.start import first_images
from hashfast.condense.step import Step
from hashfast.data import Splits, load
from hashfast.data.condensed import IMAGES_FILE, CondensedSet
from hashfast.hashing.checkpoint import (
    CHECKPOINT_FILE,
    differences,
    load_checkpoint,
    save_checkpoint,
)
from hashfast.hashing.loading import resolve_device
from hashfast.hashing.logs import METRICS_FILE
from hashfast.hashing.watch import DivergedError

# Settings that may change between a run and its resumption.
_FREE = {"device", "workers", "root", "pool_folder"}
CHECKPOINT_SECONDS = 30.0

Evaluate = Callable[[CondensedSet], dict[str, Any]]


class CondenseResult(NamedTuple):
    """condensed: the set; seconds: spent on condensing it, without evaluations and without the
    training of pretrained networks that a run before left; history: what was written down on the
    way, each with "networks", "loss", "seconds" and what was evaluated."""

    condensed: CondensedSet
    seconds: float
    history: list[dict[str, Any]]


def condense(
    config: CondenseConfig,
    out: Path | None = None,
    *,
    splits: Splits | None = None,
    resume: bool = False,
    progress: bool = True,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
) -> CondenseResult:
    """Condense a protocol's training set into `config.ipc` images a class.

    `out` receives the set (see `CondensedSet.save`), metrics.jsonl (a line an evaluation) and,
    about every half minute, checkpoint.pt; None writes nothing. `resume` continues from that
    checkpoint, with the same result as an uninterrupted run. `splits` overrides loading
    `config.data`. `evaluate` is called after every `evaluate_every` networks and at the end; what
    it returns, such as {"map": 0.5}, goes into the history and the progress bar. torch's global
    generators are seeded.

    Raises FileExistsError when `out` holds a run and `resume` is off, ValueError when its settings
    or data differ, for a class without images or with fewer than are to be selected, several
    labels an image, and a factor larger than the images; DivergedError naming step and learning
    rate when the images are no longer finite.
    """
    config = config.resolved()
    device = resolve_device(config.device)
    if splits is None:
        splits = load(config.data, config.root, config.split_seed, config.image_size)
    run = _Run(config, splits, device, None if out is None else Path(out), progress)
    run.start(resume)
    try:
        run.go(evaluate, evaluate_every)
    except BaseException:  # also when a user interrupts
        run.save()
        raise
    return run.finish()


class _Run:
    def __init__(
        self,
        config: CondenseConfig,
        splits: Splits,
        device: torch.device,
        out: Path | None,
        progress: bool,
    ) -> None:
        self.config, self.out, self.progress = config, out, progress
        self.real = RealImages(splits, device, config.workers)
        self.splits = replace(splits, train=self.real.dataset())
        self.method = METHODS[config.method](config, splits.num_classes)
        self.networks = Networks(config, self.splits, device, self.method.with_loss)
        self.labels = torch.arange(splits.num_classes).repeat_interleave(config.ipc)
        self.images = torch.empty(0)
        self.number, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.kept: dict[str, Any] | None = None

    def start(self, resume: bool) -> None:
        """Draw the first images, or take up the run in `out`."""
        state = None
        if self.out is not None:
            state = _find(self.out, self.config, self.splits.describe(), resume)
            self.out.mkdir(parents=True, exist_ok=True)  # one that cannot be made fails now
        if isinstance(self.method, Selection):
            begun = time.perf_counter()
            rows = self.method.select(self.real, self.networks)
            self.images = self.real.images[rows.to(self.real.images.device)].float() / 255
            self.seconds = time.perf_counter() - begun
            return
        self.images = first_images(self.config, self.real).requires_grad_()
        self.optimizer = images_optimizer(self.images, self.method, self.splits.num_classes)
        if state is not None:
            with torch.no_grad():
                self.images.copy_(state["images"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.number, self.seconds = state["number"], state["seconds"]
            self.history = state["history"]

    def go(self, evaluate: Evaluate | None, every: int) -> None:
        if isinstance(self.method, Selection):
            if evaluate is not None:
                self._note(evaluate, None, None)
            return
        config, model = self.config, self.networks.slots[0].model
        assert config.networks is not None
        assert config.inner_steps is not None
        step = Step(config, self.method, self.real, model.mean, model.std)
        bar = tqdm(
            total=config.networks * config.inner_steps,
            initial=self.number * config.inner_steps,
            unit="step",
            desc=f"{config.method} {config.ipc} a class",
            disable=not self.progress,
        )
        saved = begun = time.perf_counter()
        with bar:
            while self.number < config.networks:
                loaded = self.networks.load(self.number)
                losses = []
                for inner in range(config.inner_steps):
                    losses.append(step(self.images, loaded, (self.number, inner)))
                    self.optimizer.step()
                    with torch.no_grad():
                        self.images.clamp_(0, 1)
                    if inner + 1 < config.inner_steps:
                        place = (self.number, inner)
                        self.method.between_steps(step, loaded, self.images, place)
                    bar.update()
                self.number += 1
                last = self.number == config.networks
                noted = last or (evaluate and every and self.number % every == 0)
                loss = self._checked(losses) if noted else None  # waits for the device
                now = time.perf_counter()
                self.seconds, begun = self.seconds + now - begun, now
                if noted:
                    self._note(evaluate, loss, bar)
                    begun = time.perf_counter()
                self._keep()
                if last or time.perf_counter() - saved > CHECKPOINT_SECONDS:
                    self._checked(losses)
                    self.save()
                    saved = time.perf_counter()

    def finish(self) -> CondenseResult:
        condensed = self._condensed()
        if self.out is not None:
            condensed.save(self.out)
        return CondenseResult(condensed, self.seconds, self.history)

    def _checked(self, losses: list[Tensor]) -> float:
        """Mean loss of the last network's steps. Raises DivergedError unless it is finite."""
        loss = float(torch.stack(losses).mean())
        if not (math.isfinite(loss) and self.images.isfinite().all()):
            kept = ""
            if self.out is not None and (self.out / CHECKPOINT_FILE).is_file():
                kept = f"; the last good state is in {self.out / CHECKPOINT_FILE}"
            raise DivergedError(
                f"the loss is {loss} with network {self.number} of {self.config.networks} and "
                f"learning rate {self.config.learning_rate}: lower the learning rate{kept}"
            )
        return loss

    def _note(self, evaluate: Evaluate | None, loss: float | None, bar: Any) -> None:
        line = {"networks": self.number, "loss": loss, "seconds": self.seconds}
        found = {} if evaluate is None else evaluate(self._condensed())
        self.history.append({**line, **found})
        if bar is not None:
            shown = {key: value for key, value in found.items() if isinstance(value, float)}
            bar.set_postfix({k: f"{v:.4g}" for k, v in {"loss": loss, **shown}.items()})
        if self.out is not None:
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            write_text(self.out / METRICS_FILE, lines)

    def _keep(self) -> None:
        """Remember what the whole networks have done: a run goes on between two of them."""
        self.kept = {
            "images": self.images.detach().clone(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "number": self.number,
            "seconds": self.seconds,
            "history": list(self.history),
        }

    def save(self) -> None:
        """Write what is remembered, if there is something and it is finite."""
        if self.out is None or self.kept is None or not self.kept["images"].isfinite().all():
            return
        save_checkpoint(self.out, self.config, self.splits.describe(), self.kept)

    def _condensed(self) -> CondensedSet:
        config, model = self.config, self.networks.model_config
        assert config.factor is not None
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
        return CondensedSet(
            self.images.detach().cpu().clone(),
            self.labels,
            config.factor,
            config.formation,
            config.bound,
            self.splits.class_names,
            {
                "method": config.method,
                "protocol": self.splits.describe(),
                "mean": list(model.mean),
                "std": list(model.std),
                "settings": settings,
                "networks": self.number,
                "seconds": self.seconds,
                "environment": environment(self.images.device),
            },
        )


def _find(
    folder: Path, config: CondenseConfig, protocol: dict[str, Any], resume: bool
) -> dict[str, Any] | None:
    """State of the run in `folder` to go on from; None where there is none."""
    if not (folder / CHECKPOINT_FILE).is_file():
        if (folder / IMAGES_FILE).is_file():  # of a selection, which keeps no state
            info = CondensedSet.load(folder).info if resume else {}
            if not {"settings", "protocol"} <= info.keys():
                raise FileExistsError(f"{folder} holds a condensed set: choose another folder")
            # JSON has lists for tuples.
            texts = {
                key: str(tuple(value) if isinstance(value, list) else value)
                for key, value in info["settings"].items()
            }
            _check_same(folder, {**info, "config": texts}, config, protocol)
        return None
    state = load_checkpoint(folder)
    if "number" not in state:
        raise FileExistsError(f"{folder} holds a run of another kind: choose another folder")
    if not resume:
        raise FileExistsError(
            f"{folder} holds a condensation at network {state['number']} of "
            f"{state['config']['networks']}: continue it with resume (--resume), or choose "
            "another folder"
        )
    _check_same(folder, state, config, protocol)
    return state


def _check_same(
    folder: Path, state: dict[str, Any], config: CondenseConfig, protocol: dict[str, Any]
) -> None:
    differ = differences(state, config, protocol, _FREE)
    if differ:
        raise ValueError(
            f"{folder} was condensed with other settings: {'; '.join(differ.values())}"
        )
