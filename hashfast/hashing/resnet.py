"""Residual networks of ten layers with instance norm, as dataset condensation uses them."""

from typing import ClassVar

import torch
from torch import Tensor, nn

# Below it the last block sees one pixel per channel, and instance norm of one pixel is constant.
SMALLEST_IMAGE = 16


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


def _instance_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels, channels)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions; `stride` or `pool` of 2 halves the map.

    `stride` is that of the first convolution and of the 1x1 convolution of the shortcut; `pool`
    is an average pooling after norm and ReLU of the first convolution, and between the 1x1
    convolution and the norm of the shortcut.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, pool: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.norm1 = _instance_norm(out_channels)
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.norm2 = _instance_norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride),
                *([nn.AvgPool2d(pool)] if pool > 1 else []),
                _instance_norm(out_channels),
            )

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.pool(torch.relu(self.norm1(self.conv1(maps))))
        residual = self.norm2(self.conv2(residual))
        return torch.relu(residual + self.shortcut(maps))


class _ResNet10(nn.Module):
    name: ClassVar[str]
    halving: ClassVar[dict[str, int]]  # of the blocks that halve the map

    def __init__(self, in_channels: int = 3, image_size: int = 128, width: float = 1.0) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise ValueError(
                f"{self.name} got image_size {image_size}, the smallest is {SMALLEST_IMAGE}: "
                "resize the images or use convnet3"
            )
        base = int(64 * width)
        if base < 1:
            raise ValueError(f"{self.name} got width {width}, expected a multiplier >= 1/64")
        self.stem = self._stem(in_channels, base, image_size)
        self.blocks = nn.ModuleList(
            [
                BasicBlock(base, base),
                BasicBlock(base, 2 * base, **self.halving),
                BasicBlock(2 * base, 4 * base, **self.halving),
                BasicBlock(4 * base, 8 * base, **self.halving),
            ]
        )
        self.num_features = 8 * base
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stem(in_channels: int, width: int, image_size: int) -> nn.Sequential:
        raise NotImplementedError

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Output of the stem and of each of the four blocks: 5 maps [n, C_i, H_i, W_i]."""
        maps = [self.stem(images)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_stages(images)[-1].mean(dim=(2, 3))


class ResNetAP10(_ResNet10):
    """ResNetAP-10, globally pooled: images [n, C, H, W] -> features [n, 512 * width].

    It halves its maps by average pooling. The stem follows `image_size`: above 128 conv7x7 and
    AvgPool4; 65 to 128 conv3x3 and AvgPool2; up to 64 conv3x3. Then one BasicBlock each of 64,
    128, 256 and 512 channels times the multiplier `width`. Norms are GroupNorm(C, C); convolutions
    have no bias and start from N(0, sqrt(2 / (k^2 out_channels))).

    Agrees with `ResNetAP("imagenet", 10, norm_type="instance")` without its classifier in
    snu-mllab/Efficient-Dataset-Condensation (models/resnet_ap.py).

    Raises ValueError for an image_size below 16.
    """

    name = "ResNetAP-10"
    halving: ClassVar[dict[str, int]] = {"pool": 2}

    @staticmethod
    def _stem(in_channels: int, width: int, image_size: int) -> nn.Sequential:
        kernel_size, pool = (3, 1) if image_size <= 64 else (3, 2) if image_size <= 128 else (7, 4)
        return nn.Sequential(
            _conv(in_channels, width, kernel_size),
            _instance_norm(width),
            nn.ReLU(),
            nn.AvgPool2d(pool) if pool > 1 else nn.Identity(),
        )


class ResNet10(_ResNet10):
    """ResNet-10, globally pooled: images [n, C, H, W] -> features [n, 512 * width].

    It halves its maps by convolutions of stride 2. The stem follows `image_size`: above 128 conv7x7
    of stride 2 and MaxPool3 of stride 2; 65 to 128 conv3x3 and that pooling; up to 64 conv3x3.
    All else is as in ResNetAP10.

    Agrees with `ResNet("imagenet", 10, norm_type="instance", size=image_size)` without its
    classifier in snu-mllab/Efficient-Dataset-Condensation (models/resnet.py); its network for
    CIFAR has half the channels, `width=0.5`.

    Raises ValueError for an image_size below 16.
    """

    name = "ResNet-10"
    halving: ClassVar[dict[str, int]] = {"stride": 2}

    @staticmethod
    def _stem(in_channels: int, width: int, image_size: int) -> nn.Sequential:
        large = image_size > 128
        return nn.Sequential(
            _conv(in_channels, width, 7 if large else 3, 2 if large else 1),
            _instance_norm(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1) if image_size > 64 else nn.Identity(),
        )
