"""ResNetAP-10: a ResNet that downsamples by average pooling instead of strides."""

import torch
from torch import Tensor, nn

# Below it the last block sees one pixel per channel, and instance norm of one pixel is constant.
SMALLEST_IMAGE = 16


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)


def _instance_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels, channels)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions; `downsample` halves the map by AvgPool2.

    The pooling follows norm and ReLU of the first convolution; the shortcut is then
    conv1x1 -> AvgPool2 -> norm.
    """

    def __init__(self, in_channels: int, out_channels: int, downsample: bool) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3)
        self.norm1 = _instance_norm(out_channels)
        self.pool = nn.AvgPool2d(2) if downsample else nn.Identity()
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.norm2 = _instance_norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if downsample:
            self.shortcut = nn.Sequential(
                _conv(in_channels, out_channels, 1),
                nn.AvgPool2d(2),
                _instance_norm(out_channels),
            )

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.pool(torch.relu(self.norm1(self.conv1(maps))))
        residual = self.norm2(self.conv2(residual))
        return torch.relu(residual + self.shortcut(maps))


def _stem(in_channels: int, width: int, image_size: int) -> nn.Sequential:
    kernel_size, pool = (3, 1) if image_size <= 64 else (3, 2) if image_size <= 128 else (7, 4)
    return nn.Sequential(
        _conv(in_channels, width, kernel_size),
        _instance_norm(width),
        nn.ReLU(),
        nn.AvgPool2d(pool) if pool > 1 else nn.Identity(),
    )


class ResNetAP10(nn.Module):
    """ResNetAP-10, globally pooled: images [n, C, H, W] -> features [n, 512 * width].

    The stem follows `image_size`: above 128 conv7x7 and AvgPool4; 65 to 128 conv3x3 and
    AvgPool2; up to 64 conv3x3. Then one BasicBlock each of 64, 128, 256 and 512 channels times
    the multiplier `width`. Norms are GroupNorm(C, C); convolutions have no bias and start from
    N(0, sqrt(2 / (k^2 out_channels))).

    Agrees with `ResNetAP("imagenet", 10, norm_type="instance")` without its classifier in
    snu-mllab/Efficient-Dataset-Condensation (models/resnet_ap.py).

    Raises ValueError for an image_size below 16.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 128, width: float = 1.0) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise ValueError(
                f"ResNetAP-10 got image_size {image_size}, the smallest is {SMALLEST_IMAGE}: "
                "resize the images or use convnet3"
            )
        base = int(64 * width)
        if base < 1:
            raise ValueError(f"ResNetAP-10 got width {width}, expected a multiplier >= 1/64")
        self.stem = _stem(in_channels, base, image_size)
        self.blocks = nn.ModuleList(
            [
                BasicBlock(base, base, downsample=False),
                BasicBlock(base, 2 * base, downsample=True),
                BasicBlock(2 * base, 4 * base, downsample=True),
                BasicBlock(4 * base, 8 * base, downsample=True),
            ]
        )
        self.num_features = 8 * base
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Output of the stem and of each of the four blocks: 5 maps [n, C_i, H_i, W_i]."""
        maps = [self.stem(images)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_stages(images)[-1].mean(dim=(2, 3))
