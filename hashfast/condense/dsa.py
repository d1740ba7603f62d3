"""Gradient matching."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hashfast.condense.base import Method
from hashfast.condense.config import CondenseConfig
from hashfast.condense.gradients import Views, match_gradients
from hashfast.condense.networks import Network
from hashfast.condense.training import NetworkTraining

if TYPE_CHECKING:
    from hashfast.condense.step import Step


class DSA(Method):
    """Match the gradients of a hashing loss, of networks that train on the synthetic images.

    Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation" (ICML 2021), in
    the hashing form of the IEM preprint's appendix B: the distance D1 + D2 of `match_gradients`.
    The distance between two gradients is summed over the rows of every layer. As many steps with a
    network as images a class; 500 / ipc epochs of training after each (1 and 1 for one image).
    """

    summary = "gradients of a hashing loss, in networks that train on the synthetic images"
    with_loss = True

    def __init__(self, config: CondenseConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        if config.amp != "no" or config.compile:
            raise ValueError(
                f"{config.method} differentiates its networks twice, which amp and compile do not "
                "allow: leave both out"
            )
        if config.real_draws == "network":
            raise ValueError(
                f"{config.method} trains its network between steps: real_draws must be step"
            )
        self._training: NetworkTraining | None = None

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        return {
            "factor": 1,
            "networks": 1000,
            "inner_steps": ipc,
            "network_epochs": 1 if ipc == 1 else max(1, round(500 / ipc)),
            "network_augmentation": False,
            "network_pool": "random",
            "metric": "rows",
            # The public code's 0.1 is for normalised images: times their variance, about 1/16.
            "learning_rate": 0.006,
            "scale_learning_rate": False,
            "augment": "dsa",
        }

    def real_side(self, network: Network, real: Views) -> Views:
        return real

    def losses(self, network: Network, real_side: Views, synthetic: Views) -> Iterator[Tensor]:
        assert network.criterion is not None
        assert self.config.metric is not None
        for label in range(self.num_classes):
            yield match_gradients(
                network.model,
                network.criterion,
                _of_class(real_side, label),
                _of_class(synthetic, label),
                metric=self.config.metric,
            )

    def between_steps(
        self, step: "Step", loaded: list[Network], images: Tensor, place: tuple[int, int]
    ) -> None:
        """Train the networks on the synthetic images."""
        self.training(step).train(loaded, *step.decoded(images.detach(), place), place)

    def training(self, step: "Step") -> NetworkTraining:
        if self._training is None:
            self._training = NetworkTraining(self.config, step.augment)
        return self._training


def _of_class(views: Views, label: int) -> Views:
    rows = (views.labels == label).nonzero().squeeze(1)
    second = views.second_images
    return Views(views.images[rows], views.labels[rows], None if second is None else second[rows])
