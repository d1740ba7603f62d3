"""One condensation step: draw, augment, compare, and the gradient that comes of it."""

from typing import Any

import torch
from torch import Tensor

from hashfast.condense.augmentation import Augmentation
from hashfast.condense.base import Method
from hashfast.condense.config import CondenseConfig
from hashfast.condense.gradients import Views
from hashfast.condense.networks import Network
from hashfast.condense.real import RealImages
from hashfast.data.formation import decode
from hashfast.hashing.loading import seed_draws, seed_of


class Step:
    """Computes a step's gradient for all classes at once.

    What is drawn is a function of the seed and the step's place, (number of the network, inner
    step): a step can be repeated. mean, std [C, 1, 1]: of the networks' normalisation.
    """

    def __init__(
        self, config: CondenseConfig, method: Method, real: RealImages, mean: Tensor, std: Tensor
    ) -> None:
        self.config, self.method, self.real = config, method, real
        self.num_classes = len(real.rows)
        self.augment = Augmentation(config, mean, std)
        self._drawn: tuple[list[Tensor], list[Any]] = ([], [])

    def __call__(self, images: Tensor, networks: list[Network], place: tuple[int, int]) -> Tensor:
        """Set the gradient of the images; returns the loss, averaged over the networks."""
        if self.config.real_draws == "step" or place[1] == 0:
            self._draw(networks, place)
        draws, real_sides = self._drawn
        decoded, labels = self.decoded(images, place)
        views = [self.augment(decoded, labels, draw) for draw in draws]
        # The graph up to here is walked once, however many parts the loss has.
        leaves = [view.detach().requires_grad_() for view in views]
        synthetic = Views(leaves[0], labels, *leaves[1:])
        total = images.new_zeros(())
        seed_draws(images.device, self.config.seed, "loss", *place)
        for network, real_side in zip(networks, real_sides, strict=True):
            for loss in self.method.losses(network, real_side, synthetic):
                (loss / len(networks)).backward(inputs=leaves)
                total += loss.detach() / len(networks)
                del loss  # its graph, before the next part's is made
        images.grad = None
        torch.autograd.backward(views, [leaf.grad for leaf in leaves])
        return total

    def _draw(self, networks: list[Network], place: tuple[int, int]) -> None:
        """Real images of every class, augmentations, and what the loss needs of these images."""
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, "step", *place))
        views = 2 if networks[0].compares_views else 1
        draws = [self.augment.draw(self.num_classes, generator) for _ in range(views)]
        rows = self.real.draw(self.config.real_batch, generator)
        images = self.real.unit(rows, self.augment.mean.dtype)
        labels = self.real.labels[rows]
        first, *second = (self.augment(images, labels, draw) for draw in draws)
        real = Views(first, labels, *second)
        self._drawn = draws, [self.method.real_side(network, real) for network in networks]

    def decoded(self, images: Tensor, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Synthetic images as networks see them, and their labels, sorted by class."""
        config, most = self.config, self.config.synthetic_batch
        assert config.factor is not None
        decoded, _ = decode(
            images,
            config.factor,
            config.formation,
            bound=config.bound,
            num_classes=self.num_classes,
        )
        per_class = len(decoded) // self.num_classes
        if most and per_class > most:
            generator = torch.Generator().manual_seed(seed_of(config.seed, "decoded", *place))
            shuffled = [
                torch.randperm(per_class, generator=generator)[:most] + c * per_class
                for c in range(self.num_classes)
            ]
            decoded, per_class = decoded[torch.cat(shuffled).to(decoded.device)], most
        labels = torch.arange(self.num_classes, device=decoded.device)
        return decoded, labels.repeat_interleave(per_class)
