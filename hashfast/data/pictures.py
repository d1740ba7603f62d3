"""Any picture to one uint8 tensor of a fixed size."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

Picture = str | os.PathLike | Image.Image | np.ndarray | Tensor

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {1: "L", 3: "RGB"}


class UnreadableImage(ValueError):
    """A file that is missing, empty, damaged, refused for its size, or not a picture.

    ``path`` names the file; it is None where the error crossed from a DataLoader worker, which
    keeps only the message.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


def to_image(picture: Picture, image_size: int | None = 224, channels: int = 3) -> Tensor:
    """uint8 ``[channels, image_size, image_size]`` of a file, PIL image, array or tensor.

    The centre square is cut out and scaled (bilinear, antialiased), so that the picture covers the
    result and is not distorted; ``image_size=None`` keeps its size and shape. EXIF orientation is
    applied, the first frame of an animated file is taken, transparency is laid over white, CMYK and
    palettes become RGB, 16-bit grey is divided by 257 and float grey stretched to 0..255;
    ``channels`` 1 or 3 gives ITU-R 601 grey or RGB. Arrays are ``[H, W]`` or ``[H, W, C]``, tensors
    ``[H, W]`` or ``[C, H, W]``; both are uint8, or float in [0, 1].

    A JPEG file of more than twice the size asked for is decoded at a half, quarter or eighth of its
    size: several times faster, and pixels differ by about half a grey level on average from those
    of the opened PIL image.

    Raises UnreadableImage for a bad file (also for a decompression bomb, i.e. more than
    2 * ``PIL.Image.MAX_IMAGE_PIXELS`` pixels), TypeError or ValueError for a bad array or tensor.
    """
    if channels not in _MODES:
        raise ValueError(f"channels={channels}; expected 1 (grey) or 3 (RGB)")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}; expected at least 1 pixel")
    if isinstance(picture, str | os.PathLike):
        return _from_file(os.fspath(picture), image_size, channels)
    if isinstance(picture, np.ndarray):
        picture = torch.from_numpy(np.array(picture, order="C"))  # a copy: it may be read-only
        picture = picture.permute(2, 0, 1) if picture.ndim == 3 else picture
    if isinstance(picture, Tensor):
        picture = _bytes(picture)
        if picture.shape == (channels, image_size, image_size):
            return picture
        picture = Image.fromarray(picture.permute(1, 2, 0).squeeze(2).cpu().numpy())
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"expected a path, PIL image, numpy array or tensor; got {type(picture).__name__}"
        )
    return _to_tensor(picture, image_size, channels)


def _from_file(path: str, image_size: int | None, channels: int) -> Tensor:
    try:
        if os.path.getsize(path) == 0:
            raise UnreadableImage(f"{path}: the file is empty (0 bytes)", path)
        with Image.open(path) as image:
            if image_size is not None:
                # JPEG only; at least twice the target remains, so the scaling stays antialiased.
                image.draft(image.mode, (2 * image_size, 2 * image_size))
            return _to_tensor(image, image_size, channels)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            f"{path}: too large, refused ({error}); raise PIL.Image.MAX_IMAGE_PIXELS if the file "
            "is to be trusted",
            path,
        ) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{path}: not a picture that Pillow can read", path) from error
    except Exception as error:  # decoders raise nearly any type on a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(f"{path}: cannot be read ({reason})", path) from error


def _to_tensor(image: Image.Image, image_size: int | None, channels: int) -> Tensor:
    if 0 in image.size:
        raise ValueError(f"the picture has no pixels ({image.width} x {image.height})")
    image = _eight_bits(_upright(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "L":
        image = image.convert("RGB")  # LAB, for one, has no other way out
    image = image.convert(_MODES[channels])
    if image_size is not None and image.size != (image_size, image_size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))  # np.array copies: the result is writable
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first, because loading a TIFF turns it and drops the tag
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits to mode L; every other mode as it is."""
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the picture holds NaN or infinite values")
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:  # no white level is defined: stretch
        values = (values - low) * (255 / (high - low) if high > low else 0)
    elif image.mode != "I" or high > 255:  # 16 bits: 65535 -> 255
        values = values / 257
    return Image.fromarray(values.round().astype(np.uint8))


def _bytes(picture: Tensor) -> Tensor:
    """uint8 [C, H, W] of a uint8 or unit-range float tensor."""
    if picture.ndim == 2:
        picture = picture.unsqueeze(0)
    if picture.ndim != 3 or picture.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"image has shape {list(picture.shape)}; expected [C, H, W] (tensor) or [H, W, C] "
            "(array) with 1, 3 or 4 channels"
        )
    if picture.is_floating_point():
        if not ((picture >= 0) & (picture <= 1)).all():
            raise ValueError(
                "float image has values outside [0, 1]; pass it before normalisation, or as uint8"
            )
        return (picture * 255).round().to(torch.uint8)
    if picture.dtype != torch.uint8:
        raise TypeError(
            f"image has dtype {str(picture.dtype).removeprefix('torch.')}; expected uint8, or "
            "float in [0, 1]"
        )
    return picture
