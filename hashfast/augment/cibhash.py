"""Training views of CIBHash: resized crop, flip, colour, greyscale and blur, each image its own."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

AREA = (0.5, 1.0)
RATIO = (3 / 4, 4 / 3)
FLIP, COLOUR, GREY, BLUR = 0.5, 0.7, 0.2, 0.5
STRENGTH, HUE = 0.4, 0.1
SIGMA = (0.1, 2.0)
_ATTEMPTS = 10  # to draw a crop that fits
_LUMINANCE = (0.299, 0.587, 0.114)


class ContrastiveViews(nn.Module):
    """The transformations of CIBHash (Qiu et al., IJCAI 2021), on a batch at once.

    In this order, with these probabilities times `scale`: a crop of 0.5 to 1 of the area and of an
    aspect ratio in 3/4 to 4/3, resized to the whole (bilinear), p 1; flip, p 0.5; brightness,
    contrast and saturation times U(0.6, 1.4) and hue plus U(-0.1, 0.1) turns, in a random order,
    p 0.7; greyscale, p 0.2; Gaussian blur, 3 x 3 with sigma U(0.1, 2), p 0.5. Images of one channel
    have no saturation, hue and greyscale.

    Agrees with qiuzx2/CIBHash (utils/data.py, utils/gaussian_blur.py) and the transformations of
    torchvision it takes, up to the rounding to 8 bits between them. Its pictures are enlarged to
    224 pixels by the crop; here they keep their size.

    images: floating point in [0, 1], [n, C, H, W] with n > 0; the result has the same shape, dtype
    and range. Draws are made on the CPU, so that nothing waits for a device.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        place = partial(torch.Tensor.to, device=images.device)
        rows, columns = draw_crops(n, height, width, self.scale)
        flipped = self._chosen(n, FLIP)
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
        images = resample(images, place(rows), place(columns))
        images = self._jittered(images)
        if channels == 3:
            grey = place(self._chosen(n, GREY).float())
            images = torch.lerp(images, luminance(images), _per_image(grey))
        sigma = _uniform(*SIGMA, n)
        blurred = self._chosen(n, BLUR)
        # Weight of a neighbour beside a pixel's own weight of 1.
        neighbour = (-0.5 / sigma.square()).exp() * blurred
        # White summed up with weights rounds to a little more than 1.
        return blur(images, place(neighbour)).clamp_(0, 1)

    def _jittered(self, images: Tensor) -> Tensor:
        """Three blends in the order of each image, and its hue before one of them or at the end."""
        n, channels = images.shape[:2]
        chosen = self._chosen(n, COLOUR)
        factors = torch.where(chosen[:, None], _uniform(1 - STRENGTH, 1 + STRENGTH, n, 3), 1.0)
        order = torch.rand(n, 3).argsort(1)
        turns = _uniform(-HUE, HUE, n)
        before = torch.where(chosen, torch.randint(4, (n,)), -1)
        for step in range(4):
            turned = (before == step).nonzero().squeeze(1)
            if channels == 3 and len(turned):
                rows = turned.to(images.device)
                changed = turn_hue(images[rows], turns[turned].to(images.device))
                images = images.index_copy(0, rows, changed)
            if step < 3:
                kind = order[:, step]
                factor = factors.gather(1, kind[:, None])[:, 0]
                images = blend(images, factor.to(images.device), kind.to(images.device))
        return images

    def _chosen(self, n: int, probability: float) -> Tensor:
        return torch.rand(n) < probability * self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def draw_crops(n: int, height: int, width: int, scale: float) -> tuple[Tensor, Tensor]:
    """Where each row [n, height] and column [n, width] of n crops lies, in pixels of the image.

    With probability 1 - scale a crop is the whole image. Draws from torch's global generator.
    """
    area = height * width * _uniform(*AREA, n, _ATTEMPTS)
    ratio = _uniform(math.log(RATIO[0]), math.log(RATIO[1]), n, _ATTEMPTS).exp()
    # If none fits: the largest part of the image with an allowed aspect ratio.
    high = round(min(height, width / RATIO[0]))
    wide = round(min(width, height * RATIO[1]))
    heights = pad((area / ratio).sqrt().round().clamp(min=1), (0, 1), value=high)
    widths = pad((area * ratio).sqrt().round().clamp(min=1), (0, 1), value=wide)
    first = ((heights <= height) & (widths <= width)).int().argmax(1, keepdim=True)
    cropped = torch.rand(n, 1) < scale
    return (
        _positions(torch.where(cropped, heights.gather(1, first), height), height),
        _positions(torch.where(cropped, widths.gather(1, first), width), width),
    )


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Image i at (rows[i, y], columns[i, x]), bilinear, in [n, C, h, w].

    rows [n, h] and columns [n, w]: floating point, inside the image; a whole number gives the very
    pixel.
    """
    n, channels, height, width = images.shape
    first = rows.floor()
    top = first.long()
    planes = torch.arange(n * channels, device=images.device).view(n, channels, 1) * height
    lines = images.reshape(-1, width)
    size = n, channels, rows.shape[1], width
    above, below = (
        lines.index_select(0, (planes + y[:, None]).flatten()).view(size)
        for y in (top, (top + 1).clamp(max=height - 1))
    )
    images = torch.lerp(above, below, (rows - first)[:, None, :, None])
    first = columns.floor()
    near = first.long()
    size = *size[:3], columns.shape[1]
    left, right = (
        images.gather(3, x[:, None, None].expand(size))
        for x in (near, (near + 1).clamp(max=width - 1))
    )
    return torch.lerp(left, right, (columns - first)[:, None, None])


def luminance(images: Tensor) -> Tensor:
    """[n, 3, H, W], or [n, 1, H, W], which it is already, -> [n, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    r, g, b = _LUMINANCE
    return (red * r).add_(green, alpha=g).add_(blue, alpha=b)


def blend(images: Tensor, factor: Tensor, kind: Tensor) -> Tensor:
    """factor x + (1 - factor) y, clipped to [0, 1], for each image.

    factor [n]; kind int64 [n] says what y is: 0 black (brightness), 1 the mean of the image's
    luminance (contrast), 2 the luminance of the pixel (saturation). Factor 1 changes nothing.
    """
    grey = luminance(images)
    rest = 1 - factor
    level = rest * (kind == 1) * grey.mean((1, 2, 3))
    offset = torch.addcmul(_per_image(level), grey, _per_image(rest * (kind == 2)))
    return torch.addcmul(offset, images, _per_image(factor)).clamp_(0, 1)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Hue plus `turns` [n], a full turn being 1; value and saturation of HSV stay. [n, 3, H, W]."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    # Sixths of a turn, from the channel that is the largest; a pixel without chroma has none.
    is_red = (red == value).to(images.dtype)
    is_green = (green == value).to(images.dtype) * (1 - is_red)
    is_blue = 1 - is_red - is_green
    gap = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    sixths = gap / chroma.clamp(min=torch.finfo(images.dtype).tiny) + 2 * is_green + 4 * is_blue
    shifts = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device)
    place = sixths[:, None] + (6 * turns[:, None] + shifts)[:, :, None, None]
    place = place - 6 * (place / 6).floor()
    share = torch.minimum(place, 4 - place).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * share


def blur(images: Tensor, neighbour: Tensor) -> Tensor:
    """Each pixel averaged with its 8 neighbours, mirrored at the border.

    neighbour [n]: weight of the next pixel along an axis, beside 1 of the pixel itself.
    """
    own = _per_image(1 / (1 + 2 * neighbour))
    other = own * _per_image(neighbour)
    for axis in (2, 3):
        size = images.shape[axis]
        if size > 1:
            border = (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0)
            wide = pad(images, border, mode="reflect")
            beside = wide.narrow(axis, 0, size) + wide.narrow(axis, 2, size)
            images = torch.addcmul(beside.mul_(other), images, own)
    return images


def _positions(sides: Tensor, size: int) -> Tensor:
    """Where `size` pixels lie along a window of `sides` [n, 1] pixels at a random place, [n, size].

    The outermost are those of the window: nothing is taken from beyond.
    """
    start = (torch.rand(len(sides), 1) * (size - sides + 1)).floor()
    centres = (torch.arange(size) + 0.5) * (sides / size) - 0.5
    return start + torch.minimum(centres.clamp(min=0), sides - 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape)
