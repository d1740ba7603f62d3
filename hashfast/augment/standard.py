"""Random crop and flip."""

import torch
from torch import Tensor, nn

from hashfast.augment._images import take_pixels


class CropAndFlip(nn.Module):
    """Random crop of the zero-padded image and horizontal flip of one in two.

    The border is an eighth of the image on each side, at least one pixel (4 at 32 pixels, the habit
    on CIFAR). swuxyj/DeepHash-pytorch (utils/tools.py) flips and crops without a border, 224 out of
    256 pixels, and CIFAR-10 not at all. Both draws are each image's own, and ``scale`` multiplies
    both probabilities.

    images: floating point ``[n, C, H, W]``; the result has the same shape and dtype.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        border_y, border_x = max(1, height // 8), max(1, width // 8)
        cropped = torch.rand(n) < self.scale
        shift_y = torch.randint(-border_y, border_y + 1, (n,)) * cropped
        shift_x = torch.randint(-border_x, border_x + 1, (n,)) * cropped
        flipped = torch.rand(n) < 0.5 * self.scale

        rows = shift_y[:, None] + torch.arange(height)
        columns = shift_x[:, None] + torch.arange(width)
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
        return take_pixels(images, rows.to(images.device), columns.to(images.device))

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
