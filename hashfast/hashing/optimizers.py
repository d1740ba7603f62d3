"""The optimiser of a run, and its learning rate at every step."""

import math
from typing import Any

import torch
from torch import nn

from hashfast.hashing.config import TrainConfig
from hashfast.hashing.model import HashModel


def build_optimizer(
    config: TrainConfig, model: HashModel, criterion: nn.Module
) -> torch.optim.Optimizer:
    """The optimiser over two groups of parameters: the backbone's; the head's and the loss's."""
    groups: list[dict[str, Any]] = [
        {"params": list(model.backbone.parameters())},
        {"params": [*model.head.parameters(), *criterion.parameters()]},
    ]
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, **options)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    if config.optimizer == "sgd":
        momentum = 0.9 if config.momentum is None else config.momentum
        return torch.optim.SGD(groups, momentum=momentum, **options)
    return torch.optim.RMSprop(groups, momentum=config.momentum or 0.0, **options)


class LearningRate:
    """Linear warm-up, then one cosine over the rest of the run, or a constant rate."""

    def __init__(self, config: TrainConfig, steps_per_epoch: int) -> None:
        self.config = config
        self.warmup = config.warmup_epochs * steps_per_epoch
        self.steps = config.epochs * steps_per_epoch

    def __call__(self, step: int) -> float:
        """The rate of a step, from 0, of everything but the backbone."""
        highest = self.config.learning_rate
        if step < self.warmup:
            return highest * (step + 1) / (self.warmup + 1)
        if self.config.schedule == "constant":
            return highest
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return highest * (1 + math.cos(math.pi * share)) / 2

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give the groups of `build_optimizer` their rates for a step."""
        rate = self(step)
        backbone, others = optimizer.param_groups
        backbone["lr"] = rate * self.config.backbone_learning_rate_scale
        others["lr"] = rate
