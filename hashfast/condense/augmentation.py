"""The augmentation that images are compared under."""

import torch
from torch import Tensor

from hashfast.augment.siamese import Mode, SiameseAugmentation
from hashfast.condense.config import CondenseConfig

# Name -> its strategy, and how many parts of it an image gets.
AUGMENTATIONS: dict[str, tuple[str, Mode]] = {
    "none": ("none", "one"),
    "dsa": ("color_crop_cutout_flip_scale_rotate", "one"),
    "idc": ("color_crop_cutout", "all"),
}


class Augmentation:
    """The augmentation of `config`, of images on the scale [0, 1].

    mean, std [C, 1, 1] are those of the network's normalisation: images are augmented normalised,
    so that the holes and borders, which are 0, have the colour of the mean.
    """

    def __init__(self, config: CondenseConfig, mean: Tensor, std: Tensor) -> None:
        assert config.augment is not None
        strategy, mode = AUGMENTATIONS[config.augment]
        self.siamese = SiameseAugmentation(config.strategy or strategy, mode)
        self.mean, self.std = mean, std
        self._zero = -mean / std  # black, normalised

    def draw(self, num_groups: int, generator: torch.Generator) -> Tensor:
        """Random numbers for the images of each group."""
        return self.siamese.draw(num_groups, generator)

    def __call__(self, images: Tensor, groups: Tensor | None, draws: Tensor) -> Tensor:
        """Augmented images; groups [n]: the row of `draws` of each, None: one row an image."""
        normalised = torch.addcmul(self._zero, images, 1 / self.std)
        return torch.addcmul(self.mean, self.siamese(normalised, groups, draws), self.std)
