"""What an epoch costs with each kind of quantisation, measured in turns."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from hashfast._environment import environment
from hashfast.data import ArrayDataset, Splits
from hashfast.hashing import TrainConfig
from hashfast.hashing.learner import Learner
from hashfast.hashing.loading import Batch, batches, resolve_device, shuffled
from hashfast.hashing.train import build_learner

VARIANTS: tuple[Literal["original", "swd", "hswd"], ...] = ("original", "swd", "hswd")
_WARM_UP = 3  # batches


def epoch_seconds(
    config: TrainConfig, splits: Splits, folder: Path, progress: bool
) -> dict[str, Any]:
    """Seconds an epoch of the method with its own quantisation, with SWD and with HSWD.

    Returns "epoch" and "loss", {variant: seconds of each epoch}: of whole training steps, and of
    the loss alone (forward and backward pass, and what it does between epochs). The three take
    turns at every batch, in an order that rotates, so that whatever slows the machine slows all
    alike; the loading of images is left out. On the CPU it is processor time, of all threads
    ("clock" says so), on a GPU wall time. The variants are trained as `config` says, for all of its
    epochs, and are then forgotten.
    """
    device = resolve_device(config.device)
    train_set = splits.train
    if isinstance(train_set, ArrayDataset):
        train_set = train_set.to(device)
    timed = {
        name: _Timed(
            build_learner(replace(config, quantization=name), splits, device), _Clock(device)
        )
        for name in VARIANTS
    }
    steps = len(shuffled(len(train_set), config.batch_size, 0, 0))
    for epoch in range(-1, config.epochs):
        rows = shuffled(len(train_set), config.batch_size, config.seed, epoch + 1)
        if epoch < 0:  # a few batches that warm up caches and allocators
            rows = rows[:_WARM_UP]
        for one in timed.values():
            one.start_epoch(max(epoch, 0))
        first = max(epoch, 0) * steps
        for step, (batch, _) in enumerate(batches(train_set, rows, device, config.workers), first):
            if batch is not None and len(batch[0]) > 1:
                turn = step % len(VARIANTS)
                for name in (*VARIANTS[turn:], *VARIANTS[:turn]):
                    timed[name].step(step, batch)
    return {
        "epoch": {name: one.epochs[1:] for name, one in timed.items()},
        "loss": {name: one.losses[1:] for name, one in timed.items()},
        "clock": _Clock(device).name,
        "environment": environment(device),
    }


class _Timed:
    """A learner, with the seconds of each of its epochs, and of the loss alone."""

    def __init__(self, learner: Learner, clock: "_Clock") -> None:
        self.learner, self.clock = learner, clock
        self.epochs: list[float] = []
        self.losses: list[float] = []

    def start_epoch(self, epoch: int) -> None:
        seconds = self.clock(lambda: self.learner.start_epoch(epoch))
        self.epochs.append(seconds)
        self.losses.append(seconds)

    def step(self, step: int, batch: Batch) -> None:
        """One training step; then the loss again, for outputs drawn at random."""
        images, labels, index = batch
        self.epochs[-1] += self.clock(lambda: self.learner.step(step, batch, [len(images)]))
        outputs = torch.randn(len(images), self.learner.config.bits, device=images.device)
        outputs.requires_grad_()

        def loss() -> None:
            criterion = self.learner.criterion
            criterion(outputs, labels, u_student=outputs, index=index).backward()

        self.losses[-1] += self.clock(loss)


class _Clock:
    """Seconds that a call takes: processor time on the CPU, else wall time until the device is
    done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.name = "processor time" if device.type == "cpu" else "wall time"
        self._now = time.process_time if device.type == "cpu" else time.perf_counter

    def __call__(self, call: Callable[[], Any]) -> float:
        self._wait()
        start = self._now()
        call()
        self._wait()
        return self._now() - start

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
