"""What all figures share: how they are made, coloured and written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hashfast._files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PANELS_IN_ROW = 4


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches wide and high."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "hashfast[plot]"') from error
    # Without pyplot: no global backend is chosen and nothing stays open.
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write the figure whole or not at all, in the format its suffix names."""
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix.removeprefix(".") or "png")


def panels(count: int, size: float, legend: float) -> tuple[Figure, list[Axes]]:
    """Square panels `size` inches wide, in rows of four, and `legend` inches for the legend."""
    columns = min(count, _PANELS_IN_ROW)
    rows = -(-count // columns)
    figure = new_figure(size * columns, size * rows + legend)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def tidy(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Light grid behind the data, no box."""
    axes.grid(alpha=0.3, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def check_not_empty(values: Mapping[str, Any], subject: str, what: str) -> None:
    """Raise ValueError for an empty mapping; `subject` is its name and verb ("reports are")."""
    if not values:
        raise ValueError(f"{subject} empty; give at least one, as {{name: {what}}}")


def as_array(values: Any) -> np.ndarray:
    """Tensors of any device, arrays and lists as numpy; bfloat16, which numpy lacks, as float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def check_class_names(class_names: Sequence[str] | None, classes: int) -> list[str]:
    """The names, or the ids as text. Raises ValueError for another number of names."""
    if class_names is None:
        return [str(i) for i in range(classes)]
    if len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class_names do not match {classes} classes")
    return list(class_names)
