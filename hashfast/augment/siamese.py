"""Differentiable Siamese augmentation: real and synthetic images of a class share their draws."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from hashfast.augment import _siamese_ops as ops

Draws = tuple[Tensor, ...]
Change = Callable[[Tensor, Draws], Tensor]
Mode = Literal["one", "all"]
PARTS = ("color", "crop", "cutout", "flip", "scale", "rotate")
_MOVES = ("crop", "scale", "rotate")
# Columns of the draws; scaling takes both of MOVE, rotation the first.
CHOICE, FLIP, BRIGHTNESS, SATURATION, CONTRAST, MOVE, _, CUTOUT, _ = range(9)


class SiameseAugmentation(nn.Module):
    """The augmentation of DSA (Zhao and Bilen, ICML 2021) and of IDC (Kim et al., ICML 2022).

    All groups of a batch, say its classes, are augmented at once, each with parameters of its own;
    the same draws with another batch give its groups the same parameters::

        draws = augment.draw(num_classes, generator)
        real, synthetic = augment(real, real_labels, draws), augment(synthetic, labels, draws)

    The parts of a strategy: color (brightness plus U(-0.5, 0.5), saturation times U(0, 2), contrast
    times U(0.5, 1.5)), crop (the window moves by up to an eighth), cutout (a hole of half the
    height and width), flip (one in two), scale (the field of view times U(1/1.2, 1.2), height and
    width apart) and rotate (by up to 15 degrees). Borders and holes are 0.

    Args:
        strategy: parts joined by "_", or "none" or "" to leave images as they are.
        mode: "one" applies one part, drawn for each group (DSA); "all" applies flip, color, one of
            crop, scale and rotate, drawn for each group, and cutout, each if listed (IDC).

    Raises ValueError for an unknown or repeated part and for an unknown mode.

    Agrees with `DiffAugment` of VICO-UoE/DatasetCondensation (utils.py) and `DiffAug` of
    snu-mllab/Efficient-Dataset-Condensation (misc/augment.py), not in which random numbers make
    the draws. Both apply it to normalised images, in which 0, the colour of borders and holes, is
    about the mean.
    """

    def __init__(self, strategy: str, mode: Mode = "one") -> None:
        super().__init__()
        parts = [] if strategy in ("none", "") else strategy.split("_")
        if len(set(parts)) != len(parts) or not set(parts) <= set(PARTS):
            raise ValueError(
                f"strategy is {strategy!r}; expected 'none', or some of {', '.join(PARTS)}, each "
                "once, joined by '_'"
            )
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}; expected one or all")
        self.strategy, self.mode, self.parts = strategy, mode, tuple(parts)
        self.choices = self.parts if mode == "one" else tuple(p for p in parts if p in _MOVES)

    def draw(self, num_groups: int, generator: Generator | None = None) -> Tensor:
        """Random numbers for `num_groups` groups: float32 [num_groups, 9] in [0, 1).

        They are on the generator's device; without one, torch's global CPU generator makes them.
        """
        device = None if generator is None else generator.device
        return torch.rand(num_groups, 9, generator=generator, device=device)

    def forward(self, images: Tensor, groups: Tensor | None, draws: Tensor) -> Tensor:
        """The augmented images: same shape, dtype and device, not clamped, differentiable.

        On a GPU every image goes through every listed part, chosen or not: the work does not depend
        on the draws, so that the step can be captured in a CUDA graph, and nothing waits for the
        device. On a CPU an image goes through its own parts only.

        Args:
            images: floating point [n, C, H, W], of any range.
            groups: int64 [n], the row of `draws` of each image, on the CPU or the images' device;
                None if there is a row for each image.
            draws: [num_groups, 9], see `draw`, on the CPU or the images' device.

        Raises ValueError for other shapes, TypeError for images that are not floating point.
        """
        self._check(images, groups, draws)
        if not self.parts:
            return images
        if groups is not None:
            draws = draws.to(groups.device)[groups]
        u = draws.to(images.device).unbind(1)
        if self._by_rows(images):
            images = images.clone()
        images = self._step(("flip",), images, u, _flip)
        images = self._step(("color",), images, u, _color)
        images = self._step(("crop",), images, u, _crop)
        images = self._step(("scale", "rotate"), images, u, self._warp)
        return self._step(("cutout",), images, u, _cutout)

    def _step(self, parts: tuple[str, ...], images: Tensor, u: Draws, change: Change) -> Tensor:
        """The images that have one of the parts, changed, among the others."""
        listed = [part for part in parts if part in self.parts]
        if not listed:
            return images
        if listed[0] not in self.choices or len(listed) == len(self.choices):
            return change(images, u)
        chosen = torch.stack([self._chosen(part, u) for part in listed]).any(0)
        if not self._by_rows(images):
            return torch.where(chosen[:, None, None, None], change(images, u), images)
        rows = chosen.nonzero().squeeze(1)
        if not len(rows):
            return images
        changed = change(images[rows], tuple(draw[rows] for draw in u))
        return images.index_copy_(0, rows, changed)

    def _by_rows(self, images: Tensor) -> bool:
        """Whether parts are applied to the images that have them only, which change in place."""
        return images.is_cpu and len(self.choices) > 1 and not torch.compiler.is_compiling()

    def _chosen(self, part: str, u: Draws) -> Tensor:
        return _integers(u[CHOICE], len(self.choices)) == self.choices.index(part)

    def _warp(self, images: Tensor, u: Draws) -> Tensor:
        """Scaling or rotation of each image: never both, so that one `warp` does."""
        if "rotate" not in self.parts:
            matrices = ops.scaling(u[MOVE], u[MOVE + 1])
        elif "scale" not in self.parts:
            matrices = ops.rotation(u[MOVE])
        else:
            rotate = self._chosen("rotate", u)[:, None, None]
            scaling = ops.scaling(u[MOVE], u[MOVE + 1])
            matrices = torch.where(rotate, ops.rotation(u[MOVE]), scaling)
        return ops.warp(images, matrices)

    def _check(self, images: Tensor, groups: Tensor | None, draws: Tensor) -> None:
        if not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise TypeError(f"images are {kind}; expected floating point")
        if images.dim() != 4:
            raise ValueError(f"images have shape {list(images.shape)}; expected [n, C, H, W]")
        if draws.dim() != 2 or draws.shape[1] != 9:
            raise ValueError(
                f"draws have shape {list(draws.shape)}; expected [groups, 9]: see draw"
            )
        rows = draws if groups is None else groups
        if len(rows) != len(images):
            name = "groups" if groups is not None else "rows of draws, which groups=None needs"
            raise ValueError(f"{len(images)} images and {len(rows)} {name}; expected as many")

    def extra_repr(self) -> str:
        return f"{self.strategy!r}, mode={self.mode!r}"


class RandomViews(nn.Module):
    """A Siamese augmentation as a training view: parameters of its own for every image.

    Of the parts that are drawn, the whole batch gets the same one, as in the public code where it
    trains on synthetic images. `scale` is the share of images that are touched.

    images: floating point [n, C, H, W]; the result has the same shape and dtype.
    """

    def __init__(self, strategy: str, mode: Mode, scale: float) -> None:
        super().__init__()
        self.augment, self.scale = SiameseAugmentation(strategy, mode), scale

    def forward(self, images: Tensor) -> Tensor:
        draws = self.augment.draw(len(images))
        draws[:, CHOICE] = draws[:1, CHOICE]
        touched = (torch.rand(len(images)) < self.scale).to(images.device)
        views = self.augment(images, None, draws)
        return torch.where(touched[:, None, None, None], views, images)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _flip(images: Tensor, u: Draws) -> Tensor:
    return ops.flip(images, u[FLIP])


def _color(images: Tensor, u: Draws) -> Tensor:
    return ops.color(images, u[BRIGHTNESS], u[SATURATION], u[CONTRAST])


def _crop(images: Tensor, u: Draws) -> Tensor:
    borders = (ops.crop_border(size) for size in images.shape[2:])
    shifts = (_integers(u[MOVE + i], 2 * border + 1) - border for i, border in enumerate(borders))
    return ops.crop(images, *shifts)


def _cutout(images: Tensor, u: Draws) -> Tensor:
    # A box of an even side has its centre between two pixels: one place more.
    places = (size + 1 - ops.cutout_side(size) % 2 for size in images.shape[2:])
    return ops.cutout(images, *(_integers(u[CUTOUT + i], k) for i, k in enumerate(places)))


def _integers(draw: Tensor, count: int) -> Tensor:
    """Draws in [0, 1) as int64 in [0, count)."""
    return (draw * count).long()
