"""Where outputs and codes lie, coloured by class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast._inputs import Array, Labels, as_codes, check_labels
from hashfast.plots._figure import (
    COLOURS,
    as_array,
    check_class_names,
    check_not_empty,
    panels,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "o^sDvPX"  # change once the colours are used up
_MOST_NAMED = 30  # classes in a legend


def two_bit(
    outputs: Mapping[str, Array],
    labels: Labels,
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
) -> None:
    """The outputs of 2-bit hash functions, a panel each (HSWD paper, Figure 2).

    Crosses are the four codes; each quadrant tells its share of the points. Good codes crowd at
    the crosses, a quarter of them at each.

    Args:
        outputs: {name: real values before sign, [n, 2]}.
        labels: class ids [n], the same for every panel.
        path: where the figure goes.
        class_names: legend; the ids if None.

    Raises:
        ValueError: nothing to draw, values that are not finite, or shapes that do not match.
        TypeError: labels that are not integers.
    """
    check_not_empty(outputs, "outputs are", "values [n, 2]")
    points = {}
    for name, values in outputs.items():
        points[name] = u = as_array(values).astype(np.float64)
        if u.ndim != 2 or u.shape[1] != 2 or len(u) == 0:
            raise ValueError(f"outputs of {name!r} have shape {list(u.shape)}; expected [n, 2]")
        if not np.isfinite(u).all():
            raise ValueError(f"outputs of {name!r} hold NaN or infinity")
    ids = _class_ids(labels, points)
    figure, axes = panels(len(points), 3.2, 0.6)
    for panel, (name, u) in zip(axes, points.items(), strict=True):
        _scatter(panel, u, ids, name)
        _draw_quadrants(panel, u)
    _class_legend(figure, axes[0], ids, class_names)
    save(figure, path)


def tsne(
    codes: Mapping[str, Array],
    labels: Labels,
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    max_points: int = 2000,
    seed: int = 0,
) -> None:
    """Codes in the plane by t-SNE, a panel each (HSWD paper, Figure 4).

    Neighbours are those by Hamming distance for codes, by Euclidean distance for real values.
    2,000 points take some seconds a panel.

    Args:
        codes: {name: packed codes uint8 [n, bytes], values of only -1 and +1 [n, bits], or other
            real values [n, bits]}, n > 3.
        labels: class ids [n], the same for every panel.
        path: where the figure goes.
        class_names: legend; the ids if None.
        max_points: of more rows, so many are drawn at random, the same for every panel.
        seed: of the choice of rows and of t-SNE.

    Raises:
        ValueError: nothing to draw, values that are not finite, or shapes that do not match.
        TypeError: labels that are not integers.
    """
    from sklearn.manifold import TSNE

    check_not_empty(codes, "codes are", "codes [n, bits]")
    points, metrics = {}, {}
    for name, values in codes.items():
        points[name], metrics[name] = _as_bits(values, name)
    ids = _class_ids(labels, points)
    if len(ids) < 4 or max_points < 4:
        raise ValueError(f"{len(ids)} codes, max_points {max_points}; t-SNE needs at least 4")
    rows = np.random.default_rng(seed).permutation(len(ids))[:max_points]
    rows.sort()
    figure, axes = panels(len(points), 3.2, 0.6)
    for panel, (name, values) in zip(axes, points.items(), strict=True):
        # Random: a start by PCA would keep equal codes on one spot and hide how many there are.
        embedding = TSNE(
            init="random",
            metric=metrics[name],
            perplexity=min(30, (len(rows) - 1) / 3),
            random_state=seed,
        ).fit_transform(values[rows])
        _scatter(panel, embedding, ids[rows], name)
        panel.set(xticks=[], yticks=[])
    _class_legend(figure, axes[0], ids, class_names)
    save(figure, path)


def _as_bits(values: Array, name: str) -> tuple[np.ndarray, str]:
    """Coordinates [n, bits] and the metric between them."""
    array = as_array(values)
    if array.dtype == np.uint8:
        return np.unpackbits(as_codes(array, name).numpy(), axis=1).astype(np.float64), "hamming"
    array = array.astype(np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"codes of {name!r} have shape {list(array.shape)}; expected [n, bits]")
    if not np.isfinite(array).all():
        raise ValueError(f"codes of {name!r} hold NaN or infinity")
    return array, "hamming" if (np.abs(array) == 1).all() else "euclidean"


def _class_ids(labels: Labels, points: Mapping[str, np.ndarray]) -> np.ndarray:
    ids = check_labels(labels).cpu().numpy()
    if ids.ndim != 1:
        raise ValueError(
            f"labels are multi-hot {list(ids.shape)}; a point has one colour: give class ids [n], "
            "or leave out images with several labels"
        )
    for name, values in points.items():
        if len(values) != len(ids):
            raise ValueError(f"{len(ids)} labels do not match the {len(values)} rows of {name!r}")
    if (ids < 0).any():
        raise ValueError(f"labels hold the class id {ids.min()}; ids start at 0")
    return ids


def _draw_quadrants(axes: Axes, u: np.ndarray) -> None:
    """The four codes, and in the corner of each quadrant the share of points inside."""
    limit = max(1.45, 1.2 * np.abs(u).max())
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set(xlabel="bit 1", ylabel="bit 2")
    axes.axhline(0, color="#808080", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#808080", linewidth=0.8, zorder=0)
    for code in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        axes.plot(*code, marker="+", color="black", markersize=11, markeredgewidth=1.5)
        share = ((u > 0) == (np.array(code) > 0)).all(1).mean()
        axes.annotate(
            f"{share:.0%}",
            (0.5 + 0.48 * code[0], 0.5 + 0.48 * code[1]),
            xycoords="axes fraction",
            fontsize=7,
            ha="right" if code[0] > 0 else "left",
            va="top" if code[1] > 0 else "bottom",
        )


def _class_style(i: int) -> dict[str, Any]:
    marker = _MARKERS[i // len(COLOURS) % len(_MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker, "linewidths": 0}


def _scatter(axes: Axes, points: np.ndarray, ids: np.ndarray, title: str) -> None:
    size = float(np.clip(3000 / len(points), 5, 25))
    for i in np.unique(ids).tolist():
        x, y = points[ids == i].T
        axes.scatter(x, y, s=size, alpha=0.6, **_class_style(i))
    axes.set_title(title, fontsize=10)


def _class_legend(
    figure: Figure, axes: Axes, ids: np.ndarray, class_names: Sequence[str] | None
) -> None:
    classes = int(ids.max()) + 1
    if class_names is not None:
        classes = max(classes, len(class_names))
    names = check_class_names(class_names, classes)
    shown = np.unique(ids).tolist()
    if len(shown) > _MOST_NAMED:
        return
    handles = [axes.scatter([], [], s=25, label=names[i], **_class_style(i)) for i in shown]
    widest = max(len(names[i]) for i in shown)
    columns = max(1, int(figure.get_figwidth() / (0.35 + 0.075 * widest)))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(shown)),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1,
    )
