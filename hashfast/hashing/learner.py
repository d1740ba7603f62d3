"""One training step: views, outputs, loss, gradient, update; in one process or in several."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hashfast import _distributed
from hashfast.hashing.batch_norm import share_batch_norm
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.loading import Batch, seed_draws
from hashfast.hashing.model import HashModel
from hashfast.hashing.network import Network
from hashfast.hashing.optimizers import LearningRate, build_optimizer
from hashfast.losses import UnsupervisedLoss

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The smallest normal number of half precision: gradients of a loss scaled below it vanish.
_SMALLEST_SCALE = 2.0**-14
SECOND_VIEWS = {"u_student": "dhd", "u2": "cibhash"}
"""Inputs of a loss that are outputs of a second view, and the augmentation they are made for."""


class Learner:
    """Model, loss and optimiser, and the step that moves them.

    With several processes each computes the outputs of its rows of a batch, and then the loss of
    the joined batch, so that pairs, banks and distributions are those of one process. Its gradient
    reaches a process's own rows only; multiplied by the number of processes it is, after the
    averaging of DistributedDataParallel, that of the joined batch. The loss's own parameters need
    no averaging: every process computes their gradient from the same outputs, labels and draws.

    Augmentation and dropout draw from (seed, step, rank), losses from (seed, step).

    criterion: a HashLoss, an UnsupervisedLoss, or a module with their `needs`, `start_epoch` and
    `components`. With a frozen backbone only the head is trained, and batches hold features of V
    views of each image [n, V, F] in the place of images.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: HashModel,
        criterion: Any,
        device: torch.device,
        steps_per_epoch: int,
    ) -> None:
        self.config, self.model, self.criterion, self.device = config, model, criterion, device
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        network = Network(model, criterion.needs, config.frozen)
        distributed = _distributed.is_distributed()
        self.network = _distribute(network, device) if distributed else network
        if config.compile:
            network.compile_parts()
        self.parameters = [*model.parameters(), *criterion.parameters()]
        self.optimizer = build_optimizer(config, model, criterion)
        self.steps_per_epoch = steps_per_epoch
        self.learning_rate = LearningRate(config, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.second = next((name for name in SECOND_VIEWS if name in criterion.needs), None)
        self.view, self.second_view = training_views(config, self.second, model.config.image_shape)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("model", "criterion", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])

    def start_epoch(self, epoch: int) -> None:
        self.network.train()
        seed_draws(self.device, self.config.seed, "epoch", epoch)
        self.criterion.start_epoch(epoch)

    def step(self, step: int, batch: Batch, counts: list[int]) -> dict[str, Tensor]:
        """Move the weights by one batch; returns the terms of the loss and the gradient's norm.

        batch: this process's rows; counts: the number of rows of every process.
        """
        self.learning_rate.set(self.optimizer, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(step, batch, counts)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.config.clip_gradient is not None:
            clip_grads_with_norm_(self.parameters, self.config.clip_gradient, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {**self.criterion.components, "gradient_norm": norm}

    def loss(self, step: int, batch: Batch, counts: list[int]) -> Tensor:
        """The loss of the joined batch."""
        images, labels, indices = batch
        seed_draws(self.device, self.config.seed, "views", step, _distributed.rank())
        first, second = self._views(images)
        with self._autocast():
            outputs, inputs = self.network(first())
            if self.second is not None:
                inputs[self.second] = self.network(second())[0]
        seed_draws(self.device, self.config.seed, "loss", step)
        joined = joined_outputs(outputs, counts)
        inputs = self._joined_inputs(inputs, counts)
        if isinstance(self.criterion, UnsupervisedLoss):
            return self.criterion(joined, **inputs)
        labels, inputs["index"] = (_distributed.gather_rows(x, counts) for x in (labels, indices))
        return self.criterion(joined, labels, **inputs)

    def weight_norm(self) -> Tensor:
        return get_total_norm([parameter.detach() for parameter in self.parameters])

    def stuck(self) -> bool:
        """Whether gradients overflow in half precision however small the loss is scaled."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE

    def _views(self, images: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """Two views of the images, each made when it is called."""
        if self.config.frozen:
            chosen = torch.randperm(images.shape[1])[:2].tolist()
            return (lambda: images[:, chosen[0]]), (lambda: images[:, chosen[-1]])
        return (
            partial(self._prepared, images, self.view),
            partial(self._prepared, images, self.second_view),
        )

    def _joined_inputs(self, inputs: dict[str, Tensor], counts: list[int]) -> dict[str, Tensor]:
        """Inputs of a loss, their rows those of all processes; codebooks are the same in each."""
        return {
            name: value
            if name == "codebooks"
            else _distributed.gather_rows(value, counts)
            if name == "features"
            else joined_outputs(value, counts)
            for name, value in inputs.items()
        }

    def _prepared(self, images: Tensor, view: nn.Module) -> Tensor:
        return self._laid_out(view(images))

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.config.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _autocast(self) -> AbstractContextManager:
        if self.config.amp == "no":
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.config.amp])


def augmentation_name(config: TrainConfig, second: str | None) -> str:
    """What `augment` means for a loss that compares a second view of this name, or None."""
    if config.augment != "auto":
        return config.augment
    return "none" if second is None else SECOND_VIEWS[second]


def training_views(
    config: TrainConfig, second: str | None, image_shape: tuple[int, int, int]
) -> tuple[nn.Module, nn.Module]:
    """Modules from images to their first and second random view; to themselves where none is."""
    name = augmentation_name(config, second)
    if name == "none":
        return nn.Identity(), nn.Identity()
    from hashfast.augment import build_augmentation

    scale = config.augment_scale if second == "u_student" else 1.0
    first = build_augmentation(name, image_shape, scale)
    return first, build_augmentation(name, image_shape, 1.0) if second else nn.Identity()


def joined_outputs(outputs: Tensor, counts: list[int]) -> Tensor:
    """Outputs of all processes, of at least float32; their gradient times their number."""
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if _distributed.is_distributed():
        # An alias: the gradient of whatever else is made of these outputs is not multiplied.
        outputs = outputs.view_as(outputs)
        outputs.register_hook(lambda gradient: _distributed.world() * gradient)
    return _distributed.gather_rows(outputs, counts)


def _distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over all processes, and batch norm over all their rows."""
    share_batch_norm(model, device)
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # The name that versions before forward_sync_buffers know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # Two views are two forward passes before one backward pass: no buffer may change between.
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
