"""What the learnt images are before the first step."""

import torch
from torch import Tensor

from hashfast.condense.config import CondenseConfig
from hashfast.condense.real import RealImages
from hashfast.data.formation import assemble
from hashfast.hashing.loading import seed_of


def first_images(config: CondenseConfig, real: RealImages) -> Tensor:
    """Images float32 [classes * ipc, C, H, W] in [0, 1], sorted by class.

    Real images, factor^2 of them in each, or noise. A class with fewer gives some several times.
    """
    generator = torch.Generator().manual_seed(seed_of(config.seed, "first images"))
    shape = (len(real.rows) * config.ipc, *real.images.shape[1:])
    if config.init == "noise":
        return torch.rand(shape, generator=generator).to(real.images.device)
    assert config.factor is not None
    need = config.ipc * config.factor**2
    chosen = []
    for rows in real.rows:
        mixed = rows[torch.randperm(len(rows), generator=generator)]
        chosen.append(mixed.repeat(-(-need // len(rows)))[:need])
    images = real.images[torch.cat(chosen)].float() / 255
    return assemble(images, config.factor, num_classes=len(real.rows))
