"""mAP against the cost of condensation: what is drawn is what was given."""

import numpy as np
import pytest

from hashfast import plots

pytest.importorskip("matplotlib")
from saved_figures import all_inside, capture


def test_curves_have_their_points_in_order(tmp_path, monkeypatch):
    figures = capture(monkeypatch)
    curves = {"IEM": [(3.0, 0.5), (1.0, 0.25)], "IDC": [(100.0, 0.375)]}
    plots.condensation_curves(curves, tmp_path / "time.png")
    plots.condensation_curves(curves, tmp_path / "networks.svg", against="networks")
    for figure, scale, label in zip(
        figures, ("log", "linear"), ("condensation time (s)", "networks"), strict=True
    ):
        (axes,) = figure.axes
        assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == (scale, label, "mAP")
        first, second = axes.lines
        np.testing.assert_array_equal(first.get_xydata(), [[1, 0.25], [3, 0.5]])
        np.testing.assert_array_equal(second.get_xydata(), [[100, 0.375]])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["IEM", "IDC"]
        assert all_inside(figure)


def test_many_curves_look_different(tmp_path, monkeypatch):
    figures = capture(monkeypatch)
    plots.condensation_curves({str(i): [(1, 0.1)] for i in range(20)}, tmp_path / "many.png")
    styles = {(line.get_color(), line.get_marker()) for line in figures[0].axes[0].lines}
    assert len(styles) == 20


@pytest.mark.parametrize(
    ("curves", "options", "message"),
    [
        ({}, {}, "curves are empty"),
        ({"a": []}, {}, r"the curve of 'a' has shape \[0\]"),
        ({"a": [(1, 2, 3)]}, {}, r"has shape \[1, 3\]; expected pairs \(seconds, mAP\)"),
        ({"a": [(0, 0.5), (1, 0.6)]}, {}, "the curve of 'a' begins at 0.0 seconds"),
        ({"a": [(1, 0.5)]}, {"against": "epochs"}, "against is 'epochs'"),
    ],
)
def test_wrong_curves_are_named(tmp_path, curves, options, message):
    with pytest.raises(ValueError, match=message):
        plots.condensation_curves(curves, tmp_path / "no.png", **options)
    assert not list(tmp_path.iterdir())
