"""Backbones by name: images [n, C, S, S] -> features [n, F]."""

import difflib
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hashfast.hashing.convnet import ConvNet
from hashfast.hashing.resnet_ap import ResNetAP10


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
    "pixels": Pixels,
}
_SCALABLE = ("convnet3", "resnetap10")
PRETRAINED = "pretrained"

# They classify by a convolution, or return auxiliary logits beside the features.
_UNSUPPORTED = ("squeezenet", "googlenet", "inception")


class LibraryBackbone(nn.Module):
    """A torchvision or timm network without its classifier; grey images are repeated to RGB."""

    def __init__(self, network: nn.Module, in_channels: int, num_features: int) -> None:
        super().__init__()
        self.network = network
        self.in_channels = in_channels
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"the backbone got images {list(images.shape)}, expected [n, {self.in_channels}, "
                "H, W]: build it with the in_channels of your images"
            )
        return self.network(images.expand(-1, 3, -1, -1))


def list_backbones() -> list[str]:
    """Names for `build_backbone`: our own networks, then torchvision's.

    Every timm network is available too, as `timm/NAME` (timm.list_models() has the names).
    """
    return [*OWN_BACKBONES, *_torchvision_names()]


def build_backbone(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    width: float | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network from images [n, in_channels, S, S] to features [n, F], F = .num_features.

    `name` is `convnet3`, `resnetap10`, `pixels` (no network: the flattened image), a torchvision
    classification network, or `timm/NAME`. The last linear layer of a library network is removed
    and the rest kept, as hashing papers do: alexnet and vgg keep fc6 and fc7 (F = 4096). Library
    networks take 3 channels, or 1, which is repeated. Networks with position embeddings are built
    for `image_size`.

    `width`: channels of convnet3 (default 128), multiplier of resnetap10 (default 1.0).
    `weights`: None starts at random; a path reads a .safetensors, .pth, .pt or .bin file of
    tensors (for a library network, with the library's own keys); "pretrained" takes the
    library's default weights from its local cache. Nothing is downloaded and no code in a
    weights file is run.

    Raises ValueError for an unknown name, a size, width or channel count the network cannot
    take, or weights that do not fit; FileNotFoundError when weights are not on this machine;
    ImportError when timm is missing.
    """
    known = name in OWN_BACKBONES or name.startswith("timm/") or name in _torchvision_names()
    if known and width is not None and name not in _SCALABLE:
        raise ValueError(
            f"{name} has a fixed width, got width={width}: leave it out, or use "
            f"{' or '.join(_SCALABLE)}"
        )
    if name in OWN_BACKBONES:
        return _build_own(name, in_channels, image_size, width, weights)
    if in_channels not in (1, 3):
        raise ValueError(
            f"{name} takes images of 3 channels, or 1 (repeated), got {in_channels}: use "
            f"{' or '.join(_SCALABLE)}"
        )
    build = _build_timm if name.startswith("timm/") else _build_torchvision
    network = build(name, image_size, weights)
    return LibraryBackbone(network, in_channels, _probe_num_features(network, name, image_size))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or a .pth, .pt or .bin file of tensors only.

    A checkpoint that keeps the state dict under "state_dict" or "model" is unwrapped.
    Raises FileNotFoundError, and ValueError for any other content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}: nothing is downloaded, check the path")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable .safetensors file: {error}") from error
    if path.suffix not in (".pth", ".pt", ".bin"):
        raise ValueError(f"{path} is not a .safetensors, .pth, .pt or .bin file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged or holds more than tensors, which would mean running its code: "
            "save the state_dict alone, best as .safetensors"
        ) from error
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model") if key in state), state)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors: save network.state_dict()")
    return dict(state)


def _build_own(
    name: str, in_channels: int, image_size: int, width: float | None, weights: str | Path | None
) -> nn.Module:
    arguments: dict[str, Any] = {} if width is None else {"width": width}
    network = OWN_BACKBONES[name](in_channels=in_channels, image_size=image_size, **arguments)
    if weights == PRETRAINED:
        raise ValueError(f"{name} has no published weights: train it, or pass weights=PATH")
    if weights is not None:
        _load_into(network, read_weights(weights), name, weights)
    return network


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [name for name in models.list_models(models) if not name.startswith(_UNSUPPORTED)]


def _build_torchvision(name: str, image_size: int, weights: str | Path | None) -> nn.Module:
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    if name.startswith(_UNSUPPORTED):
        raise ValueError(f"torchvision's {name} has no plain classifier to remove: use another")
    if name not in _torchvision_names():
        raise _unknown(name, list_backbones())
    is_vit = name.startswith("vit_")
    try:
        network: Any = models.get_model(name, **({"image_size": image_size} if is_vit else {}))
    except AssertionError as error:
        raise _size_error(name, image_size, reason=error) from error
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    classifier = linear[-1]
    network.set_submodule(classifier, nn.Identity())
    if weights is None:
        return network

    path = _cached_torchvision_file(name) if weights == PRETRAINED else weights
    state = read_weights(path)
    if name.startswith("densenet"):
        # The published files are older than the module names norm1, conv1, ... (then norm.1).
        old_name = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
        state = {old_name.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    if is_vit and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(image_size, network.patch_size, state)
    state = {key: t for key, t in state.items() if not key.startswith(classifier + ".")}
    _load_into(network, state, name, path)
    return network


def _cached_torchvision_file(name: str) -> Path:
    from torchvision import models

    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if not path.is_file():
        raise FileNotFoundError(
            f"no local weights for {name}: looked for {path}. Nothing is downloaded: put {url} "
            "there, pass weights=PATH, or start at random with weights=None"
        )
    return path


def _build_timm(name: str, image_size: int, weights: str | Path | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'{name} needs timm: pip install "hashfast[train]"') from error

    model = name.removeprefix("timm/")
    if not timm.is_model(model):
        raise _unknown(name, [f"timm/{known}" for known in timm.list_models()])
    config: Any = timm.get_pretrained_cfg(model)
    arguments: dict[str, Any] = {"img_size": image_size} if config.fixed_input_size else {}
    if weights is not None:
        path = _cached_timm_file(name, config) if weights == PRETRAINED else weights
        # timm then converts old keys and position embeddings, but reads no file by itself.
        arguments |= {
            "pretrained": True,
            "pretrained_cfg_overlay": {"state_dict": read_weights(path)},
        }
    try:
        network: Any = timm.create_model(model, **arguments)
    except (AssertionError, ValueError) as error:
        raise _size_error(name, image_size, reason=error) from error
    except (KeyError, RuntimeError) as error:
        if weights is None:
            raise
        raise _misfit(name, path, error) from error
    # Removed after loading: timm loads strictly only while the classifier is there.
    network.reset_classifier(0)
    network.pretrained_cfg.pop("state_dict", None)
    return network


def _cached_timm_file(name: str, config: Any) -> Path:
    from huggingface_hub import try_to_load_from_cache

    files = [config.hf_hub_filename] if config.hf_hub_filename else []
    files += ["model.safetensors", "pytorch_model.bin"]
    for file in files if config.hf_hub_id else []:
        found = try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return Path(found)
    raise FileNotFoundError(
        f"no local weights for {name}: looked for {config.hf_hub_id} ({' or '.join(files)}) in "
        "the Hugging Face cache. Nothing is downloaded: pass weights=PATH, or start at random "
        "with weights=None"
    )


def _probe_num_features(network: nn.Module, name: str, image_size: int) -> int:
    """F of the library network; ValueError when it cannot take images of this size."""
    try:
        shape = _feature_shape(network, image_size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _size_error(
            name, image_size, reason=error, smallest=_smallest_size(network, image_size)
        ) from error
    if len(shape) != 2:
        raise ValueError(f"{name} gives {list(shape)} outputs, expected [n, F]: use another")
    return shape[1]


def _feature_shape(network: nn.Module, image_size: int) -> torch.Size:
    # Meta tensors: only shapes are computed, and batch statistics of the network stay untouched.
    tensors = [*network.named_parameters(), *network.named_buffers()]
    meta = {key: tensor.to("meta") for key, tensor in tensors}
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    with torch.no_grad():
        return torch.func.functional_call(network, meta, (images,)).shape


def _smallest_size(network: nn.Module, too_small: int, enough: int = 224) -> int | None:
    def fits(image_size: int) -> bool:
        try:
            _feature_shape(network, image_size)
        except (AssertionError, RuntimeError, ValueError):
            return False
        return True

    if too_small >= enough or not fits(enough):
        return None
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if fits(middle) else (middle, enough)
    return enough


def _size_error(
    name: str, image_size: int, *, reason: Exception, smallest: int | None = None
) -> ValueError:
    detail = f"the smallest it takes is {smallest}x{smallest}" if smallest else str(reason)
    return ValueError(
        f"{name} cannot take {image_size}x{image_size} images ({detail}): resize the images or "
        "use convnet3"
    )


def _load_into(network: nn.Module, state: dict[str, Tensor], name: str, path: str | Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(name, path, error) from error


def _misfit(name: str, path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"the weights in {path} do not fit {name}: {error}")


def _unknown(name: str, known: Iterable[str]) -> ValueError:
    close = difflib.get_close_matches(name, known) or list(OWN_BACKBONES)
    return ValueError(
        f"unknown backbone {name!r}; close names: {', '.join(close)}. list_backbones() names "
        "all, timm networks are timm/NAME"
    )
