"""Condensed sets: a few learnt images a class, in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from hashfast._files import atomic_write, write_text
from hashfast.data.arrays import ArrayDataset
from hashfast.data.formation import Mode, decode
from hashfast.data.splits import Splits

if TYPE_CHECKING:
    from PIL import Image

IMAGES_FILE, GRID_FILE, CARD_FILE = "condensed.safetensors", "condensed.png", "README.md"
FORMAT = 1
_KEY = "hashfast condensed set"  # of the metadata in the safetensors file
_COLUMNS, _GAP = 20, 2  # of the grid: images of a class at most, and pixels between two
_SIDE = 64, 128  # pixels of an image there: smaller ones are enlarged, larger ones scaled down


@dataclass(frozen=True)
class CondensedSet:
    """Learnt images float32 [n, C, H, W] in [0, 1], sorted by class, and labels int64 [n].

    Every class has equally many images. factor, formation, bound: how they are decoded into
    training images, see `hashfast.data.formation.decode`. class_names: of all classes of the
    protocol. info: how the set was made, JSON-ready; "mean" and "std" in it, a value a channel, are
    what models normalise by. Raises ValueError or TypeError for what does not fit this description.
    """

    images: Tensor
    labels: Tensor
    factor: int = 1
    formation: Mode = "single"
    bound: int = 128
    class_names: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_classes(self.labels, len(self.images), len(self.class_names))
        decode(self.images[:1], self.factor, self.formation, bound=self.bound)  # raises

    @property
    def num_classes(self) -> int:
        """Classes that have images."""
        return len(self.labels.unique())

    def decoded(self) -> tuple[Tensor, Tensor]:
        """The training images float32 [m, C, H, W] and their labels [m], sorted by class."""
        images, source = decode(
            self.images,
            self.factor,
            self.formation,
            bound=self.bound,
            num_classes=self.num_classes,
        )
        return images, self.labels[source]

    def dataset(self) -> ArrayDataset:
        """The decoded images as a dataset, rounded to 256 levels."""
        images, labels = self.decoded()
        return ArrayDataset((255 * images).round().to(torch.uint8), labels)

    def fingerprint(self) -> str:
        """SHA-256 of images, labels and how they are decoded."""
        how = (list(self.images.shape), self.factor, self.formation, self.bound)
        digest = hashlib.sha256(repr(how).encode())
        for part in (self.images, self.labels):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def in_place_of_training_set(self, splits: Splits) -> Splits:
        """The protocol with this set to train on.

        Its recipe says so, and names the mean and std that models normalise by: those of the real
        images, as the few learnt ones have others than queries and database. A set without them in
        `info` is normalised by its own.

        Raises ValueError when images or classes do not fit the protocol's; warns when the set was
        made of another split, whose training images may be queries of this one.
        """
        if tuple(self.images.shape[1:]) != tuple(splits.image_shape):
            raise ValueError(
                f"the condensed images are {list(self.images.shape[1:])} and those of "
                f"{splits.name} {list(splits.image_shape)}: condense that protocol, or load it in "
                "that size"
            )
        if splits.multi_label:
            raise ValueError(
                f"{splits.name} has several labels an image and the condensed set one: condense "
                "and train on a protocol of single labels"
            )
        other_names = self.class_names and self.class_names != splits.class_names
        if other_names or self.labels[-1] >= splits.num_classes:
            ours = self.class_names or map(str, self.labels.unique().tolist())
            raise ValueError(
                f"the condensed set has the classes {_some(ours)}; those of {splits.name} are "
                f"{_some(splits.class_names)}: condense that protocol"
            )
        split = self.info.get("protocol", {}).get("fingerprint", splits.fingerprint)
        if split != splits.fingerprint:
            warnings.warn(
                f"the condensed set was made of another split than this one of {splits.name}, "
                "whose queries it may have seen: load the protocol as for the condensation (same "
                "images, size and split_seed)",
                stacklevel=2,
            )
        recipe = {**splits.recipe, "condensed": self.fingerprint()}
        if "mean" in self.info and "std" in self.info:
            recipe |= {"mean": self.info["mean"], "std": self.info["std"]}
        return replace(splits, train=self.dataset(), recipe=recipe)

    def save(self, folder: str | os.PathLike) -> None:
        """Write a picture of the images, a card (README.md) and condensed.safetensors, the last.

        Raises TypeError for `info` that JSON cannot hold, OSError where nothing can be written.
        """
        facts = {
            "format": FORMAT,
            "factor": self.factor,
            "formation": self.formation,
            "bound": self.bound,
            "class_names": self.class_names,
            "info": self.info,
            "fingerprint": self.fingerprint(),
        }
        tensors = {"images": self.images, "labels": self.labels}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        content = to_bytes(tensors, {_KEY: json.dumps(facts)})
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / GRID_FILE) as file:
            _grid(self.images.cpu(), self.num_classes).save(file, "png")
        write_text(folder / CARD_FILE, _card(self, folder.resolve().name, len(content)))
        with atomic_write(folder / IMAGES_FILE) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote, on the CPU: `path` is the folder, or the safetensors file in it.

        Raises FileNotFoundError where there is no set, and ValueError naming the file when it is
        damaged, holds something else or comes from a later version.
        """
        path = Path(path)
        file = path / IMAGES_FILE if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(
                f"no condensed set in {path}: expected a folder with {IMAGES_FILE}, as `hashfast "
                "condense` and CondensedSet.save write it"
            )
        try:
            with safe_open(file, framework="pt") as opened:
                facts = (opened.metadata() or {}).get(_KEY)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged, or no safetensors file: {error}") from error
        if facts is None:
            raise ValueError(f"{file} holds no condensed set, but {_some(tensors)}")
        return _read(cls, file, facts, tensors)


def _read(cls: type, file: Path, text: str, tensors: dict[str, Tensor]) -> Any:
    """The set of a file's metadata and tensors."""
    try:
        facts = json.loads(text)
        found = facts.pop("format")
        if found != FORMAT:
            raise ValueError(f"it has format {found!r}; this version reads format {FORMAT}")
        fingerprint = facts.pop("fingerprint")
        condensed = cls(**tensors, **{**facts, "class_names": tuple(facts["class_names"])})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read as a condensed set: {type(error).__name__}: {error}"
        ) from error
    if condensed.fingerprint() != fingerprint:
        raise ValueError(
            f"{file} is damaged: its images have the fingerprint {condensed.fingerprint()} and "
            f"were written with {fingerprint}; copy it again"
        )
    return condensed


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.float32:
        raise TypeError(f"images are {images.dtype}; expected float32 in [0, 1]")
    if images.ndim != 4 or not len(images) or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images have shape {list(images.shape)}; expected [n, C, H, W] with 1 or 3 channels"
        )
    low, high = (float(end) for end in images.aminmax())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(f"images have values from {low} to {high}; expected finite ones in [0, 1]")


def _check_classes(labels: Tensor, n: int, names: int) -> None:
    if labels.dtype != torch.int64 or list(labels.shape) != [n]:
        raise ValueError(
            f"labels are {labels.dtype} {list(labels.shape)}; expected int64 [{n}], one an image"
        )
    if (labels.diff() < 0).any() or labels[0] < 0:
        raise ValueError("labels are out of order; expected class ids from 0 up, images by class")
    classes, counts = labels.unique(return_counts=True)
    if (counts != counts[0]).any():
        odd = int((counts != counts[0]).nonzero()[0])
        raise ValueError(
            f"class {int(classes[0])} has {int(counts[0])} images and class {int(classes[odd])} "
            f"{int(counts[odd])}; expected equally many of every class"
        )
    if names and labels[-1] >= names:
        raise ValueError(f"class {int(labels[-1])} is the last, but there are {names} class names")


def _grid(images: Tensor, classes: int) -> Image.Image:
    """A row a class, of its first images."""
    from PIL import Image

    height, width = images.shape[2:]
    side = max(height, width)
    scale = max(1, _SIDE[0] // side) if side < _SIDE[1] else _SIDE[1] / side
    cell = max(1, round(scale * width)), max(1, round(scale * height))
    smooth = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    rows = (255 * images).round().to(torch.uint8).unflatten(0, (classes, -1))[:, :_COLUMNS]
    size = [_GAP + n * (c + _GAP) for n, c in zip((rows.shape[1], classes), cell, strict=True)]
    colour = images.shape[1] == 3
    picture = Image.new("RGB" if colour else "L", (size[0], size[1]), "white")
    for row, column in product(range(classes), range(rows.shape[1])):
        pixels = rows[row, column].permute(1, 2, 0) if colour else rows[row, column, 0]
        image = Image.fromarray(pixels.numpy()).resize(cell, smooth)
        place = _GAP + column * (cell[0] + _GAP), _GAP + row * (cell[1] + _GAP)
        picture.paste(image, place)
    return picture


def _card(condensed: CondensedSet, name: str, size: int) -> str:
    n, m = len(condensed.images), len(condensed.dataset())
    classes, info = condensed.num_classes, condensed.info
    facts = {
        "images": f"{n}, {n // classes} of each of {classes} classes",
        "size of an image": " x ".join(map(str, condensed.images.shape[1:])),
        "training images they are decoded into": f"{m}, {m // classes} a class",
        "decoded by": f"factor {condensed.factor}, formation {condensed.formation}",
        "size of the file": f"{size / 1e6:.2f} MB",
        "fingerprint": condensed.fingerprint(),
        **{key: value for key, value in info.items() if not isinstance(value, dict)},
    }
    words = {k: f"{v:.1f}" if isinstance(v, float) else v for k, v in facts.items()}
    rows = "\n".join(f"| {key} | {value} |" for key, value in words.items())
    protocol = info.get("protocol", {}).get("name", "PROTOCOL")
    settings = info.get("settings", {})
    same = f"--data {protocol}" + " --root ROOT" * bool(settings.get("root"))
    for key in ("image_size", "split_seed"):
        if settings.get(key):
            same += f" --{key.replace('_', '-')} {settings[key]}"
    return (
        f"# {name}\n\nA condensed training set, made by hashfast: few learnt images that take the "
        f"place of a large training set.\n\n![Images by class]({GRID_FILE})\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        f"```bash\nhashfast train {same} --condensed {name} --epochs 500\n```\n\n"
        "```python\nfrom hashfast.data import CondensedSet\n"
        f'condensed = CondensedSet.load("{name}")\n'
        "images, labels = condensed.decoded()  # float32 in [0, 1], class ids\n```\n"
    )


def _some(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)
