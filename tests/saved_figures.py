"""Sees the figures that are written."""

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure


def capture(monkeypatch):
    """A list that fills with the figures saved from now on."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def frame(cell):
    """Colour and dash of the frame of a picture; None if the cell is empty."""
    if not cell.images:
        return None
    spine = cell.spines["top"]
    return to_hex(spine.get_edgecolor()).upper(), spine.get_linestyle()


def shown(cell):
    """The pixels drawn in a cell."""
    return np.asarray(cell.images[0].get_array())


def all_inside(figure):
    """Whether nothing that is drawn, the text around the axes included, is cut off."""
    box = figure.get_tightbbox()  # in inches
    width, height = figure.get_size_inches()
    slack = 0.02
    return (
        box.x0 > -slack and box.y0 > -slack and box.x1 < width + slack and box.y1 < height + slack
    )
