"""Random views of training images, and the unseen deformations of robustness tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hashfast.augment._images import to_unit
from hashfast.augment.cibhash import ContrastiveViews
from hashfast.augment.deformations import DEFORMATIONS, deform
from hashfast.augment.dhd import build_dhd
from hashfast.augment.siamese import RandomViews, SiameseAugmentation
from hashfast.augment.standard import CropAndFlip

__all__ = [
    "AUGMENTATIONS",
    "DEFORMATIONS",
    "SiameseAugmentation",
    "build_augmentation",
    "deform",
    "to_unit",
]

_DSA = "color_crop_cutout_flip_scale_rotate"

# Name -> builder from (image_shape, scale) to a module over float32 images in [0, 1].
AUGMENTATIONS: dict[str, Callable[[tuple[int, int, int], float], nn.Module]] = {
    "none": lambda image_shape, scale: nn.Identity(),
    "standard": lambda image_shape, scale: CropAndFlip(scale),
    "dhd": build_dhd,
    "cibhash": lambda image_shape, scale: ContrastiveViews(scale),
    "dsa": lambda image_shape, scale: RandomViews(_DSA, "one", scale),
    "idc": lambda image_shape, scale: RandomViews("color_crop_cutout", "all", scale),
}


def build_augmentation(
    name: str, image_shape: tuple[int, int, int], scale: float = 1.0
) -> nn.Module:
    """A module that turns a batch of images into a random view of it.

    It maps uint8 images, or floating-point ones in [0, 1], ``[n, *image_shape]`` on any device to
    float32 in [0, 1] of the same shape and device; "dsa" and "idc", whose colours are not clamped,
    can leave that range. Every image has draws of its own, from torch's global CPU generator:
    torch.manual_seed repeats them. No gradient is kept. The images are not changed; "none" returns
    float32 ones as they are.

    Args:
        name: "none" (float32 only), "standard" (crop and flip), "dhd" (see `build_dhd`), "cibhash"
            (see `ContrastiveViews`), or those of training on condensed images: "dsa" (color, crop,
            cutout, flip, scale or rotate, one a batch) and "idc" (color, crop and cutout), see
            `SiameseAugmentation`.
        image_shape: (C, H, W), C = 1 or 3.
        scale: in [0, 1], multiplies every probability; 0 leaves images as they are. For "dsa" and
            "idc" it is the share of images that are touched.

    Raises:
        ValueError: unknown name, image_shape or scale out of range; in the module, images of
            another shape.
        TypeError: in the module, images of another dtype.
        ImportError: "dhd" without kornia.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"augmentation {name!r} is unknown; choose from {', '.join(AUGMENTATIONS)}"
        )
    if len(image_shape) != 3 or image_shape[0] not in (1, 3) or min(image_shape) < 1:
        raise ValueError(f"image_shape is {image_shape}; expected (C, H, W) with C = 1 or 3")
    if not 0 <= scale <= 1:
        raise ValueError(f"scale is {scale}; it multiplies probabilities: choose it in [0, 1]")
    return _Augmentation(image_shape, AUGMENTATIONS[name](image_shape, scale))


class _Augmentation(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], steps: nn.Module) -> None:
        super().__init__()
        self.image_shape, self.steps = tuple(image_shape), steps

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images have shape {list(images.shape)}; this augmentation was built for "
                f"[n, {', '.join(map(str, self.image_shape))}]"
            )
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            pixels = to_unit(images.detach())
            return self.steps(pixels) if len(pixels) else pixels
