"""Precision against recall, and against the number of items returned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast.plots._figure import COLOURS, check_not_empty, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hashfast.metrics import Report

_DASHES = ("-", "--", "-.", ":")


def pr_curve(reports: Mapping[str, Report], path: str | os.PathLike) -> None:
    """Precision against recall by Hamming radius, one line a report; keys are its legend."""
    check_not_empty(reports, "reports are", "report")
    figure = new_figure(5.2, 4)
    _draw_pr_curve(figure.add_subplot(), reports)
    save(figure, path)


def precision_curve(
    reports: Mapping[str, Report], path: str | os.PathLike, *, max_items: int | None = None
) -> None:
    """P@top-M against the number M of items returned, one line a report; keys are its legend.

    max_items: the largest M drawn; all that was ranked if None.
    """
    check_not_empty(reports, "reports are", "report")
    figure = new_figure(5.2, 4)
    _draw_precision_curve(figure.add_subplot(), reports, max_items)
    save(figure, path)


def curves(reports: Mapping[str, Report], path: str | os.PathLike) -> None:
    """Both curves side by side."""
    check_not_empty(reports, "reports are", "report")
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    _draw_pr_curve(left, reports)
    _draw_precision_curve(right, reports, None)
    save(figure, path)


def _draw_pr_curve(axes: Axes, reports: Mapping[str, Report]) -> None:
    for style, (name, report) in zip(_line_styles(), reports.items(), strict=False):
        curve = report.pr_curve
        axes.plot(curve.recall, curve.precision, marker="o", markersize=3, label=name, **style)
    axes.set(xlabel="recall (by Hamming radius)", ylabel="precision", xlim=(0, 1.01))
    _finish(axes, reports)


def _draw_precision_curve(axes: Axes, reports: Mapping[str, Report], max_items: int | None) -> None:
    for style, (name, report) in zip(_line_styles(), reports.items(), strict=False):
        values = report.precision_curve[:max_items]
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="items returned (top-M)", ylabel="precision", xlim=(0, None))
    _finish(axes, reports)


def _line_styles() -> Iterator[dict[str, Any]]:
    """A colour and a dash for each line; dashes change once the colours are used up."""
    for dash in _DASHES:
        for colour in COLOURS:
            yield {"color": colour, "linestyle": dash, "linewidth": 1.6}


def _finish(axes: Axes, reports: Mapping[str, Report]) -> None:
    axes.set_ylim(0, 1.02)
    tidy(axes)
    if any(reports):
        axes.legend(frameon=False)
