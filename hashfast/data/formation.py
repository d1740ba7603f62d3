"""Multi-formation: one stored image holds several smaller ones (Kim et al., ICML 2022)."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

Mode = Literal["single", "multi", "bound"]


def decode(
    images: Tensor, factor: int, mode: Mode = "single", *, bound: int = 128, num_classes: int = 1
) -> tuple[Tensor, Tensor]:
    """The training images that stored images hold, and which stored image each comes from.

    Decoding by a factor f pads an image with 0.5 on the right and below to a multiple of f, cuts
    it into f x f equal cells and enlarges each to the full size (bilinear). Differentiable.

    Args:
        images: floating point [n, C, H, W]. With `num_classes` they are sorted by class, n /
            num_classes of each.
        factor: f, at least 1; 1 returns the images as they are.
        mode: "single" decodes every image by f; "multi" by each of 1, ..., f, in this order;
            "bound" gives the first images of a class to f, as many as fit, the next ones to f - 1,
            and so on, the last to 1, so that a class has at most `bound` decoded images.
        bound: for the mode "bound", decoded images a class. More stored images than that are all
            returned as they are.
        num_classes: each class is decoded as if alone, and the results follow each other by class.
            Inside a class all images' first cells come first, then all second cells, row by row.

    Returns:
        decoded, [m, C, H, W], and source, int64 [m] on the images' device: decoded image i comes
        from images[source[i]], so its label is labels[source[i]].

    Agrees with `Synthesizer.decode` of snu-mllab/Efficient-Dataset-Condensation (condense.py),
    which decodes one class at a time.

    Raises:
        ValueError: a factor below 1 or above H or W, an unknown mode, a number of images that
            is no multiple of num_classes, images of another shape.
        TypeError: images that are not floating point.
    """
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise TypeError(f"images are {kind}; expected floating point")
    _check(images, factor, num_classes, "num_classes")
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(get_args(Mode))}")
    per_class = len(images) // num_classes
    stored = images.unflatten(0, (num_classes, per_class))
    rows = torch.arange(len(images), device=images.device).view(num_classes, per_class)
    plan = _plan(per_class, factor, mode, bound)
    decoded = torch.cat([_cells(stored[:, part], f) for f, part in plan], 1)
    source = torch.cat([rows[:, part].repeat(1, f * f) for f, part in plan], 1)
    return decoded.flatten(0, 1), source.flatten()


def assemble(images: Tensor, factor: int, *, num_classes: int = 1) -> Tensor:
    """Stored images from f x f images each: `mix`, the initial value of IDC's synthetic images.

    Inside a class of n stored images, image k n + i becomes cell k (row by row) of stored image i,
    scaled down by taking the nearest pixel. Where f does not divide the size, the first H mod f
    rows (W mod f columns) of cells have one more pixel, as in `Synthesizer.init` of
    snu-mllab/Efficient-Dataset-Condensation; the cells that `decode` cuts are then all that large.

    Args:
        images: [num_classes * f^2 * n, C, H, W], sorted by class, uint8 or floating point.
        factor: f, at least 1.

    Returns:
        Stored images [num_classes * n, C, H, W], sorted by class, of the same dtype.

    Raises ValueError as `decode` does, and unless the number of images is a multiple of
    num_classes * f^2.
    """
    _check(images, factor, num_classes * factor**2, "num_classes * factor^2")
    cells = images.unflatten(0, (num_classes, factor, factor, -1))
    heights, widths = (_parts(size, factor) for size in images.shape[2:])
    rows = [
        torch.cat([_nearest(cells[:, i, j], h, w) for j, w in enumerate(widths)], 4)
        for i, h in enumerate(heights)
    ]
    return torch.cat(rows, 3).flatten(0, 1)


def _plan(per_class: int, factor: int, mode: Mode, bound: int) -> list[tuple[int, slice]]:
    """Factors in order, and which stored images of a class each decodes."""
    if mode == "single":
        return [(factor, slice(None))]
    if mode == "multi":
        return [(f, slice(None)) for f in range(1, factor + 1)]
    plan, start = [], 0
    for f in range(factor, 1, -1):
        left = per_class - start
        # A place is kept for every image left, these too, as in the public code.
        count = max(0, min((bound - left) // f**2, left))
        plan.append((f, slice(start, start + count)))
        bound, start = bound - count * f**2, start + count
    return [*plan, (1, slice(start, per_class))]


def _cells(stored: Tensor, factor: int) -> Tensor:
    """[classes, n, C, H, W] -> [classes, factor^2 * n, C, H, W]."""
    if factor == 1:
        return stored
    height, width = stored.shape[3:]
    padded = pad(stored, (0, -width % factor, 0, -height % factor), value=0.5)
    cells = padded.unflatten(4, (factor, -1)).unflatten(3, (factor, -1))
    cells = cells.permute(0, 3, 5, 1, 2, 4, 6)  # [classes, row, column, n, C, h, w]
    full = interpolate(cells.flatten(0, 3), (height, width), mode="bilinear", align_corners=False)
    return full.unflatten(0, (len(stored), -1))


def _parts(size: int, count: int) -> list[int]:
    """`size` pixels in `count` parts, the larger ones first."""
    return [size // count + (i < size % count) for i in range(count)]


def _nearest(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images [classes, n, C, H, W]."""
    small = interpolate(images.flatten(0, 1), (height, width), mode="nearest")
    return small.unflatten(0, images.shape[:2])


def _check(images: Tensor, factor: int, group: int, name: str) -> None:
    if images.dim() != 4:
        raise ValueError(f"images have shape {list(images.shape)}; expected [n, C, H, W]")
    if not 1 <= factor <= min(images.shape[2:]):
        raise ValueError(
            f"factor is {factor}; images of {images.shape[2]} x {images.shape[3]} pixels can hold "
            f"1 x 1 to {min(images.shape[2:])} x {min(images.shape[2:])} cells"
        )
    if group < 1 or len(images) % group:
        raise ValueError(f"{len(images)} images; expected a multiple of {name} = {group}")
