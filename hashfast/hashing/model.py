"""The hash model: pictures in, binary codes out, in one folder on disk."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from hashfast._files import atomic_write, read_json
from hashfast.hashing.backbones import backbone_statistics, build_backbone
from hashfast.hashing.heads import build_head
from hashfast.hashing.weights import read_weights
from hashfast.ops import pack

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
FORMAT = 1


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to build a model: all of it is stored in config.json.

    backbone, width: as `build_backbone` takes them; head: as `build_head` takes it.
    image_shape: (C, H, W) of its input, H = W. mean, std: one value a channel, of images scaled to
    [0, 1]; left empty they become those of the backbone (`backbone_statistics`). Raises ValueError
    when these do not fit together.
    """

    backbone: str
    bits: int
    head: str = "linear"
    image_shape: tuple[int, int, int] = (3, 224, 224)
    width: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        channels, height, width = self.image_shape
        if height != width:
            raise ValueError(f"images are {height}x{width}; models take square ones")
        if not (self.mean and self.std):
            mean, std = backbone_statistics(self.backbone, channels)
            object.__setattr__(self, "mean", self.mean or mean)
            object.__setattr__(self, "std", self.std or std)
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must have a value for each of the "
                f"{channels} channels"
            )


class HashModel(nn.Module):
    """Backbone and hash head with the normalisation of their input.

    `model(images)` takes uint8 images [n, C, H, W] (or float in [0, 1]) and returns outputs
    [n, bits] before sign; `model.encode(...)` returns packed codes. weights: as `build_backbone`
    takes them. `training_info` is kept in config.json and the card: any JSON-ready facts.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, *, weights: str | Path | None = None) -> None:
        super().__init__()
        self.config = config
        channels, size, _ = config.image_shape
        self.backbone = build_backbone(
            config.backbone,
            in_channels=channels,
            image_size=size,
            width=config.width,
            weights=weights,
        )
        features: Any = self.backbone.num_features
        self.head = build_head(config.head, features, config.bits)
        for name, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.training_info: dict[str, Any] = {}

    @property
    def bits(self) -> int:
        return self.config.bits

    def features(self, images: Tensor) -> Tensor:
        """Backbone features [n, F] of images uint8, or float in [0, 1], [n, C, H, W]."""
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images are {images.dtype}; expected uint8, or float in [0, 1]")
        if tuple(images.shape[1:]) != tuple(self.config.image_shape):
            raise ValueError(
                f"images have shape {list(images.shape)}; this model takes [n, "
                f"{', '.join(map(str, self.config.image_shape))}]: load them in that size"
            )
        scale = 255 if images.dtype == torch.uint8 else 1
        images = images.to(self.mean.dtype) / scale
        return self.backbone((images - self.mean) / self.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def encode(self, pictures: Any, batch_size: int = 256) -> Tensor:
        """Packed codes uint8 [n, ceil(bits / 8)] of pictures, on the CPU.

        pictures: a path, PIL image, array or tensor as `hashfast.data.to_image` takes them, or a
        list of them, or a tensor [n, C, H, W] or array [n, H, W, C]. A picture is resized to cover
        the model's square and cropped at the centre. The batch size changes nothing but speed.
        Raises UnreadableImage naming a picture that cannot be decoded, and ValueError naming the
        picture whose outputs are not finite.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if _is_single(pictures):
            pictures = [pictures]
        codes = [
            self._encode_batch(pictures[start : start + batch_size], start)
            for start in range(0, len(pictures), batch_size)
        ]
        return torch.cat(codes) if codes else pack(torch.empty(0, self.bits))

    def _encode_batch(self, pictures: Sequence[Any] | Tensor, start: int) -> Tensor:
        from hashfast.data import to_image

        channels, size, _ = self.config.image_shape
        images = torch.stack([to_image(picture, size, channels) for picture in pictures])
        with inference(self):
            outputs = self(images.to(self.mean.device))
        row = first_not_finite(outputs)
        if row is not None:
            path = pictures[row]
            named = f" ({path})" if isinstance(path, str | os.PathLike) else ""
            raise not_finite_error(f"picture {start + row}{named}")
        return pack(outputs).cpu()

    def replace_head(self, kind: str) -> None:
        """Put a fresh head of that kind (see `build_head`) behind the same backbone."""
        features: Any = self.backbone.num_features
        self.head = build_head(kind, features, self.bits).to(self.mean)
        self.config = replace(self.config, head=kind)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the configuration or any weight.

        Codes carry the fingerprint of the model that made them: Hamming distances between codes of
        different models mean nothing.
        """
        return weights_digest(asdict(self.config), self.state_dict())

    def code_spaces(self) -> tuple[str, ...]:
        """Fingerprints of the models whose codes this one's can be compared with: its own, and
        that of the teacher whose codes it was trained to give."""
        teacher = self.training_info.get("teacher", {})
        taught = (teacher["fingerprint"],) if teacher.get("aligned") else ()
        return self.fingerprint(), *taught

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write model.safetensors, config.json and a card (README.md) into `folder`.

        The files of a model that was there are replaced together, once all are written.
        """
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        fingerprint = self.fingerprint()
        config = {
            "format": FORMAT,
            "model": asdict(self.config),
            "fingerprint": fingerprint,
            "training": self.training_info,
        }
        contents = {
            CARD_FILE: self._card(folder.resolve().name, fingerprint).encode(),
            CONFIG_FILE: json.dumps(config, indent=2).encode() + b"\n",
            WEIGHTS_FILE: save(state),
        }
        with ExitStack() as stack:
            for name, content in contents.items():
                file = stack.enter_context(atomic_write(folder / name))
                file.write(content)
                file.flush()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, device: str = "cpu") -> Self:
        """Read what `save_pretrained` wrote; nothing is unpickled and nothing is downloaded.

        Raises FileNotFoundError naming what is missing, and ValueError for files that are damaged,
        do not fit each other, or come from a later version.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"no model in {folder}: it has no {name}; expected a folder written by "
                    "`hashfast train` or HashModel.save_pretrained"
                )
        stored = read_json(folder / CONFIG_FILE)
        found = stored.get("format") if isinstance(stored, dict) else None
        if found != FORMAT:
            raise ValueError(
                f"{folder / CONFIG_FILE} has format {found!r}; this version of hashfast reads "
                f"format {FORMAT}: the file is not a hashfast model's, or a later version wrote it"
            )
        try:
            model = cls(_model_config(stored["model"]))
            fingerprint, training_info = stored["fingerprint"], stored["training"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / CONFIG_FILE} does not describe a model: {type(error).__name__}: {error}"
            ) from error
        model._load_weights(folder / WEIGHTS_FILE, fingerprint)
        model.training_info = training_info
        return model.to(device).eval()

    def _load_weights(self, path: Path, fingerprint: str) -> None:
        state = read_weights(path)
        try:
            self.to(next((v.dtype for v in state.values() if v.is_floating_point()), None))
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not fit the model in {CONFIG_FILE} beside it: {error}"
            ) from error
        if self.fingerprint() != fingerprint:
            raise ValueError(
                f"{path} and {CONFIG_FILE} beside it are not of the same model: their fingerprints "
                f"are {self.fingerprint()} and {fingerprint}; copy or save both again"
            )

    def _card(self, name: str, fingerprint: str) -> str:
        facts = {
            "backbone": self.config.backbone,
            "bits": self.bits,
            "input": "x".join(map(str, self.config.image_shape)),
            "fingerprint": fingerprint,
            **{key: value for key, value in self.training_info.items() if not _nested(value)},
        }
        rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
        return (
            f"# {name}\n\nA hashfast model: pictures to {self.bits}-bit codes.\n\n"
            f"| | |\n|---|---|\n{rows}\n\n"
            "```python\nimport hashfast\n"
            f'model = hashfast.HashModel.from_pretrained("{name}")\n'
            'codes = model.encode(["a.jpg", "b.png"])\n```\n'
        )


def weights_digest(settings: dict[str, Any], state: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that change with the settings or any weight."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode comes back, also on an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def first_not_finite(outputs: Tensor) -> int | None:
    """The first row [bits] of outputs that holds NaN or infinity."""
    bad = (~outputs.isfinite()).any(1).nonzero()
    return int(bad[0]) if len(bad) else None


def not_finite_error(item: str) -> ValueError:
    return ValueError(
        f"{item}: the model's outputs are not finite; check its weights, or the picture if it is "
        "only this one"
    )


def _is_single(pictures: Any) -> bool:
    if isinstance(pictures, Tensor | np.ndarray):
        return pictures.ndim != 4
    return isinstance(pictures, str | os.PathLike) or not isinstance(pictures, Sequence)


def _model_config(values: dict[str, Any]) -> ModelConfig:
    """The configuration stored in config.json, where tuples are lists."""
    known = sorted(field.name for field in fields(ModelConfig))
    if sorted(values) != known:
        raise ValueError(f"it has {sorted(values)}, expected {known}")
    tuples: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return ModelConfig(**tuples)


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)
