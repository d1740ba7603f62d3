"""Pictures inside figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast.plots._figure import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 10  # results drawn for a query
# Colour and dash: frames can be told apart in print, too.
RIGHT, WRONG, PLAIN = ("#009E73", "-"), ("#D55E00", "--"), ("#808080", "-")


def draw_picture(axes: Axes, item: Any, caption: str, frame: tuple[str, str]) -> None:
    """A picture with a caption above it and a frame of one of the kinds above."""
    picture = as_picture(item)
    grey = picture.ndim == 2
    axes.imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=255 if grey else None)
    axes.set_title(caption, fontsize=7, pad=2.5)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=frame[0], linestyle=frame[1], linewidth=2.5)


def as_picture(item: Any) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] of a picture or a sample (picture, ...).

    Raises ValueError unless [C, H, W], [H, W, C] or [H, W] with 1 or 3 channels.
    """
    picture = as_array(item[0] if isinstance(item, tuple) else item)
    if picture.ndim == 3 and picture.shape[0] in (1, 3):
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if picture.ndim != 2 and not (picture.ndim == 3 and picture.shape[2] == 3):
        raise ValueError(f"a picture has shape {list(picture.shape)}; expected 1 or 3 channels")
    if picture.dtype == np.uint8:
        return picture
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def cell_height(item: Any) -> float:
    """Inches for a picture drawn about one inch wide."""
    height, width = as_picture(item).shape[:2]
    return 1.05 * min(height / width, 2)
