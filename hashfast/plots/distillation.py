"""How a student's codes follow a teacher's, and what in the teacher's codes misleads it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast._inputs import Array, Labels
from hashfast.plots._figure import (
    COLOURS,
    check_not_empty,
    new_figure,
    panels,
    save,
    tidy,
)
from hashfast.plots.codes import _as_bits, _class_ids, _class_legend
from hashfast.plots.quality import quality_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEASURES = {"isd": "ISD (bits)", "nra": "NRA@K"}


def bit_histograms(
    codes: Array, path: str | os.PathLike, *, bits: Sequence[int] | None = None
) -> None:
    """How often bits are -1 and +1 among codes that belong together (BRCD paper, Figure 3).

    The title of a panel has the bit, counted from 1, and its expectation e (equation 8): a bit of
    small e says little about what the images have in common, and BRCD masks it.

    Args:
        codes: of one class or cluster, packed uint8 [n, bytes] or values of -1 and +1 [n, bits].
        path: where the figure goes.
        bits: which ones, counted from 0; the first eight if None.

    Raises:
        ValueError: no codes, other values, or bits that the codes do not have.
    """
    signs = _signs(codes, "codes")
    length = signs.shape[1]
    shown = list(range(min(8, length))) if bits is None else list(bits)
    if not shown or not all(0 <= bit < length for bit in shown):
        raise ValueError(f"bits are {shown}; name some of 0 to {length - 1}")
    figure, axes = panels(len(shown), 1.7, 0.1)
    for panel, bit in zip(axes, shown, strict=True):
        ones = int((signs[:, bit] > 0).sum())
        panel.bar([-1, 1], [len(signs) - ones, ones], 1.2, color=(COLOURS[1], COLOURS[0]))
        panel.set(xticks=[-1, 1], xticklabels=["-1", "+1"], xlim=(-2, 2), ylim=(0, len(signs)))
        panel.tick_params(labelsize=7)
        panel.set_title(f"b{bit + 1}, e = {abs(signs[:, bit].mean()):.2f}", fontsize=8)
        tidy(panel, "y")
    save(figure, path)


def distillation_bars(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | os.PathLike
) -> None:
    """mAP by student and method, a row a teacher (BRCD paper, Figure 4).

    values: {teacher: {student: {method: mAP}}}; what is missing leaves a gap. Raises ValueError for
    none.
    """
    check_not_empty(values, "values are", "{student: {method: mAP}}")
    quality_bars({f"{teacher}\nmAP": rows for teacher, rows in values.items()}, path)


def alignment_bars(values: Mapping[str, Mapping[str, float]], path: str | os.PathLike) -> None:
    """How near a student's codes are to the teacher's, by method (BRCD paper, Figure 5a).

    ISD, the mean distance between both codes of an image, is better small; NRA@K, of the K teacher
    codes nearest to a student's code those of its class, is better large.

    Args:
        values: {method: {"isd": bits, "nra": share or number}}; what is missing leaves a gap.
        path: where the figure goes.

    Raises:
        ValueError: no methods, or a measure that no method has.
    """
    check_not_empty(values, "values are", "{isd, nra}")
    methods = list(values)
    figure = new_figure(max(4.5, 0.5 * len(methods) + 1), 4.2)
    axes = figure.subplots(len(_MEASURES), 1, sharex=True)
    for number, (panel, (key, label)) in enumerate(zip(axes, _MEASURES.items(), strict=True)):
        numbers = np.array([row.get(key) for row in values.values()], float)
        if not np.isfinite(numbers).any():
            raise ValueError(f"values hold no {key}; expected {{method: {{isd, nra}}}}")
        bars = panel.bar(methods, numbers, 0.7, color=COLOURS[number])
        texts = [f"{value:.3g}" if np.isfinite(value) else "" for value in numbers]
        panel.bar_label(bars, texts, fontsize=7, padding=2)
        panel.set(ylabel=label, ylim=(0, 1.15 * np.nanmax(numbers) or 1.0))
        tidy(panel, "y")
    save(figure, path)


def parameter_map(
    values: Mapping[tuple[float, float], float],
    path: str | os.PathLike,
    *,
    xlabel: str = "alpha",
    ylabel: str = "delta",
    measure: str = "mAP",
) -> None:
    """Quality by two parameters, with the numbers in the cells (BRCD paper, Figure 5b).

    Args:
        values: {(x, y): quality}; what is missing leaves an empty cell. The best cell is framed.
        path: where the figure goes.
        xlabel, ylabel, measure: what x, y and the quality are.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    if not values:
        raise ValueError("values are empty; give at least one, as {(alpha, delta): quality}")
    if not all(np.isfinite(value) for value in values.values()):
        raise ValueError("values hold NaN or infinity: leave out what was not measured")
    xs, ys = (sorted({place[axis] for place in values}) for axis in range(2))
    grid = np.full((len(ys), len(xs)), np.nan)
    for (x, y), value in values.items():
        grid[ys.index(y), xs.index(x)] = value
    figure = new_figure(0.75 * len(xs) + 2.2, 0.55 * len(ys) + 1.4)
    from matplotlib.patches import Rectangle  # new_figure says what to install

    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap="viridis", origin="lower", aspect="auto")
    figure.colorbar(image).set_label(measure)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "black" if value > middle else "white"
            text = f"{value:.4f}"
            axes.text(column, row, text, color=colour, fontsize=7, ha="center", va="center")
    row, column = np.unravel_index(np.nanargmax(grid), grid.shape)
    corner = (float(column) - 0.5, float(row) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2))
    save(figure, path)


def offset_positive_boxes(
    values: Mapping[str, Mapping[int, Sequence[float]]], path: str | os.PathLike
) -> None:
    """Rate of offset positives by the number of clusters, a panel a model (BRCD paper, Figure 6).

    Args:
        values: {model: {clusters: rates of repeated runs}}.
        path: where the figure goes.

    Raises:
        ValueError: no models, a model without clusters, or clusters without rates.
    """
    check_not_empty(values, "values are", "{clusters: rates}")
    for name, rows in values.items():
        if not rows or not all(len(rates) for rates in rows.values()):
            raise ValueError(
                f"values of {name!r} are {dict(rows)}; expected rates by number of clusters"
            )
    figure, axes = panels(len(values), 3.3, 0.1)
    for panel, (name, rows) in zip(axes, values.items(), strict=True):
        clusters = sorted(rows)
        panel.boxplot([list(rows[number]) for number in clusters], widths=0.6)
        panel.set_xticks(range(1, len(clusters) + 1), [str(number) for number in clusters])
        panel.set(xlabel="clusters", ylabel="OPR", ylim=(0, None))
        panel.set_title(name, fontsize=10)
        tidy(panel, "y")
    save(figure, path)


def teacher_student_tsne(
    codes: Mapping[str, tuple[Array, Array]],
    labels: Labels,
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    max_images: int = 500,
    seed: int = 0,
) -> None:
    """Codes of teacher (stars) and student (circles) in one plane by t-SNE, a panel each method
    (BRCD paper, Figure 7).

    Neighbours are those by Hamming distance, of both models together: where the codes are aligned,
    stars and circles of a colour lie together. 500 images take some seconds a panel.

    Args:
        codes: {name: (the teacher's, the student's)}, each packed uint8 [n, bytes] or values of -1
            and +1 [n, bits], n > 3.
        labels: class ids [n], the same for every panel; up to seven classes, which colours tell
            apart (choose rows of some of the classes).
        path: where the figure goes.
        class_names: legend, by class id; the ids if None.
        max_images: of more rows, so many are drawn at random, the same for every panel.
        seed: of the choice of rows and of t-SNE.

    Raises:
        ValueError: nothing to draw, no codes, more classes, or shapes that do not match.
        TypeError: labels that are not integers.
    """
    from sklearn.manifold import TSNE

    check_not_empty(codes, "codes are", "(teacher's, student's)")
    points = {}
    for name, pair in codes.items():
        teacher, student = (
            _signs(values, f"{name}'s {which}")
            for which, values in zip(("teacher", "student"), pair, strict=True)
        )
        if teacher.shape != student.shape:
            raise ValueError(
                f"{name}'s codes have shapes {list(teacher.shape)} and {list(student.shape)}; "
                "they are compared, so give as many of the same length"
            )
        points[name] = np.stack([teacher, student])
    ids = _class_ids(labels, {name: both[0] for name, both in points.items()})
    if len(ids) < 4 or max_images < 4:
        raise ValueError(f"{len(ids)} images, max_images {max_images}; t-SNE needs at least 4")
    shown, colours = np.unique(ids, return_inverse=True)
    if len(shown) > len(COLOURS):
        raise ValueError(
            f"labels hold {len(shown)} classes; colours tell {len(COLOURS)} apart: choose the rows "
            "of some of the classes"
        )
    names = [str(i) for i in shown] if class_names is None else list(class_names)
    if class_names is not None:
        if len(names) <= shown[-1]:
            raise ValueError(f"{len(names)} class_names do not match the class id {shown[-1]}")
        names = [names[i] for i in shown]
    rows = np.random.default_rng(seed).permutation(len(ids))[:max_images]
    rows.sort()
    figure, axes = panels(len(points), 3.2, 0.9)
    for panel, (name, both) in zip(axes, points.items(), strict=True):
        embedding = TSNE(
            init="random",  # by PCA equal codes would stay on one spot
            metric="hamming",
            perplexity=min(30, (2 * len(rows) - 1) / 3),
            random_state=seed,
        ).fit_transform(both[:, rows].reshape(2 * len(rows), -1))
        teacher, student = embedding.reshape(2, len(rows), 2)
        _scatter(panel, student, colours[rows], "o", 9)
        _scatter(panel, teacher, colours[rows], "*", 22)
        panel.set_title(name, fontsize=10)
        panel.set(xticks=[], yticks=[])
    _class_legend(figure, axes[0], colours, names)
    black: dict[str, Any] = {"color": "black", "linewidths": 0}
    handles = [
        axes[0].scatter([], [], s=size, marker=marker, label=label, **black)
        for marker, size, label in (("*", 45, "teacher"), ("o", 20, "student"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    save(figure, path)


def _signs(codes: Array, name: str) -> np.ndarray:
    """Codes as -1 and +1, [n, bits]. Raises ValueError for none and for other values."""
    values, metric = _as_bits(codes, name)
    if metric != "hamming" or not len(values):
        raise ValueError(
            f"codes of {name!r} are empty or real values: give packed codes, or -1 and +1"
        )
    return np.where(values > 0, 1.0, -1.0)


def _scatter(axes: Axes, points: np.ndarray, ids: np.ndarray, marker: str, size: float) -> None:
    for i in np.unique(ids).tolist():
        x, y = points[ids == i].T
        axes.scatter(x, y, s=size, alpha=0.6, marker=marker, color=COLOURS[i], linewidths=0)
