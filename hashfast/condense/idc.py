"""Gradient matching of images that hold several smaller ones."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hashfast.condense.dsa import DSA
from hashfast.condense.networks import Network

if TYPE_CHECKING:
    from hashfast.condense.step import Step
from hashfast.hashing.loading import seed_of


class IDC(DSA):
    """Gradient matching with multi-formation, in networks that train on real images.

    Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (ICML 2022), in
    the hashing form of the IEM preprint's appendix B (Algorithm 2). After each step the network
    trains on `network_images` real images, mixed by CutMix. The distance is the sum of squares, as
    on CIFAR-10; on ImageNet it is l1 and the factor 3.
    """

    summary = "gradients of a hashing loss, networks train on real images; several images in one"
    steps_by_class = True

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        return {
            **super().defaults(ipc),
            "factor": 2,
            "networks": 500,
            "inner_steps": 100,
            "network_epochs": 1,
            "metric": "mse",
            "learning_rate": 0.005,
            "scale_learning_rate": True,
            "augment": "idc",
        }

    def between_steps(
        self, step: "Step", loaded: list[Network], images: Tensor, place: tuple[int, int]
    ) -> None:
        """Train the networks on some real images."""
        seed = seed_of(self.config.seed, "network images", *place)
        rows = torch.randperm(len(step.real.labels), generator=torch.Generator().manual_seed(seed))
        rows = rows[: self.config.network_images].to(step.real.labels.device)
        real = step.real.unit(rows), step.real.labels[rows]
        self.training(step).train(loaded, *real, place, cutmix=True)
