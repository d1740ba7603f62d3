"""The seven unseen deformations of DHD's robustness test (supplement, B.c).

The paper makes them with the library imgaug; where it gives no more than a name, these follow what
that library does by default: bilinear interpolation, black where the image has no pixel, one draw
for all channels. The paper's two zooms are read as fields of view, 50% and 200% of the image:
zoom-in enlarges the middle half, zoom-out shrinks the image to the middle half of the frame. (In
imgaug's own terms these are ``Affine(scale=2.0)`` and ``Affine(scale=0.5)``.)
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from hashfast.augment._images import to_unit

_GREY = 128 / 255


def deform(images: Tensor, name: str, generator: Generator) -> Tensor:
    """Deform each image of a batch by its own random amount.

    Args:
        images: uint8, or floating point in [0, 1], ``[n, C, H, W]`` with C = 1 or 3.
        name: a key of `DEFORMATIONS`.
        generator: makes the draws; the same seed gives the same images, on any device if the
            generator itself is on the CPU.

    Returns:
        Images of the same shape, dtype and device, in the same range; uint8 is rounded.

    Raises:
        ValueError: unknown name or another shape. TypeError: another dtype.
    """
    if name not in DEFORMATIONS:
        raise ValueError(f"deformation {name!r} is unknown; choose from {', '.join(DEFORMATIONS)}")
    result = DEFORMATIONS[name](to_unit(images), generator).clamp_(0, 1)
    if images.dtype == torch.uint8:
        result = result.mul_(255).round_()
    return result.to(images.dtype)


def cutout(images: Tensor, generator: Generator) -> Tensor:
    """Two grey squares a fifth of the image's height wide, centred anywhere, cut at the border."""
    n, _, height, width = images.shape
    half = 0.2 * height / 2
    hidden = torch.zeros(n, height, width, dtype=torch.bool, device=images.device)
    for _ in range(2):
        y, x = _uniform(0, 1, (2, n, 1), generator, images.device)
        rows = (_pixels(height, images) - y * height).abs() < half
        columns = (_pixels(width, images) - x * width).abs() < half
        hidden |= rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(hidden[:, None], _GREY)


def dropout(images: Tensor, generator: Generator) -> Tensor:
    """Pixels turn black with a probability p ~ U(0, 0.01), drawn for each image."""
    n, _, height, width = images.shape
    p = _uniform(0, 0.01, (n, 1, 1, 1), generator, images.device)
    draws = _uniform(0, 1, (n, 1, height, width), generator, images.device)
    return images.masked_fill(draws < p, 0)


def zoom_in(images: Tensor, generator: Generator) -> Tensor:
    """The middle half, enlarged to the whole frame. Draws nothing."""
    return _affine(images, _zoom(len(images), 2.0))


def zoom_out(images: Tensor, generator: Generator) -> Tensor:
    """The image at half its size in the middle of a black frame. Draws nothing."""
    return _affine(images, _zoom(len(images), 0.5))


def rotation(images: Tensor, generator: Generator) -> Tensor:
    """Rotation about the middle by d ~ U(-30, 30) degrees, drawn for each image."""
    return _affine(images, _rotation(_uniform(-30, 30, (len(images),), generator)))


def shearing(images: Tensor, generator: Generator) -> Tensor:
    """Horizontal shear by d ~ U(-30, 30) degrees, drawn for each image: x moves by y tan d."""
    return _affine(images, _shear(_uniform(-30, 30, (len(images),), generator)))


def gaussian_noise(images: Tensor, generator: Generator) -> Tensor:
    """Normal noise for each pixel, its deviation s ~ U(0, 25.5) / 255 drawn for each image."""
    n, _, height, width = images.shape
    deviation = _uniform(0, 25.5 / 255, (n, 1, 1, 1), generator, images.device)
    noise = torch.randn(n, 1, height, width, generator=generator, device=generator.device)
    return images + deviation * noise.to(images.device)


DEFORMATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "cutout": cutout,
    "dropout": dropout,
    "zoom-in": zoom_in,
    "zoom-out": zoom_out,
    "rotation": rotation,
    "shearing": shearing,
    "gaussian-noise": gaussian_noise,
}
"""Name -> function of float32 images in [0, 1], [n, C, H, W], and a generator."""


def _uniform(
    low: float,
    high: float,
    shape: tuple[int, ...],
    generator: Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    draws = torch.rand(shape, generator=generator, device=generator.device)
    return (low + (high - low) * draws).to(device)


def _pixels(size: int, images: Tensor) -> Tensor:
    """Coordinates of pixel centres along an axis, [size]."""
    return torch.arange(size, device=images.device) + 0.5


# Matrices [n, 2, 2] that map (x, y), in pixels from the middle of the image and y downwards, to
# where it lands.
def _zoom(n: int, factor: float) -> Tensor:
    return factor * torch.eye(2).expand(n, 2, 2)


def _rotation(degrees: Tensor) -> Tensor:
    """Clockwise as seen."""
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def _shear(degrees: Tensor) -> Tensor:
    matrices = torch.eye(2).repeat(len(degrees), 1, 1)
    matrices[:, 0, 1] = (degrees * (math.pi / 180)).tan()
    return matrices


def _affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Move the content of each image by its matrix; bilinear, black outside."""
    if not len(images):
        return images.clone()
    # Sampling goes backwards, from the result to the image, in units of half the image's size.
    half = torch.tensor(images.shape[:1:-1]) / 2  # (W/2, H/2)
    theta = matrices.cpu().inverse() * half / half[:, None]
    theta = torch.cat([theta, torch.zeros(len(images), 2, 1)], 2).to(images.device)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="zeros", align_corners=False)
