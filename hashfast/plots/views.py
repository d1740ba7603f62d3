"""What augmentation makes of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hashfast.plots._figure import check_not_empty, new_figure, save
from hashfast.plots._pictures import PLAIN, cell_height, draw_picture


def augmentation_grid(
    images: Tensor,
    augmentations: Mapping[str, Callable[[Tensor], Tensor]],
    path: str | os.PathLike,
    *,
    views: int = 4,
) -> None:
    """A row per image: the original, then `views` random views by each augmentation.

    (DHD, supplement, Figure E: original, teacher views, student views.) torch.manual_seed before
    the call repeats the views.

    Args:
        images: uint8, or floating point in [0, 1], [n, C, H, W] with C = 1 or 3.
        augmentations: {name: function from such a batch to a batch of views}, as
            `hashfast.augment.build_augmentation` makes them.
        path: where the figure goes.
        views: how many of each image.

    Raises:
        ValueError: no images, augmentations or views, or images of another shape.
    """
    check_not_empty(augmentations, "augmentations are", "function")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0 or views < 1:
        raise ValueError(
            f"images have shape {list(images.shape)} and views is {views}; expected at least one "
            "of each, [n, C, H, W] with C = 1 or 3"
        )
    drawn = {
        name: torch.stack([augment(images).detach().cpu() for _ in range(views)])
        for name, augment in augmentations.items()
    }
    n, groups = len(images), len(drawn)
    width = 1.05 * (groups * views + 1) + 0.25 * groups
    figure = new_figure(width, cell_height(images[0]) * n + 0.25)
    # Each group of views has a gap before it, a column of its own.
    ratios = [1, *([0.15] + [1] * views) * groups]
    axes = figure.subplots(n, len(ratios), squeeze=False, width_ratios=ratios)
    for row in range(n):
        for cell in axes[row]:
            cell.set_axis_off()
        draw_picture(axes[row, 0], images[row], "original" if row == 0 else "", PLAIN)
        for group, (name, batches) in enumerate(drawn.items()):
            for view, batch in enumerate(batches):
                caption = name if row == view == 0 else ""
                cell = axes[row, 2 + group * (views + 1) + view]
                draw_picture(cell, batch[row], caption, PLAIN)
    save(figure, path)
