"""How near codes are to binary and balanced: distances over training, bars by method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast.plots._figure import (
    COLOURS,
    as_array,
    check_not_empty,
    new_figure,
    panels,
    save,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES: dict[str, dict[str, Any]] = {
    "hswd": {"label": "HSWD", "color": COLOURS[0]},
    "swd": {"label": "SWD", "color": COLOURS[2]},
    "map": {"label": "mAP", "color": COLOURS[4], "linestyle": "--"},
}
_MEASURES = {
    "quantization_error": "quantisation error (rad)",
    "bit_entropy": "bit entropy",
    "map": "mAP",
}


def distance_curves(
    history: Mapping[str, Mapping[str, Sequence[float | None]]], path: str | os.PathLike
) -> None:
    """HSWD and SWD to binary codes against the epoch, a panel a run (HSWD paper, Figure 3).

    mAP is dashed, on an axis from 0 to 1 of its own.

    Args:
        history: {run: {"hswd": values, "swd": values, "map": values}}, a value an epoch, None or
            NaN where it was not measured; "map" may be left out.
        path: where the figure goes.

    Raises:
        ValueError: no runs or epochs, a distance missing, or different numbers of epochs.
    """
    check_not_empty(history, "history is", "{hswd, swd, map}")
    runs = {name: _as_series(name, values) for name, values in history.items()}
    figure, axes = panels(len(runs), 3.3, 0.2)
    handles = {}
    for panel, (name, series) in zip(axes, runs.items(), strict=True):
        for key, values in series.items():
            epochs = np.flatnonzero(np.isfinite(values))
            target = _map_axis(panel) if key == "map" else panel
            marker = "o" if epochs.size == 1 else ""  # a line of one point is not seen
            (handles[key],) = target.plot(epochs + 1, values[epochs], marker=marker, **_LINES[key])
        panel.set(xlabel="epoch", ylabel="distance", ylim=(0, None))
        panel.set_title(name, fontsize=10)
        tidy(panel)
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=3, frameon=False
    )
    save(figure, path)


def quantization_bars(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | os.PathLike
) -> None:
    """Bars by method and kind of quantisation, a row a measure (HSWD paper, Figure 5).

    Args:
        values: {method: {variant: {"quantization_error": radians, "bit_entropy": in [0, 1],
            "map": in [0, 1]}}}; what is missing leaves a gap, a measure that no one has no row.
        path: where the figure goes.

    Raises:
        ValueError: no methods, or none of the three measures.
    """
    check_not_empty(values, "values are", "{variant: measures}")
    variants = list(dict.fromkeys(variant for row in values.values() for variant in row))
    table = {}
    for key in _MEASURES:
        rows = [[row.get(name, {}).get(key) for name in variants] for row in values.values()]
        numbers = np.array(rows, float)  # [methods, variants], NaN where missing
        if np.isfinite(numbers).any():
            table[key] = numbers
    if not table:
        raise ValueError(f"values hold none of {', '.join(_MEASURES)}")
    width = max(4.5, 0.26 * len(values) * (len(variants) + 1) + 1)
    figure = new_figure(width, 1.9 * len(table) + 0.4)
    axes = figure.subplots(len(table), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (key, numbers) in zip(axes, table.items(), strict=True):
        _draw_bars(panel, numbers, variants)
        panel.set_ylabel(_MEASURES[key])
    axes[-1].set_xticks(np.arange(len(values)), list(values))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(variants), frameon=False)
    save(figure, path)


def _as_series(name: str, values: Mapping[str, Sequence[float | None]]) -> dict[str, np.ndarray]:
    series = {key: as_array(values[key]).astype(float) for key in _LINES if key in values}
    if not {"hswd", "swd"} <= set(series):
        raise ValueError(f"history of {name!r} holds {sorted(values)}; expected hswd and swd")
    epochs = series["hswd"].size
    if epochs == 0 or any(column.shape != (epochs,) for column in series.values()):
        shapes = {key: list(column.shape) for key, column in series.items()}
        raise ValueError(f"history of {name!r} has shapes {shapes}; expected one value an epoch")
    return series


def _map_axis(panel: Axes) -> Axes:
    right = panel.twinx()
    right.set(ylim=(0, 1), ylabel="mAP")
    right.spines[["top", "left"]].set_visible(False)
    return right


def _draw_bars(axes: Axes, numbers: np.ndarray, variants: Sequence[str]) -> None:
    """A group of bars for each row of numbers, with the number above each."""
    groups, width = np.arange(len(numbers)), 0.8 / len(variants)
    for i, (variant, column) in enumerate(zip(variants, numbers.T, strict=True)):
        middle = groups + (i - (len(variants) - 1) / 2) * width
        colour = COLOURS[i % len(COLOURS)]
        bars = axes.bar(middle, column, 0.93 * width, color=colour, label=variant)
        texts = [f"{value:.3f}" if np.isfinite(value) else "" for value in column]
        axes.bar_label(bars, texts, fontsize=6, rotation=90, padding=2)
    tidy(axes, "y")
    highest = np.nanmax(numbers) or 1.0
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1.05 * highest])
    axes.set_ylim(0, 1.3 * highest)
