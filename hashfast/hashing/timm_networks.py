"""timm's networks without their classifiers, as `timm/NAME`."""

from pathlib import Path
from typing import Any

from torch import nn

from hashfast.hashing.library_backbone import size_error
from hashfast.hashing.weights import PRETRAINED, hub_file, misfit, read_weights

PREFIX = "timm/"


def names() -> list[str]:
    return [PREFIX + name for name in _timm(f"{PREFIX}NAME").list_models()]


def is_known(name: str) -> bool:
    """Whether timm has the network; a tag of its weights may follow, as in timm/resnet50.a1_in1k.

    Raises ImportError when timm is missing.
    """
    return _timm(name).is_model(name.removeprefix(PREFIX))


def build(name: str, image_size: int, weights: str | Path | None) -> nn.Module:
    """The network up to its features, for RGB images of `image_size`."""
    timm = _timm(name)
    config = _config(name)
    arguments: dict[str, Any] = {"img_size": image_size} if config.fixed_input_size else {}
    if weights is not None:
        path = _cached_file(name, config) if weights == PRETRAINED else weights
        # timm then converts old keys and position embeddings, but reads no file by itself.
        arguments |= {
            "pretrained": True,
            "pretrained_cfg_overlay": {"state_dict": read_weights(path)},
        }
    try:
        network: Any = timm.create_model(name.removeprefix(PREFIX), **arguments)
    except (AssertionError, ValueError) as error:
        raise size_error(name, image_size, reason=error) from error
    except (KeyError, RuntimeError) as error:
        if weights is None:
            raise
        raise misfit(name, path, error) from error
    # Removed after loading: timm loads strictly only while the classifier is there.
    network.reset_classifier(0)
    network.pretrained_cfg.pop("state_dict", None)
    return network


def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, one a channel, that the published weights were trained with."""
    config = _config(name)
    return tuple(config.mean), tuple(config.std)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'{name} needs timm: pip install "hashfast[train]"') from error
    return timm


def _config(name: str) -> Any:
    return _timm(name).get_pretrained_cfg(name.removeprefix(PREFIX))


def _cached_file(name: str, config: Any) -> Path:
    from huggingface_hub import try_to_load_from_cache

    looked_for = []
    if config.hf_hub_id:
        files = [config.hf_hub_filename] if config.hf_hub_filename else []
        files += ["model.safetensors", "pytorch_model.bin"]
        for file in files:
            found = try_to_load_from_cache(config.hf_hub_id, file)
            if isinstance(found, str):
                return Path(found)
        looked_for.append(f"{config.hf_hub_id} ({' or '.join(files)}) in the Hugging Face cache")
    if config.url:
        path = hub_file(config.url)
        if path.is_file():
            return path
        looked_for.append(str(path))
    where = f"looked for {' and '.join(looked_for)}" if looked_for else "timm publishes none"
    raise FileNotFoundError(
        f"no local weights for {name}: {where}. Nothing is downloaded: pass weights=PATH "
        "(--weights), or start at random with weights=None"
    )
