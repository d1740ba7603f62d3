"""The hash model: pictures in, binary codes out, in one folder on disk."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hashfast._files import atomic_write, read_json, write_json, write_text
from hashfast.hashing.backbones import build_backbone, read_weights
from hashfast.hashing.heads import build_head
from hashfast.ops import pack

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
FORMAT = 1


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to build a model: all of it is stored in config.json.

    backbone, width: as `build_backbone` takes them; head: as `build_head` takes it.
    image_shape: (C, H, W) of its input, H = W. mean, std: one value a channel, of images scaled to
    [0, 1]. Raises ValueError when these do not fit together.
    """

    backbone: str
    bits: int
    head: str = "linear"
    image_shape: tuple[int, int, int] = (3, 224, 224)
    width: float | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        channels, height, width = self.image_shape
        if height != width:
            raise ValueError(f"images are {height}x{width}; models take square ones")
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
        self.head = build_head(config.head, self.backbone.num_features, config.bits)
        for name, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.training_info: dict[str, Any] = {}

    @property
    def bits(self) -> int:
        return self.config.bits

    def features(self, images: Tensor) -> Tensor:
        """Backbone features [n, F] of images uint8, or float in [0, 1], [n, C, H, W]."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return self.backbone((images - self.mean) / self.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def encode(self, pictures: Any, batch_size: int = 256) -> Tensor:
        """Packed codes uint8 [n, ceil(bits / 8)] of pictures, on the CPU.

        pictures: a path, PIL image, array or tensor, or a list of them, or a uint8 tensor
        [n, C, H, W] of the model's size. A picture is resized to cover the model's square and
        cropped at the centre. The batch size changes nothing but speed.
        Raises UnreadableImage naming a picture that cannot be decoded, and ValueError naming the
        picture whose outputs are not finite.
        """
        batched = isinstance(pictures, Tensor) and pictures.ndim == 4
        if not batched and (
            isinstance(pictures, str | os.PathLike) or not isinstance(pictures, Sequence)
        ):
            pictures = [pictures]
        codes = [
            self._encode_batch(pictures[start : start + batch_size], start)
            for start in range(0, len(pictures), batch_size)
        ]
        return torch.cat(codes) if codes else torch.empty(0, -(-self.bits // 8), dtype=torch.uint8)

    @torch.inference_mode()
    def _encode_batch(self, pictures: Any, start: int) -> Tensor:
        if not isinstance(pictures, Tensor):
            from hashfast.data import to_image

            channels, size, _ = self.config.image_shape
            pictures = torch.stack([to_image(p, size, channels) for p in pictures])
        was_training = self.training
        self.eval()
        outputs = self(pictures.to(self.mean.device))
        self.train(was_training)
        finite = outputs.isfinite().all(1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise ValueError(
                f"picture {row}: the model's outputs are not finite; check its weights, or the "
                "picture if it is only this one"
            )
        return pack(outputs).cpu()

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the configuration or any weight.

        Codes carry the fingerprint of the model that made them: Hamming distances between codes of
        different models mean nothing.
        """
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write model.safetensors, config.json and a card (README.md) into `folder`."""
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        with atomic_write(folder / WEIGHTS_FILE) as file:
            file.write(save(state))
        fingerprint = self.fingerprint()
        write_json(
            folder / CONFIG_FILE,
            {
                "format": FORMAT,
                "model": asdict(self.config),
                "fingerprint": fingerprint,
                "training": self.training_info,
            },
        )
        write_text(folder / CARD_FILE, self._card(folder.name, fingerprint))

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
        if stored.get("format") != FORMAT:
            raise ValueError(
                f"{folder / CONFIG_FILE} has format {stored.get('format')!r}; this version of "
                f"hashfast reads format {FORMAT}"
            )
        known = {field.name for field in fields(ModelConfig)}
        values = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in stored["model"].items()
        }
        if values.keys() != known:
            raise ValueError(
                f"{folder / CONFIG_FILE} describes a model by {sorted(values)}; expected "
                f"{sorted(known)}"
            )
        model = cls(ModelConfig(**values))
        model._load_weights(folder / WEIGHTS_FILE)
        model.training_info = stored.get("training", {})
        return model.to(device).eval()

    def _load_weights(self, path: Path) -> None:
        try:
            self.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit the model in its config.json: {error}") from error

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


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)
