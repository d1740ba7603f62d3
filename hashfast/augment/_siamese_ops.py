"""The operations of differentiable Siamese augmentation, as functions of each image's draws.

The formulas and strengths are those of DSA (Zhao and Bilen, ICML 2021; utils.py of
VICO-UoE/DatasetCondensation), which IDC (Kim et al., ICML 2022) keeps. ``images`` are floating
point ``[n, C, H, W]``, a draw is ``[n]`` and uniform in [0, 1), and the result has the shape and
dtype of the images. Nothing is clamped; every operation is differentiable in the images.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from hashfast.augment._images import take_pixels

FLIP = 0.5
BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP = 0.125
CUTOUT = 0.5
SCALE = 1.2
ROTATE = 15.0


def flip(images: Tensor, draw: Tensor) -> Tensor:
    """Left and right exchanged where the draw is below 0.5."""
    return torch.where(_per_image(draw < FLIP), images.flip(3), images)


def color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness, saturation and contrast, in this order; a draw of 0.5 changes nothing.

    Brightness adds U(-0.5, 0.5). Saturation multiplies a channel's distance from the mean of its
    pixel by U(0, 2), contrast a value's distance from the mean of its image by U(0.5, 1.5). Grey
    images have no saturation.
    """
    shift = _per_image((brightness - 0.5) * BRIGHTNESS).to(images.dtype)
    spread = _per_image(saturation * SATURATION).to(images.dtype)
    gain = _per_image(contrast + CONTRAST).to(images.dtype)
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    # The three in one: brightness shifts both means, saturation keeps them.
    offset = gain * (1 - spread) * grey + ((1 - gain) * mean + shift)
    return torch.addcmul(offset, images, gain * spread)


def crop(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The window moved by `down` and `right`, integers [n] of at most `crop_border`; 0 outside."""
    height, width = images.shape[2:]
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    return take_pixels(images, rows, columns)


def crop_border(size: int) -> int:
    """How far a window of `size` pixels moves to either side: an eighth, rounded."""
    return int(size * CROP + 0.5)


def cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A box of half the height and width around the pixel (row, column), integers [n], is 0."""
    height, width = images.shape[2:]
    hidden = _span(row, height)[:, :, None] & _span(column, width)[:, None, :]
    return images.masked_fill(hidden[:, None], 0)


def cutout_side(size: int) -> int:
    """Side of the box of `cutout` in an image of `size` pixels: half of it, rounded."""
    return int(size * CUTOUT + 0.5)


def scaling(draw_x: Tensor, draw_y: Tensor) -> Tensor:
    """Matrices for `warp`: fields of view of U(1/1.2, 1.2) of the width and of the height."""
    x, y = (draw * (SCALE - 1 / SCALE) + 1 / SCALE for draw in (draw_x, draw_y))
    return torch.stack([x, y], 1).diag_embed()


def rotation(draw: Tensor) -> Tensor:
    """Matrices for `warp`: rotations by U(-15, 15) degrees, positive anticlockwise.

    The units of `warp` shear an image that is not square, as in the public code.
    """
    angle = (draw - 0.5) * 2 * ROTATE * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], 1).unflatten(1, (2, 2))


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Each image sampled where its matrix [2, 2] maps (x, y) to; bilinear, 0 outside.

    x and y run from -1 to 1 over the image, x to the right and y down.
    """
    if not len(images):
        return images
    # Positions in half precision would be off by whole pixels.
    dtype = torch.promote_types(images.dtype, torch.float32)
    theta = pad(matrices.to(dtype), (0, 1))
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    warped = grid_sample(images.to(dtype), grid, padding_mode="zeros", align_corners=False)
    # Rounded positions would blur the images that stay.
    stays = (matrices == torch.eye(2, device=matrices.device)).all(2).all(1)
    return torch.where(_per_image(stays), images, warped.to(images.dtype))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _span(centre: Tensor, size: int) -> Tensor:
    """Where along an axis of `size` pixels the box around `centre` [n] lies, bool [n, size]."""
    side = cutout_side(size)
    first = centre[:, None] - side // 2
    pixels = torch.arange(size, device=centre.device)
    return (pixels >= first) & (pixels < first + side)
