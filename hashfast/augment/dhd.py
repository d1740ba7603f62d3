"""Teacher and student views of Deep Hash Distillation, by kornia."""

import torch
from torch import Tensor, nn


def build_dhd(image_shape: tuple[int, int, int], scale: float) -> nn.Module:
    """The augmentation of DHD (supplement, Algorithm 1; youngkyunJang/Deep-Hash-Distillation,
    models.py, `Augmentation`): resized crop p 1, flip p .5, colour p .8, grayscale p .2, blur p .5,
    every probability times ``scale`` (s_T for the teacher's view, 1 for the student's).

    The released code pins kornia 0.5.7, whose ColorJitter (additive brightness, contrast by
    multiplication, saturation and hue in HSV) is named ColorJiggle today. There the resized crop
    happens to all images of a batch or none; here each image decides for itself, as each draws
    its own transformation in Algorithm 3.

    One-channel images get brightness and contrast only. Raises ImportError without kornia.
    """
    try:
        from kornia import augmentation as kornia
    except ImportError as error:
        raise ImportError(
            'augmentation "dhd" needs kornia: pip install "hashfast[train]"'
        ) from error
    channels, height, width = image_shape
    colour = channels == 3
    kernel = (_kernel(height), _kernel(width))
    steps = [
        # Slices of the batch are several times faster than kornia's warp.
        (1.0, kornia.RandomResizedCrop((height, width), cropping_mode="slice")),
        (0.5, kornia.RandomHorizontalFlip(p=1.0)),
        (0.8, kornia.ColorJiggle(0.4, 0.8, 0.8 if colour else 0.0, 0.2 if colour else 0.0)),
        (0.2, kornia.RandomGrayscale(p=1.0) if colour else nn.Identity()),
        (0.5, kornia.RandomGaussianBlur(kernel, (0.1, 2.0), p=1.0)),
    ]
    return nn.Sequential(*(_PerImage(transform, scale * p) for p, transform in steps))


class _PerImage(nn.Module):
    """Applies `transform` to each image with probability p.

    kornia's own p decides about a resized crop for the whole batch, and works through the images
    it then leaves alone.
    """

    def __init__(self, transform: nn.Module, p: float) -> None:
        super().__init__()
        self.transform, self.p = transform, p

    def forward(self, images: Tensor) -> Tensor:
        chosen = (torch.rand(len(images)) < self.p).nonzero().flatten()
        if not len(chosen):
            return images
        chosen = chosen.to(images.device)
        # White resized or blurred rounds to a little more than 1.
        return images.index_copy(0, chosen, self.transform(images[chosen]).clamp(0, 1))


def _kernel(size: int) -> int:
    """Odd width of the blur's kernel, about a tenth of the image: 3 at 28, 23 at 224, 25 at 256."""
    return max(3, size // 10 | 1)
