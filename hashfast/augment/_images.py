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
