"""Selections of real images: what learnt images are compared with."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.condense.base import Method
from hashfast.condense.networks import Networks
from hashfast.condense.real import RealImages
from hashfast.hashing.loading import seed_of

_CHUNK = 512


class Selection(Method):
    """Base of the methods that keep real images of every class and learn nothing."""

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        return {
            "factor": 1,
            "network_augmentation": False,
            "network_pool": "random",
            "augment": "none",
        }

    def select(self, real: RealImages, networks: Networks) -> Tensor:
        """Rows of `real` int64 [classes * ipc], sorted by class, all different.

        Raises ValueError for a factor other than 1 and naming a class that has fewer than ipc
        images.
        """
        method, ipc = self.config.method, self.config.ipc
        if self.config.factor != 1:
            raise ValueError(
                f"factor is {self.config.factor} and {method} keeps whole images: leave it out"
            )
        for name, rows in zip(real.class_names, real.rows, strict=True):
            if len(rows) < ipc:
                raise ValueError(
                    f"class {name} has {len(rows)} images and ipc is {ipc}: {method} keeps "
                    f"different real ones, choose at most {min(map(len, real.rows))}"
                )
        return self.chosen(real, networks)

    def chosen(self, real: RealImages, networks: Networks) -> Tensor:
        """The rows, where every class has enough."""
        raise NotImplementedError


class Random(Selection):
    """Real images of every class, drawn without replacement by the seed."""

    summary = "random real images of every class"

    def chosen(self, real: RealImages, networks: Networks) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, "selection"))
        return real.draw(self.config.ipc, generator)


class Herding(Selection):
    """Real images of every class whose mean features come nearest to those of the class.

    Welling, "Herding Dynamical Weights to Learn" (ICML 2009), in the greedy form of Rebuffi et
    al., "iCaRL" (CVPR 2017), Algorithm 4, see `herd`. The features are those of the first network:
    by default one trained for `pool_epochs` epochs on the real images with the hashing loss.
    """

    summary = "real images of every class whose mean features are nearest to the class's"

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        return {**super().defaults(ipc), "network_pool": "pretrained"}

    def chosen(self, real: RealImages, networks: Networks) -> Tensor:
        network = networks.load(0)[0]
        parts = []
        for rows in real.rows:  # the features of one class at a time are in memory
            with torch.no_grad():
                chunks = [network.features(real.unit(some)) for some in rows.split(_CHUNK)]
            parts.append(rows[herd(torch.cat(chunks), self.config.ipc)])
        return torch.cat(parts)


def herd(features: Tensor, count: int) -> Tensor:
    """Rows int64 [count] on the CPU, in the order in which herding picks them.

    Features are divided by their norm; each pick is the row, of those not yet picked, with which
    the mean of the picks is nearest to the mean of all rows. Of equally near ones it is the first.

    features: floating point [n, F], a row of zeros staying zero. Raises ValueError for count > n.
    """
    if count > len(features):
        raise ValueError(f"{count} rows are asked for and there are {len(features)}")
    features = F.normalize(features.double())
    mean, squares = features.mean(0), features.square().sum(1)
    total = torch.zeros_like(mean)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    picks = torch.empty(count, dtype=torch.int64, device=features.device)
    for k in range(count):
        # ||mean - (total + x) / (k + 1)||^2 without what is the same for all x, times (k + 1)^2
        distances = squares - 2 * (features @ ((k + 1) * mean - total))
        picks[k] = pick = distances.where(free, torch.inf).argmin()
        total += features[pick]
        free[pick] = False
    return picks.cpu()
