"""The networks that images are compared in: random or pretrained, perturbed or not."""

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hashfast._files import atomic_write
from hashfast.condense.config import CondenseConfig
from hashfast.condense.perturbation import perturb
from hashfast.data import ImageDataset, Splits
from hashfast.hashing import HashModel, TrainConfig
from hashfast.hashing.learner import Learner
from hashfast.hashing.loading import batches, seed_draws, seed_of, shuffled
from hashfast.hashing.methods import build_criterion
from hashfast.hashing.normalisation import model_config
from hashfast.hashing.train import build_learner
from hashfast.losses import METHODS, HashLoss

# Pixels or features, whichever are more, of the images that a network takes at once. ConvNet's
# widest map has up to 64 values a feature: 8 MB, which a CPU's cache holds, and 1 GB on a GPU.
_CPU_VALUES, _GPU_VALUES = 1 << 15, 1 << 22


@dataclass
class Network:
    """A hash model, and the loss that trains it where one does."""

    model: HashModel
    criterion: HashLoss | None = None
    amp: bool = False

    @property
    def compares_views(self) -> bool:
        """Whether the loss compares two views of every image."""
        return self.criterion is not None and "u_student" in self.criterion.needs

    def features(self, images: Tensor) -> Tensor:
        """Backbone features [n, F] of images on the scale [0, 1], at least float32."""
        parts = []
        for part in images.split(self.at_once(images)):
            with self._autocast(images):
                features = self.model.features(part)
            parts.append(features.to(torch.promote_types(features.dtype, torch.float32)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def at_once(self, images: Tensor) -> int:
        """How many of these images the network takes at once: a power of two."""
        features: Any = self.model.backbone.num_features
        values = _CPU_VALUES if images.device.type == "cpu" else _GPU_VALUES
        count = values // max(features, images.shape[1:].numel())
        return 1 << max(0, count.bit_length() - 1)

    def _autocast(self, images: Tensor) -> AbstractContextManager:
        if not self.amp:
            return nullcontext()
        return torch.autocast(images.device.type, torch.bfloat16)

    def state(self) -> dict[str, Tensor]:
        """A copy of all weights and buffers."""
        return {
            f"{name}.{key}": value.detach().clone()
            for name, part in self._parts()
            for key, value in part.state_dict().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, part in self._parts():
            mine = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(name)}
            part.load_state_dict(mine)

    def _parts(self) -> list[tuple[str, nn.Module]]:
        parts: list[tuple[str, nn.Module]] = [("model", self.model)]
        return parts if self.criterion is None else [*parts, ("criterion", self.criterion)]


class Networks:
    """The networks of a run, by number: each is a function of the seed and its number alone.

    The same modules hold one network after another, so that they are compiled once. A pool is
    trained when a network of it is first asked for, and read from `config.pool_folder` where an
    earlier run has left it. with_loss: networks have a hashing loss.
    """

    def __init__(
        self, config: CondenseConfig, splits: Splits, device: torch.device, with_loss: bool
    ) -> None:
        self.config, self.splits, self.device, self.with_loss = config, splits, device, with_loss
        self.settings = training_settings(config)
        self.model_config = model_config(self.settings, splits, METHODS[config.hashing].head)
        self.slots = [self._random(0) for _ in range(config.networks_a_step)]
        for network in self.slots:
            network.model.eval().requires_grad_(with_loss)  # else no gradient of it is needed
            if network.criterion is not None:
                network.criterion.eval()  # no step of a schedule is taken by comparing
            if config.compile:
                network.model.backbone.compile()
        self.pool: dict[int, dict[str, Tensor]] = {}

    def load(self, number: int) -> list[Network]:
        """The networks of step or round `number`, in place of those before."""
        for slot, network in enumerate(self.slots):
            place = number * len(self.slots) + slot
            if self.config.network_pool == "pretrained":
                draws = torch.Generator().manual_seed(seed_of(self.config.seed, "pool", place))
                network.restore(
                    self._pretrained(int(torch.randint(self.config.pool_size, (), generator=draws)))
                )
            else:
                network.restore(self._random(place).state())
            if self.config.network_augmentation:
                seed = seed_of(self.config.seed, "perturbation", place)
                perturb(
                    network.model.backbone,
                    self.config.perturbation,
                    norm=self.config.perturbation_norm,
                    directions=self.config.perturbation_directions,
                    generator=torch.Generator().manual_seed(seed),
                )
        return self.slots

    def _random(self, number: int) -> Network:
        seed_draws(self.device, self.config.seed, "network", number)
        criterion = None
        if self.with_loss:
            criterion = build_criterion(self.settings, self.splits).to(self.device)
        model = HashModel(self.model_config).to(self.device)
        return Network(model, criterion, self.config.amp == "bf16")

    def _pretrained(self, number: int) -> dict[str, Tensor]:
        if number not in self.pool:
            folder = self.config.pool_folder
            path = folder and folder / f"{self._pool_name()}-{number}.safetensors"
            if path and path.is_file():
                state = load_file(path, device=str(self.device))
            else:
                state = self._train(number)
                if path:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_write(path) as file:
                        file.write(save({k: v.cpu().contiguous() for k, v in state.items()}))
            self.pool[number] = state
        return self.pool[number]

    def _train(self, number: int) -> dict[str, Tensor]:
        settings = replace(self.settings, seed=seed_of(self.config.seed, "pool network", number))
        learner = build_learner(settings, self.splits, self.device)
        fit(learner, self.splits.train)
        criterion = learner.criterion
        assert isinstance(criterion, HashLoss)
        return Network(learner.model, criterion).state()

    def _pool_name(self) -> str:
        """Names what pretrained networks depend on."""
        facts = {
            "settings": {k: str(v) for k, v in vars(self.settings).items() if k != "device"},
            "data": self.splits.describe(),
            "mean": self.model_config.mean,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def training_settings(config: CondenseConfig) -> TrainConfig:
    """How a condensation trains its networks."""
    return TrainConfig(
        data=config.data,
        method=config.hashing,
        options=config.hashing_options,
        memory_bank=None if METHODS[config.hashing].bank == "none" else False,
        bits=config.bits,
        backbone=config.backbone,
        width=config.width,
        epochs=config.pool_epochs,
        batch_size=config.network_batch,
        learning_rate=config.network_learning_rate,
        schedule="constant",
        augment="auto",
        device=config.device,
        seed=config.seed,
    )


def fit(learner: Learner, train_set: ImageDataset) -> None:
    """Train for the epochs of the learner's settings, and nothing else: no log, no evaluation."""
    config, step = learner.config, 0
    for epoch in range(config.epochs):
        learner.start_epoch(epoch)
        rows = shuffled(len(train_set), config.batch_size, config.seed, epoch)
        for batch, _ in batches(train_set, rows, learner.device, config.workers):
            if batch is not None:
                learner.step(step, batch, [len(batch[0])])
            step += 1
