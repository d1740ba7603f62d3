"""What every augmentation and deformation accepts."""

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 is divided by 255, floating point only cast.

    Raises ValueError unless [n, C, H, W] with 1 or 3 channels, TypeError for another dtype. That
    floating-point values lie in [0, 1] is not checked: it would wait for the device.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images have shape {list(images.shape)}; expected [n, C, H, W] with C = 1 or 3"
        )
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise TypeError(
            f"images are {str(images.dtype).removeprefix('torch.')}; expected uint8, or floating "
            "point in [0, 1]"
        )
    return images.float()


def take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixel (rows[i, y], columns[i, x]) of image i at (y, x), 0 where that lies outside.

    images: [n, C, H, W]; rows: int64 [n, h], columns: int64 [n, w]; the result is [n, C, h, w].
    """
    height, width = images.shape[2:]
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    pixels = rows.clamp(0, height - 1)[:, :, None] * width
    pixels = pixels + columns.clamp(0, width - 1)[:, None, :]
    # One gather for the batch.
    taken = images.flatten(2).gather(2, pixels.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return taken.unflatten(2, pixels.shape[1:]).masked_fill(~inside[:, None], 0)
