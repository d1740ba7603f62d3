"""torchvision's classification networks without their classifiers."""

import re
from pathlib import Path
from typing import Any

from torch import nn

from hashfast.hashing.library_backbone import size_error
from hashfast.hashing.weights import PRETRAINED, hub_file, load_into, read_weights

# They classify by a convolution, or return auxiliary logits beside the features.
UNSUPPORTED = ("squeezenet", "googlenet", "inception")


def names() -> list[str]:
    from torchvision import models

    return [name for name in models.list_models(models) if not name.startswith(UNSUPPORTED)]


def build(name: str, image_size: int, weights: str | Path | None) -> nn.Module:
    """The network `name` up to its last linear layer, for RGB images of `image_size`."""
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    is_vit = name.startswith("vit_")
    try:
        network: Any = models.get_model(name, **({"image_size": image_size} if is_vit else {}))
    except AssertionError as error:
        raise size_error(name, image_size, reason=error) from error
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    classifier = linear[-1]
    network.set_submodule(classifier, nn.Identity())
    if weights is None:
        return network

    path = _cached_file(name) if weights == PRETRAINED else weights
    state = read_weights(path)
    if name.startswith("densenet"):
        # The published files are older than the module names norm1, conv1, ... (then norm.1).
        old_name = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
        state = {old_name.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    if is_vit and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(image_size, network.patch_size, state)
    state = {key: t for key, t in state.items() if not key.startswith(classifier + ".")}
    load_into(network, state, name, path)
    return network


def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, one a channel, that the default weights were trained with."""
    transforms: Any = _default_weights(name).transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def _default_weights(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _cached_file(name: str) -> Path:
    url = _default_weights(name).url
    path = hub_file(url)
    if not path.is_file():
        raise FileNotFoundError(
            f"no local weights for {name}: looked for {path}. Nothing is downloaded: put {url} "
            "there, pass weights=PATH (--weights), or start at random with weights=None"
        )
    return path
