"""ConvNet-3, the small network of the condensation papers."""

import torch
from torch import Tensor, nn


class ConvStage(nn.Sequential):
    """conv3x3 -> instance norm (GroupNorm with one channel a group) -> ReLU -> AvgPool2."""

    def __init__(self, in_channels: int, width: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=padding)
        self.norm = nn.GroupNorm(width, width)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(2)


class ConvNet(nn.Module):
    """ConvNet of `depth` equal stages, flattened: images [n, C, S, S] -> features [n, F].

    F = width * (P // 2**depth)**2, where P = S + 4 for one-channel images, else S. The first
    convolution pads 3 instead of 1 for one-channel images, so that 28x28 becomes 32x32.

    Agrees with `ConvNet(net_norm="instance")` without its classifier in
    VICO-UoE/DatasetCondensation (networks.py) and snu-mllab/Efficient-Dataset-Condensation
    (models/convnet.py).

    Raises ValueError for a width that is no number of channels and for images too small for
    `depth` stages; `forward` raises it for images of another size, because F depends on the size.
    """

    def __init__(
        self, in_channels: int = 3, image_size: int = 32, width: float = 128, depth: int = 3
    ) -> None:
        super().__init__()
        if width < 1 or width != int(width):
            raise ValueError(f"ConvNet got width {width}, expected a number of channels, e.g. 128")
        width = int(width)
        first_padding = 3 if in_channels == 1 else 1
        padded_size = image_size + 2 * (first_padding - 1)
        if padded_size < 2**depth:
            smallest = 2**depth - 2 * (first_padding - 1)
            raise ValueError(
                f"ConvNet of depth {depth} got image_size {image_size}; every stage halves the "
                f"image, so the smallest size is {smallest}: resize the images or lower the depth"
            )
        self.input_shape = (in_channels, image_size, image_size)
        self.num_features = width * (padded_size // 2**depth) ** 2
        self.stages = nn.ModuleList(
            ConvStage(in_channels, width, first_padding)
            if stage == 0
            else ConvStage(width, width, padding=1)
            for stage in range(depth)
        )

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Output of every stage after its pooling: `depth` maps [n, width, S_i, S_i]."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"ConvNet got images {list(images.shape)}, expected [n, C, H, W] with C, H, W = "
                f"{self.input_shape}: resize the images or build the network with their size"
            )
        return torch.flatten(self.forward_stages(images)[-1], start_dim=1)
