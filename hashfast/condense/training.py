"""Training of the networks that gradients are matched in."""

from itertools import chain

import torch
from torch import Tensor

from hashfast.condense.augmentation import Augmentation
from hashfast.condense.config import CondenseConfig
from hashfast.condense.networks import Network
from hashfast.hashing.loading import seed_draws, seed_of, shuffled


class NetworkTraining:
    """Moves the loaded networks by Adam on some images, each augmented by draws of its own."""

    def __init__(self, config: CondenseConfig, augment: Augmentation) -> None:
        self.config, self.augment = config, augment
        self.optimizers: list[torch.optim.Optimizer] = []

    def train(
        self,
        networks: list[Network],
        images: Tensor,
        labels: Tensor,
        place: tuple[int, int],
        *,
        cutmix: bool = False,
    ) -> None:
        """`config.network_epochs` epochs on images float [n, C, H, W], after the step `place`."""
        assert self.config.network_epochs is not None
        if place[1] == 0:  # after the first step with these networks
            rate = self.config.network_learning_rate
            self.optimizers = [torch.optim.Adam(_parameters(n), lr=rate) for n in networks]
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, "training", *place))
        seed_draws(images.device, self.config.seed, "training", *place)
        seed = seed_of(self.config.seed, "batches", *place)
        for epoch in range(self.config.network_epochs):
            for rows in shuffled(len(images), self.config.network_batch, seed, epoch):
                rows = rows.to(images.device)
                batch, theirs = images[rows], labels[rows]
                parts = [(theirs, 1.0)]
                if cutmix:
                    batch, other, share = _cutmix(batch, generator)
                    parts = [(theirs, share), (theirs[other], 1 - share)]
                for network, optimizer in zip(networks, self.optimizers, strict=True):
                    self._step(network, optimizer, batch, parts, generator)

    def _step(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        parts: list[tuple[Tensor, float]],
        generator: torch.Generator,
    ) -> None:
        """parts: (labels, weight of the loss with them)."""
        assert network.criterion is not None
        views = [
            self.augment(images, None, self.augment.draw(len(images), generator))
            for _ in range(2 if network.compares_views else 1)
        ]
        network.model.train()
        network.criterion.train()
        outputs, *student = [network.model(view) for view in views]
        student_outputs = student[0] if student else None
        loss = sum(
            weight * network.criterion(outputs, labels, u_student=student_outputs)
            for labels, weight in parts
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        network.model.eval()
        network.criterion.eval()


def _parameters(network: Network) -> list[torch.nn.Parameter]:
    assert network.criterion is not None
    return list(chain(network.model.parameters(), network.criterion.parameters()))


def _cutmix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Every image with the same box cut out of another one (Yun et al., ICCV 2019, beta = 1).

    Returns images, int64 [n] which other, and the share of the area that is left of the first.
    """
    height, width = images.shape[2:]
    other = torch.randperm(len(images), generator=generator)
    area, y, x = torch.rand(3, generator=generator).tolist()
    box_height, box_width = round(height * area**0.5), round(width * area**0.5)
    top, left = int(y * height) - box_height // 2, int(x * width) - box_width // 2
    rows = slice(max(0, top), max(0, min(height, top + box_height)))
    columns = slice(max(0, left), max(0, min(width, left + box_width)))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[other.to(images.device)][:, :, rows, columns]
    cut = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, other.to(images.device), 1 - cut / (height * width)
