"""Figures of retrieval results. They need matplotlib, and leave its global state alone.

Files are replaced whole or not at all; the suffix names the format (png, pdf, svg), png if none.
Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hashfast._files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hashfast.metrics import Report

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_RIGHT, _WRONG, _QUERY = "#009E73", "#D55E00", "#808080"
_SHOWN = 10


def pr_curve(reports: Mapping[str, Report], path: str | os.PathLike) -> None:
    """Precision against recall by Hamming radius, one line a report; keys are its legend."""
    figure = _figure(5.2, 4)
    _draw_pr_curve(figure.add_subplot(), _not_empty(reports))
    _save(figure, path)


def precision_curve(
    reports: Mapping[str, Report], path: str | os.PathLike, *, max_items: int | None = None
) -> None:
    """P@top-M against the number M of items returned, one line a report; keys are its legend.

    max_items: the largest M drawn; all that was ranked if None.
    """
    figure = _figure(5.2, 4)
    _draw_precision_curve(figure.add_subplot(), _not_empty(reports), max_items)
    _save(figure, path)


def curves(reports: Mapping[str, Report], path: str | os.PathLike) -> None:
    """Both curves side by side."""
    figure = _figure(10, 4)
    left, right = figure.subplots(1, 2)
    _draw_pr_curve(left, _not_empty(reports))
    _draw_precision_curve(right, reports, None)
    _save(figure, path)


def retrieval_grid(
    query_images: Sequence[Any] | torch.Tensor,
    database_images: Sequence[Any] | torch.Tensor,
    ids: np.ndarray | torch.Tensor,
    relevant: np.ndarray | torch.Tensor,
    distances: np.ndarray | torch.Tensor,
    path: str | os.PathLike,
) -> None:
    """A row per query: the query, then its first 10 results with their Hamming distances.

    Relevant results have a solid green frame, others a dashed orange one.

    Args:
        query_images: q pictures: uint8, or floating point in [0, 1]; [C, H, W], [H, W, C] or
            [H, W] with 1 or 3 channels, torch or numpy; or samples (picture, ...) of a dataset.
        database_images: pictures or dataset, indexed by id.
        ids: integers [q, k] as search returns them; -1 is no result.
        relevant: bool [q, k].
        distances: integers [q, k].
        path: where the figure goes.

    Raises:
        ValueError: no queries, or shapes that do not match.
    """
    ids, relevant, distances = (np.asarray(x)[:, :_SHOWN] for x in (ids, relevant, distances))
    q, k = ids.shape
    if q == 0 or k == 0:
        raise ValueError(f"ids have shape {[q, k]}; there is nothing to draw")
    if not (relevant.shape == distances.shape == ids.shape) or len(query_images) != q:
        raise ValueError(
            f"{len(query_images)} query_images, ids {list(ids.shape)}, relevant "
            f"{list(relevant.shape)} and distances {list(distances.shape)} do not match"
        )
    height, width = _as_picture(query_images[0]).shape[:2]
    figure = _figure(1.05 * (k + 1) + 0.3, (1.05 * min(height / width, 2) + 0.2) * q + 0.2)
    # The gap after the queries is a column of its own.
    axes = figure.subplots(q, k + 2, squeeze=False, width_ratios=[1, 0.15, *[1] * k])
    for row in range(q):
        for cell in axes[row]:
            cell.set_axis_off()
        _draw_picture(axes[row, 0], query_images[row], "query" if row == 0 else "", _QUERY, "-")
        for column, i in enumerate(ids[row]):
            if i < 0:
                continue
            frame = (_RIGHT, "-") if relevant[row, column] else (_WRONG, "--")
            caption = f"d = {distances[row, column]}"
            _draw_picture(axes[row, column + 2], database_images[int(i)], caption, *frame)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "hashfast[plot]"') from error
    # Without pyplot: no global backend is chosen and nothing stays open.
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _not_empty(reports: Mapping[str, Report]) -> Mapping[str, Report]:
    if not reports:
        raise ValueError("reports are empty; give at least one, as {name: report}")
    return reports


def _draw_pr_curve(axes: Axes, reports: Mapping[str, Report]) -> None:
    for style, (name, report) in zip(_styles(), reports.items(), strict=False):
        curve = report.pr_curve
        axes.plot(curve.recall, curve.precision, marker="o", markersize=3, label=name, **style)
    axes.set(xlabel="recall (by Hamming radius)", ylabel="precision", xlim=(0, 1.01))
    _finish(axes, reports)


def _draw_precision_curve(axes: Axes, reports: Mapping[str, Report], max_items: int | None) -> None:
    for style, (name, report) in zip(_styles(), reports.items(), strict=False):
        values = report.precision_curve[:max_items]
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="items returned (top-M)", ylabel="precision", xlim=(0, None))
    _finish(axes, reports)


def _styles():
    """A colour and a dash for each line; dashes change once the colours are used up."""
    for dash in _DASHES:
        for colour in _COLOURS:
            yield {"color": colour, "linestyle": dash, "linewidth": 1.6}


def _finish(axes: Axes, reports: Mapping[str, Report]) -> None:
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(reports):
        axes.legend(frameon=False)


def _draw_picture(axes: Axes, item: Any, caption: str, colour: str, dash: str) -> None:
    picture = _as_picture(item)
    grey = picture.ndim == 2
    axes.imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=255 if grey else None)
    axes.set_title(caption, fontsize=7, pad=2.5)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linestyle=dash, linewidth=2.5)


def _as_picture(item: Any) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    picture = item[0] if isinstance(item, tuple) else item
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
    picture = np.asarray(picture)
    if picture.ndim == 3 and picture.shape[0] in (1, 3):
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if picture.ndim != 2 and not (picture.ndim == 3 and picture.shape[2] == 3):
        raise ValueError(f"a picture has shape {list(picture.shape)}; expected 1 or 3 channels")
    if picture.dtype == np.uint8:
        return picture
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix.removeprefix(".") or "png")
