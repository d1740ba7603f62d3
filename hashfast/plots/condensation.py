"""How good a condensed set becomes, and how soon."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from hashfast.plots._figure import COLOURS, check_not_empty, new_figure, save, tidy

_LABELS = {"seconds": "condensation time (s)", "networks": "networks"}
_MARKERS = "os^Dv<>"


def condensation_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike,
    *,
    against: Literal["seconds", "networks"] = "seconds",
) -> None:
    """mAP against what condensation took until then (IEM preprint, Figures 3 and 6).

    Args:
        curves: {name: [(seconds or networks, mAP in [0, 1]), ...]}, one line each; what `condense`
            returns as history has both.
        path: where the figure goes.
        against: what is given besides mAP: "seconds", on a logarithmic axis, for methods differ by
            orders of magnitude; or "networks", on a linear one.

    Raises:
        ValueError: no curves, a curve without points or of other than pairs, seconds that are not
            positive, an unknown `against`.
    """
    if against not in _LABELS:
        raise ValueError(f"against is {against!r}; expected one of {', '.join(_LABELS)}")
    check_not_empty(curves, "curves are", "[(seconds, mAP), ...]")
    points = {name: _as_points(name, values, against) for name, values in curves.items()}
    figure = new_figure(5.2, 4)
    axes = figure.add_subplot()
    for number, (name, (place, quality)) in enumerate(points.items()):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": _MARKERS[number // len(COLOURS) % len(_MARKERS)],
        }
        axes.plot(place, quality, label=name, linewidth=1.6, markersize=4, **style)
    axes.set(xlabel=_LABELS[against], ylabel="mAP", ylim=(0, None))
    if against == "seconds":
        axes.set_xscale("log")
    tidy(axes)
    axes.legend(frameon=False)
    save(figure, path)


def _as_points(
    name: str, values: Sequence[tuple[float, float]], against: str
) -> tuple[np.ndarray, np.ndarray]:
    """The two columns, in the order of the first."""
    points = np.asarray(values, float)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(
            f"the curve of {name!r} has shape {list(points.shape)}; expected pairs ({against}, mAP)"
        )
    if against == "seconds" and points[:, 0].min() <= 0:
        raise ValueError(
            f"the curve of {name!r} begins at {points[:, 0].min()} seconds; the axis is "
            "logarithmic: leave out what is not positive"
        )
    place, quality = points[points[:, 0].argsort(kind="stable")].T
    return place, quality
