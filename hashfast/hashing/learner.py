"""One training step: views, outputs, loss, gradient, update; in one process or in several."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
from hashfast.hashing.optimizers import LearningRate, build_optimizer
from hashfast.losses import HashLoss

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The smallest normal number of half precision: gradients of a loss scaled below it vanish.
_SMALLEST_SCALE = 2.0**-14


class Learner:
    """Model, loss and optimiser, and the step that moves them.

    With several processes each computes the outputs of its rows of a batch, and then the loss of
    the joined batch, so that pairs, banks and distributions are those of one process. Its gradient
    reaches a process's own rows only; multiplied by the number of processes it is, after the
    averaging of DistributedDataParallel, that of the joined batch. The loss's own parameters need
    no averaging: every process computes their gradient from the same outputs, labels and draws.

    Augmentation and dropout draw from (seed, step, rank), losses from (seed, step).
    """

    def __init__(
        self,
        config: TrainConfig,
        model: HashModel,
        criterion: HashLoss,
        device: torch.device,
        steps_per_epoch: int,
    ) -> None:
        self.config, self.model, self.criterion, self.device = config, model, criterion, device
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        self.forward: Callable[[Tensor], Tensor] = (
            _distribute(model, device) if _distributed.is_distributed() else model
        )
        if config.compile:
            model.compile()  # in place: evaluation is compiled too, and names of weights stay
        self.parameters = [*model.parameters(), *criterion.parameters()]
        self.optimizer = build_optimizer(config, model, criterion)
        self.steps_per_epoch = steps_per_epoch
        self.learning_rate = LearningRate(config, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        two = "u_student" in criterion.needs
        self.view = _view(config, model, two, config.augment_scale if two else 1.0)
        self.student_view = _view(config, model, two, 1.0) if two else None

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
        self.model.train()
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
        student = None
        with self._autocast():
            outputs = self.forward(self._prepared(images, self.view))
            if self.student_view is not None:
                student = self.forward(self._prepared(images, self.student_view))
        seed_draws(self.device, self.config.seed, "loss", step)
        return self.criterion(
            _joined(outputs, counts),
            _distributed.gather_rows(labels, counts),
            u_student=None if student is None else _joined(student, counts),
            index=_distributed.gather_rows(indices, counts),
        )

    def weight_norm(self) -> Tensor:
        return get_total_norm([parameter.detach() for parameter in self.parameters])

    def stuck(self) -> bool:
        """Whether gradients overflow in half precision however small the loss is scaled."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE

    def _prepared(self, images: Tensor, view: nn.Module) -> Tensor:
        images = view(images)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _autocast(self) -> AbstractContextManager:
        if self.config.amp == "no":
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.config.amp])


def _view(config: TrainConfig, model: HashModel, two: bool, scale: float) -> nn.Module:
    """A module from images to a random view of them; the images themselves where none is asked."""
    name = config.augment
    if name == "auto":
        name = "dhd" if two else "none"
    if name == "none":
        return nn.Identity()
    from hashfast.augment import build_augmentation

    return build_augmentation(name, model.config.image_shape, scale)


def _joined(outputs: Tensor, counts: list[int]) -> Tensor:
    """Outputs of all processes, of at least float32; their gradient times their number."""
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if _distributed.is_distributed():
        outputs.register_hook(lambda gradient: _distributed.world() * gradient)
    return _distributed.gather_rows(outputs, counts)


def _distribute(model: HashModel, device: torch.device) -> nn.Module:
    """The model with gradients averaged over all processes, and batch norm over all their rows."""
    share_batch_norm(model, device)
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # The name that versions before forward_sync_buffers know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # Two views are two forward passes before one backward pass: no buffer may change between.
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
