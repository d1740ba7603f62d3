"""Quality of several methods: lines over training, bars in groups."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from hashfast.plots._figure import COLOURS, check_not_empty, new_figure, save, tidy
from hashfast.plots.quantization import _draw_bars


def quality_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike,
    *,
    xlabel: str,
    ylabel: str = "mAP",
) -> None:
    """Quality against what is counted on the horizontal axis (IEM preprint, Figure 3).

    lines: {name: [(count, quality), ...]}, one line each. Raises ValueError for none.
    """
    check_not_empty(lines, "lines are", "[(count, quality), ...]")
    figure = new_figure(5.2, 4)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(lines.items()):
        counts, quality = np.asarray(points, float).reshape(-1, 2).T
        marker = "o" if len(counts) == 1 else ""  # a line of one point is not seen
        colour, dash = COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]
        axes.plot(counts, quality, dash, color=colour, label=name, marker=marker, linewidth=1.6)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    tidy(axes)
    axes.legend(frameon=False)
    save(figure, path)


def quality_bars(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | os.PathLike
) -> None:
    """Bars in groups, a row a measure (IEM preprint, Figures 7 and 8; ICASSP, Figures 1 and 4).

    panels: {measure: {group: {bar: value}}}; what is missing leaves a gap. Raises ValueError for
    none.
    """
    check_not_empty(panels, "panels are", "{group: {bar: value}}")
    groups = list(dict.fromkeys(group for rows in panels.values() for group in rows))
    bars = list(dict.fromkeys(b for rows in panels.values() for row in rows.values() for b in row))
    figure = new_figure(max(4.5, 0.26 * len(groups) * (len(bars) + 1) + 1), 1.9 * len(panels) + 0.4)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (measure, rows) in zip(axes, panels.items(), strict=True):
        values = [[rows.get(group, {}).get(bar) for bar in bars] for group in groups]
        _draw_bars(panel, np.array(values, float), bars)
        panel.set_ylabel(measure)
    axes[-1].set_xticks(np.arange(len(groups)), groups)
    handles, names = axes[0].get_legend_handles_labels()
    columns = min(4, len(bars))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)
    save(figure, path)
