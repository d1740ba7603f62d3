"""Distribution matching."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hashfast.condense.base import Method, Views
from hashfast.condense.networks import Network
from hashfast.ops import ClassRows, class_mmd, class_rows


class DM(Method):
    """Match the mean features of every class in a new random network a step.

    Zhao and Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023), eq. 4: features
    are those before the head, the augmentation is DSA's.
    """

    summary = "mean features of every class in random networks (distribution matching)"

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        return {
            "factor": 1,
            "networks": 20000,
            "inner_steps": 1,
            "network_augmentation": False,
            "network_pool": "random",
            # The public code's 1.0 is for normalised images: times their variance, about 1/16.
            "learning_rate": 0.06,
            "scale_learning_rate": False,
            "augment": "dsa",
        }

    def real_side(self, network: Network, real: Views) -> tuple[Tensor, ClassRows]:
        """Features [n, F], and which of them belong to which class."""
        with torch.no_grad():
            features = network.features(real.images)
        return features, class_rows(real.labels, self.num_classes)

    def losses(
        self, network: Network, real_side: tuple[Tensor, ClassRows], synthetic: Views
    ) -> Iterator[Tensor]:
        features, classes = real_side
        per_class = len(synthetic.images) // self.num_classes
        # Whole classes, as many as the network takes at once: their graph is freed after each part.
        rows = max(1, network.at_once(synthetic.images) // per_class) * per_class
        for images, theirs in zip(
            synthetic.images.split(rows), synthetic.labels.split(rows), strict=True
        ):
            yield class_mmd(features, network.features(images), classes, theirs, self.num_classes)
