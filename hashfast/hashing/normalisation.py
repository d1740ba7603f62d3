"""How a protocol's images are normalised: arrays as the training set is, condensed or not."""

import torch
from torch import Tensor

from hashfast.data import ArrayDataset, Splits
from hashfast.hashing.backbones import backbone_statistics
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.model import ModelConfig


def model_config(config: TrainConfig, splits: Splits, head: str) -> ModelConfig:
    """Settings of the model for a protocol's images."""
    if config.weights is None and {"mean", "std"} <= splits.recipe.keys():  # of a condensed set
        mean, std = (tuple(splits.recipe[key]) for key in ("mean", "std"))
    elif config.weights is None and isinstance(splits.train, ArrayDataset):
        mean, std = channel_statistics(splits.train.images)
    else:
        mean, std = backbone_statistics(config.backbone, splits.image_shape[0])
    return ModelConfig(
        backbone=config.backbone,
        bits=config.bits,
        head=head,
        image_shape=splits.image_shape,
        width=config.width,
        mean=mean,
        std=std,
    )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [n, C, H, W], as of [0, 1].

    A channel that varies by less than one grey level has standard deviation 1: dividing by its own
    would blow up the few pixels, or the later images, that differ.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        # By counting, which is exact and needs no float copy of the training set.
        counts = channel.flatten().bincount(minlength=256)
        shares = counts.cpu().double() / channel.numel()
        mean = float(shares @ levels)
        std = float(shares @ (levels - mean).square()) ** 0.5
        means.append(round(mean, 6))
        stds.append(round(std, 6) if std > 1 / 255 else 1.0)
    return tuple(means), tuple(stds)
