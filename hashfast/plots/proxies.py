"""How alike the targets of classes are."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hashfast._inputs import Array
from hashfast.plots._figure import as_array, check_class_names, new_figure, save

_MOST_NUMBERED, _MOST_NAMED = 25, 200


def proxy_similarity(
    proxies: Array, path: str | os.PathLike, class_names: Sequence[str] | None = None
) -> None:
    """Cosine similarity between all pairs of class proxies (DHD, supplement, Figures B to D).

    Up to 25 classes the numbers stand in the cells. Proxies of DHD, centres of CSQ and codebooks of
    OrthoHash will all do.

    Args:
        proxies: real values [C, b].
        path: where the figure goes.
        class_names: names on both axes (up to 200 classes); the ids if None.

    Raises:
        ValueError: another shape, no proxies, values that are not finite, a proxy of zeros, or
            another number of names.
    """
    p = as_array(proxies).astype(np.float64)
    if p.ndim != 2 or p.size == 0:
        raise ValueError(f"proxies have shape {list(p.shape)}; expected [C, bits], not empty")
    norms = np.linalg.norm(p, axis=1, keepdims=True)
    wrong = ~(np.isfinite(norms) & (norms > 0))
    if wrong.any():
        raise ValueError(f"proxy {int(wrong.argmax())} is zero or not finite; it has no direction")
    p = p / norms
    similarity = p @ p.T
    classes = len(p)
    names = check_class_names(class_names, classes)

    numbered = classes <= _MOST_NUMBERED
    side = (0.38 if numbered else 0.12) * min(classes, _MOST_NAMED)
    figure = new_figure(max(3.2, side) + 1.6, max(2.6, side) + 0.8)
    figure.set_layout_engine("compressed")  # square cells: names stay inside the figure
    axes = figure.add_subplot()
    image = axes.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, fraction=0.04, pad=0.02)
    bar.set_label("cosine similarity")
    if classes <= _MOST_NAMED:
        size = 8 if numbered else 5.5
        axes.set_xticks(range(classes), names, fontsize=size, rotation=90)
        axes.set_yticks(range(classes), names, fontsize=size)
        axes.tick_params(length=2)
    if numbered:
        for (row, column), value in np.ndenumerate(similarity):
            colour = "white" if abs(value) > 0.6 else "black"
            text = f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(column, row, text, fontsize=6, color=colour, ha="center", va="center")
    save(figure, path)
