"""Weights of backbones: files of tensors, nothing else."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

PRETRAINED = "pretrained"


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


def hub_file(url: str) -> Path:
    """Where torch.hub keeps what it downloads from `url`."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def load_into(network: nn.Module, state: dict[str, Tensor], name: str, path: str | Path) -> None:
    """Load every tensor of `state`, read from `path`, into the network called `name`.

    Raises ValueError naming both where names or shapes differ.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise misfit(name, path, error) from error


def misfit(name: str, path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"the weights in {path} do not fit {name}: {error}")
