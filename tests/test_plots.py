"""Figures are written whole, in the format asked for, without touching matplotlib's state."""

import sys

import numpy as np
import pytest
import torch

from hashfast import plots
from hashfast.metrics import evaluate
from hashfast.plots._pictures import RIGHT, WRONG

pytest.importorskip("matplotlib")
from saved_figures import capture, frame, shown

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.fixture(scope="module")
def reports():
    rng = np.random.default_rng(0)
    result = {}
    for width in (1, 2):
        codes = rng.integers(256, size=(50, width), dtype=np.uint8)
        labels = rng.integers(3, size=50)
        result[f"{8 * width} bits"] = evaluate(codes[:8], codes[8:], labels[:8], labels[8:])
    return result


@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize("draw", [plots.pr_curve, plots.precision_curve, plots.curves])
def test_curves_are_written_in_the_format_of_the_suffix(draw, suffix, reports, tmp_path):
    path = tmp_path / f"figure.{suffix}"
    draw(reports, path)
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_curves_show_what_the_reports_hold(reports, tmp_path, monkeypatch):
    figures = capture(monkeypatch)
    plots.curves(reports, tmp_path / "both.png")
    plots.precision_curve(reports, tmp_path / "top.png", max_items=20)
    (left, right), (top,) = (figure.axes for figure in figures)
    for i, report in enumerate(reports.values()):
        np.testing.assert_array_equal(left.lines[i].get_xdata(), report.pr_curve.recall)
        np.testing.assert_array_equal(left.lines[i].get_ydata(), report.pr_curve.precision)
        np.testing.assert_array_equal(right.lines[i].get_ydata(), report.precision_curve)
        np.testing.assert_array_equal(top.lines[i].get_xdata(), np.arange(1, 21))
    for axes in (left, right, top):
        assert axes.get_xlabel()
        assert axes.get_ylabel() == "precision"
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(reports)


def test_report_plots_itself(reports, tmp_path, monkeypatch):
    figures = capture(monkeypatch)
    reports["8 bits"].plot(tmp_path / "one")
    assert (tmp_path / "one").read_bytes().startswith(MAGIC["png"])
    assert [axes.get_legend() for axes in figures[0].axes] == [None, None]


def pictures(n, kind):
    values = np.random.default_rng(1).integers(256, size=(n, 3, 6, 9), dtype=np.uint8)
    return {
        "tensor": torch.from_numpy(values),
        "float": torch.from_numpy(values) / 255,
        "channels last": np.moveaxis(values, 1, -1),
        "grey": values[:, :1],
        "flat": values[:, 0],
        "dataset": [(torch.from_numpy(value), 0, i) for i, value in enumerate(values)],
    }[kind]


@pytest.mark.parametrize("kind", ["tensor", "float", "channels last", "grey", "flat", "dataset"])
def test_grid_frames_and_captions(kind, tmp_path, monkeypatch):
    figures = capture(monkeypatch)
    ids = torch.tensor([[2, 0, 1], [3, 1, -1]])
    relevant = torch.tensor([[True, False, True], [False, True, False]])
    distances = torch.tensor([[0, 4, 5], [7, 7, 2**31 - 1]])
    path = tmp_path / "grid.png"
    database = pictures(4, kind)
    expected = pictures(4, "flat" if kind in ("grey", "flat") else "channels last")
    plots.retrieval_grid(pictures(2, kind), database, ids, relevant, distances, path)
    assert path.read_bytes().startswith(MAGIC["png"])
    cells = np.array(figures[0].axes).reshape(2, 5)
    for row in range(2):
        for column in range(3):
            cell = cells[row, column + 2]
            if ids[row, column] < 0:
                assert not cell.images
                continue
            assert cell.get_title() == f"d = {distances[row, column]}"
            assert frame(cell) == (RIGHT if relevant[row, column] else WRONG)
            np.testing.assert_array_equal(shown(cell), expected[ids[row, column]])


def test_grid_shows_ten_results(tmp_path, monkeypatch):
    figures = capture(monkeypatch)
    ids = np.arange(15)[None]
    images = pictures(15, "tensor")
    plots.retrieval_grid(images[:1], images, ids, ids > 3, ids, tmp_path / "grid.png")
    assert sum(bool(axes.images) for axes in figures[0].axes) == 11


def test_grid_rejects_what_does_not_match(tmp_path):
    images, ids = pictures(2, "tensor"), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="do not match"):
        plots.retrieval_grid(images, images, ids, ids[:, :2] > 0, ids, tmp_path / "grid.png")
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.retrieval_grid(images[:0], images, ids[:0], ids[:0], ids[:0], tmp_path / "grid.png")
    four = np.zeros((1, 4, 6, 9), np.uint8)
    with pytest.raises(ValueError, match=r"shape \[4, 6, 9\]"):
        plots.retrieval_grid(four, four, ids[:1], ids[:1], ids[:1], tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(reports, tmp_path):
    path = tmp_path / "figure.xyz"
    path.write_text("old")
    with pytest.raises(ValueError, match="xyz"):
        plots.pr_curve(reports, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_reports(tmp_path):
    with pytest.raises(ValueError, match="reports are empty"):
        plots.curves({}, tmp_path / "figure.png")


def test_pyplot_is_left_alone(reports, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    plots.curves(reports, tmp_path / "figure.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_missing_matplotlib_names_the_extra(reports, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "hashfast\[plot\]"'):
        plots.curves(reports, tmp_path / "figure.png")
