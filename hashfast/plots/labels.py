"""How labels are spread over a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hashfast._inputs import Labels, check_labels
from hashfast.plots._figure import COLOURS, check_class_names, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMED = 120


def label_statistics(
    labels: Labels, path: str | os.PathLike, class_names: Sequence[str] | None = None
) -> None:
    """Images of each class (DHD, supplement, Figure A); beside it, for multi-hot labels, how many
    images have how many labels.

    Args:
        labels: class ids [n] or multi-hot [n, C].
        path: where the figure goes.
        class_names: one for each class (drawn up to 120 classes); the ids if None.

    Raises:
        ValueError: no labels, another shape, ids out of range, or another number of names.
        TypeError: ids that are not integers.
    """
    array = check_labels(labels).cpu().numpy()
    if len(array) == 0:
        raise ValueError("labels are empty; there is nothing to draw")
    if array.ndim == 2:
        counts = array.sum(0).astype(np.int64)
    elif array.min() < 0:
        raise ValueError(f"labels hold the class id {array.min()}; ids start at 0")
    else:
        counts = np.bincount(array, minlength=len(class_names or ()))
    names = check_class_names(class_names, len(counts))

    width = float(np.clip(0.14 * len(counts), 3.6, 14))
    if array.ndim == 1:
        figure = new_figure(width + 0.8, 3.2)
        _draw_classes(figure.add_subplot(), counts, names)
    else:
        figure = new_figure(width + 3.8, 3.2)
        left, right = figure.subplots(1, 2, width_ratios=[width, 2.6])
        _draw_classes(left, counts, names)
        _draw_labels_per_image(right, array.sum(1).astype(np.int64))
    save(figure, path)


def _draw_classes(axes: Axes, counts: np.ndarray, names: Sequence[str]) -> None:
    classes = np.arange(len(counts))
    named = len(counts) <= _MOST_NAMED
    # Gaps between very many bars would be thinner than a dot and make a pattern.
    axes.bar(classes, counts, 0.8 if named else 1.0, color=COLOURS[0])
    axes.set(xlabel="class", ylabel="images", xlim=(-0.7, len(counts) - 0.3))
    if named:
        crowded = len(counts) > 24 or max(map(len, names)) > 3
        size = 8 if len(counts) <= 40 else 5.5
        axes.set_xticks(classes, names, rotation=90 if crowded else 0, fontsize=size)
    tidy(axes, "y")


def _draw_labels_per_image(axes: Axes, sizes: np.ndarray) -> None:
    counts = np.bincount(sizes)
    axes.bar(np.arange(len(counts)), counts, color=COLOURS[1])
    axes.set(xlabel="labels of an image", ylabel="images")
    axes.set_title(f"mean {sizes.mean():.2f} labels", fontsize=9)
    axes.locator_params(axis="x", integer=True)
    tidy(axes, "y")
