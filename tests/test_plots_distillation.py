"""The figures of paper 004: what is drawn is what was given, and nothing is cut off."""

import numpy as np
import pytest
import torch

from hashfast import plots
from hashfast.plots._figure import COLOURS

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from saved_figures import all_inside, capture

RNG = np.random.default_rng(0)


@pytest.fixture
def figures(monkeypatch):
    return capture(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure.png"


def legend(figure):
    return [[text.get_text() for text in one.get_texts()] for one in figure.legends]


def heights(axes):
    return [bar.get_height() for bar in axes.containers[0]]


def test_bit_histograms(figures, path):
    signs = np.ones((20, 10))
    signs[:5, 2] = -1
    signs[:10, 9] = -1
    packed = np.packbits(signs > 0, axis=1)
    plots.bit_histograms(signs, path)
    plots.bit_histograms(torch.tensor(packed), path, bits=[9, 2])
    eight, chosen = figures
    assert len(eight.axes) == 8
    assert [heights(axes) for axes in eight.axes[1:4]] == [[0, 20], [5, 15], [0, 20]]
    # e of equation 8: |(10 - 10) / 20| and |(15 - 5) / 20|.
    titles = [axes.get_title() for axes in chosen.axes if axes.containers]
    assert titles == ["b10, e = 0.00", "b3, e = 0.50"]
    assert [heights(axes) for axes in chosen.axes if axes.containers] == [[10, 10], [5, 15]]
    assert all_inside(eight)
    assert all_inside(chosen)


def test_distillation_bars_have_a_row_a_teacher(figures, path):
    students = {"ResNet-18": {"KL": 0.5, "BRCD": 0.625}, "MobileNetV2": {"KL": 0.25, "BRCD": 0.375}}
    plots.distillation_bars({"ViT-B/16": students, "ViT-L/16": {"ResNet-18": {"KL": 0.75}}}, path)
    (figure,) = figures
    first, second = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "ViT-B/16\nmAP",
        "ViT-L/16\nmAP",
    ]
    assert [[bar.get_height() for bar in bars] for bars in first.containers] == [
        [0.5, 0.25],
        [0.625, 0.375],
    ]
    assert second.containers[0][0].get_height() == 0.75
    assert np.isnan(second.containers[1][0].get_height())
    assert legend(figure) == [["KL", "BRCD"]]
    assert all_inside(figure)


def test_alignment_bars(figures, path, recwarn):
    plots.alignment_bars({"KL": {"isd": 6.5, "nra": 0.75}, "SP": {"isd": 8.0}}, path)
    (figure,) = figures
    isd, nra = figure.axes
    assert (isd.get_ylabel(), nra.get_ylabel()) == ("ISD (bits)", "NRA@K")
    assert heights(isd) == [6.5, 8]
    np.testing.assert_array_equal(heights(nra), [0.75, np.nan])
    assert [text.get_text() for text in isd.texts] == ["6.5", "8"]
    assert [tick.get_text() for tick in nra.get_xticklabels()] == ["KL", "SP"]
    assert all_inside(figure)
    plots.alignment_bars({"the teacher itself": {"isd": 0, "nra": 0}}, path)
    assert figures[1].axes[0].get_ylim() == (0, 1)
    assert not recwarn


def test_parameter_map_frames_the_best(figures, path):
    values = {(0.9, 0.2): 0.5, (0.6, 0.5): 0.75, (0.6, 0.2): 0.25}
    plots.parameter_map(values, path)
    axes = figures[0].axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, [[0.25, 0.5], [0.75, np.nan]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.6", "0.9"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.2", "0.5"]
    assert {text.get_text(): text.get_position() for text in axes.texts} == {
        "0.2500": (0, 0),
        "0.5000": (1, 0),
        "0.7500": (0, 1),
    }
    (frame,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert frame.get_xy() == (-0.5, 0.5)
    assert all_inside(figures[0])


def test_offset_positive_boxes(figures, path):
    rates = {20: [0.4, 0.5, 0.75], 5: [0.125, 0.25, 0.375]}
    plots.offset_positive_boxes({"EfficientNet-B0": rates, "ViT-B/16": {10: [0.25]}}, path)
    first, second = figures[0].axes
    assert [axes.get_title() for axes in (first, second)] == ["EfficientNet-B0", "ViT-B/16"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["5", "20"]
    flat = [line.get_ydata() for line in first.lines if len(set(line.get_ydata())) == 1]
    assert {0.25, 0.5} <= {values[0] for values in flat if len(values) == 2}  # the medians
    assert second.get_ylim()[0] == 0
    assert all_inside(figures[0])


@pytest.fixture
def embedded(monkeypatch):
    """What t-SNE was given, instead of the seconds it takes."""
    import sklearn.manifold

    calls = []

    class Recorder:
        def __init__(self, **options):
            self.options = options

        def fit_transform(self, values):
            calls.append((values, self.options))
            return values[:, :2]

    monkeypatch.setattr(sklearn.manifold, "TSNE", Recorder)
    return calls


def drawn(axes):
    """{(colour, points of the marker): points} of what is not there for a legend."""
    return {
        (to_hex(dots.get_facecolor()[0]).upper(), len(dots.get_paths()[0].vertices)): np.asarray(
            dots.get_offsets()
        )
        for dots in axes.collections
        if len(dots.get_offsets())
    }


def test_teacher_and_student_share_a_plane(embedded, figures, path):
    ids = np.array([2, 9, 2, 9, 2, 9])
    # The first two bits are what the stub takes for places: one corner a class and model.
    teacher, student = np.ones((6, 11)), np.ones((6, 11))
    teacher[ids == 9, 0] = -1
    student[:, 1] = -1
    student[ids == 9, 0] = -1
    pairs = {
        "BRCD": (teacher, torch.tensor(student, dtype=torch.int8)),
        "RKD": (np.packbits(teacher > 0, axis=1), np.packbits(student > 0, axis=1)),
    }
    names = [f"class {i}" for i in range(10)]
    plots.teacher_student_tsne(pairs, ids, path, names, seed=3)
    (values, options), (other, _) = embedded
    np.testing.assert_array_equal(values, np.concatenate([teacher, student]))
    np.testing.assert_array_equal(other[:, :11], values)
    assert (options["metric"], options["random_state"]) == ("hamming", 3)
    assert options["perplexity"] == 11 / 3
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["BRCD", "RKD"]
    for axes in figure.axes:
        found = drawn(axes)
        assert {colour for colour, _ in found} == set(COLOURS[:2])
        star, circle = sorted({points for _, points in found})
        for colour, x in zip(COLOURS, (1, -1), strict=False):
            np.testing.assert_array_equal(found[colour, star], [[x, 1]] * 3)
            np.testing.assert_array_equal(found[colour, circle], [[x, -1]] * 3)
    assert legend(figure) == [["class 2", "class 9"], ["teacher", "student"]]
    assert all_inside(figure)


def test_teacher_and_student_lose_the_same_rows(embedded, figures, path):
    ids = RNG.integers(0, 5, 30)
    teacher = RNG.choice([-1.0, 1.0], (30, 16))
    pairs = {"same": (teacher, teacher), "opposite": (teacher, -teacher)}
    plots.teacher_student_tsne(pairs, ids, path, max_images=12)
    plots.teacher_student_tsne(pairs, ids, path, max_images=12, seed=1)
    (same, _), (opposite, _), (other, _), _ = embedded
    assert len(same) == 24
    np.testing.assert_array_equal(same[:12], same[12:])
    np.testing.assert_array_equal(opposite[:12], -opposite[12:])
    np.testing.assert_array_equal(same[:12], opposite[:12])
    assert not np.array_equal(same, other)
    assert legend(figures[0])[1] == ["teacher", "student"]


def test_aligned_codes_lie_together(figures, path):
    codes = np.repeat(np.array([[0, 0, 0], [255, 255, 255]], np.uint8), 15, axis=0)
    plots.teacher_student_tsne({"aligned": (codes, codes)}, np.repeat([0, 1], 15), path)
    found = drawn(figures[0].axes[0])
    star, circle = sorted({points for _, points in found})
    one, two = (np.concatenate([found[c, star], found[c, circle]]) for c in COLOURS[:2])
    between = np.linalg.norm(one.mean(0) - two.mean(0))
    assert between > 3 * max(
        np.linalg.norm(side - side.mean(0), axis=1).mean() for side in (one, two)
    )


GOOD = RNG.choice([-1.0, 1.0], (8, 16))
IDS = np.arange(8) % 4


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda p: plots.bit_histograms(GOOD * 0.5, p), "'codes' are empty or real values"),
        (lambda p: plots.bit_histograms(np.empty((0, 2), np.uint8), p), "empty"),
        (lambda p: plots.bit_histograms(GOOD, p, bits=[3, 16]), r"bits are \[3, 16\]; name .* 15"),
        (lambda p: plots.bit_histograms(GOOD, p, bits=[]), r"bits are \[\]"),
        (lambda p: plots.distillation_bars({}, p), "values are empty"),
        (lambda p: plots.alignment_bars({}, p), "values are empty"),
        (lambda p: plots.alignment_bars({"KL": {"isd": 1.0}}, p), "values hold no nra"),
        (lambda p: plots.parameter_map({}, p), "values are empty"),
        (lambda p: plots.parameter_map({(0.5, 0.5): np.nan}, p), "NaN or infinity"),
        (lambda p: plots.offset_positive_boxes({}, p), "values are empty"),
        (lambda p: plots.offset_positive_boxes({"ViT": {5: []}}, p), "values of 'ViT' are"),
        (lambda p: plots.offset_positive_boxes({"ViT": {}}, p), "values of 'ViT' are"),
        (lambda p: plots.teacher_student_tsne({}, IDS, p), "codes are empty"),
        (
            lambda p: plots.teacher_student_tsne({"a": (GOOD, GOOD[:, 1:])}, IDS, p),
            r"a's codes have shapes \[8, 16\] and \[8, 15\]",
        ),
        (
            lambda p: plots.teacher_student_tsne({"a": (GOOD, GOOD * 2)}, IDS, p),
            "a's student",
        ),
        (
            lambda p: plots.teacher_student_tsne({"a": (GOOD, GOOD)}, IDS[1:], p),
            "7 labels do not match the 8 rows of 'a'",
        ),
        (
            lambda p: plots.teacher_student_tsne({"a": (GOOD, GOOD)}, np.arange(8), p),
            "labels hold 8 classes; colours tell 7 apart",
        ),
        (
            lambda p: plots.teacher_student_tsne({"a": (GOOD, GOOD)}, IDS, p, ["x", "y"]),
            "2 class_names do not match the class id 3",
        ),
        (
            lambda p: plots.teacher_student_tsne({"a": (GOOD, GOOD)}, IDS, p, max_images=3),
            "max_images 3; t-SNE needs at least 4",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "no.png")
    assert not list(tmp_path.iterdir())
