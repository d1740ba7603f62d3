"""What a condensation method is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hashfast.condense.config import CondenseConfig
from hashfast.condense.gradients import Views
from hashfast.condense.networks import Network

if TYPE_CHECKING:
    from hashfast.condense.step import Step


class Method:
    """Base of the methods that learn images. One object serves a run.

    `defaults(ipc)` gives the settings that a method has where CondenseConfig has None.
    """

    summary: str
    steps_by_class = False
    """Whether the published code moves the images once a class instead of once for all classes:
    its learning rate and momentum then become those of one step (see `batched_step`)."""
    with_loss = False
    """Whether the networks need their hashing loss."""

    def __init__(self, config: CondenseConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        raise NotImplementedError

    def real_side(self, network: Network, real: Views) -> Any:
        """What the loss needs of the real images."""
        raise NotImplementedError

    def losses(self, network: Network, real_side: Any, synthetic: Views) -> Iterator[Tensor]:
        """Parts of the loss, summed over classes, in the graph of the synthetic images.

        Each part's gradient is taken before the next part is made.
        """
        raise NotImplementedError

    def between_steps(
        self, step: "Step", loaded: list[Network], images: Tensor, place: tuple[int, int]
    ) -> None:
        """What happens to the loaded networks between two steps of the images; here nothing."""


def batched_step(learning_rate: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """Learning rate and momentum of one step for all classes that equals one step a class.

    A loop over C classes moves the images C times, in one optimiser, whose momentum carries a
    class's gradient on through the other classes' steps. With mu' = mu^C and lr' = lr (1 - mu^C) /
    (1 - mu) every class has the same images whenever its gradient is taken, with the same network
    and until values are clamped. At the end of a round the loop has yet to carry on the moves of
    its last classes.
    """
    carried = momentum**num_classes
    return learning_rate * (1 - carried) / (1 - momentum), carried


def images_optimizer(images: Tensor, method: Method, num_classes: int) -> torch.optim.SGD:
    """What moves the images, by the settings of the method's run."""
    config = method.config
    assert config.learning_rate is not None
    rate, momentum = config.learning_rate, config.momentum
    if config.scale_learning_rate:
        rate *= config.ipc / 10
    if config.learning_rate_size:
        rate *= images[0, 0].numel() / config.learning_rate_size**2
    if method.steps_by_class:
        rate, momentum = batched_step(rate, momentum, num_classes)
    return torch.optim.SGD([images], lr=rate, momentum=momentum)
