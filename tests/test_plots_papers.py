"""The figures of the papers: what they show is what was given, and nothing is cut off."""

import numpy as np
import pytest
import torch

from hashfast import plots
from hashfast.plots._pictures import PLAIN, RIGHT, WRONG

pytest.importorskip("matplotlib")
from saved_figures import all_inside, capture, frame, shown


@pytest.fixture
def figures(monkeypatch):
    return capture(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure.png"


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


RNG = np.random.default_rng(0)
IDS = np.repeat(np.arange(4), 6)
CORNERS = np.array([[-1, -1], [1, 1], [-1, 1], [1, 1]])[IDS]  # nothing in (+1, -1)


def test_two_bit_panels_points_and_shares(figures, path):
    outputs = {"A": CORNERS * 0.7, "B": torch.tensor(CORNERS * 3.0, dtype=torch.bfloat16)}
    plots.two_bit(outputs, IDS, path, ["ant", "bee", "cat", "dog"])
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["A", "B"]
    for axes, scale in zip(figure.axes, (0.7, 3.0), strict=True):
        classes = [line.get_offsets() for line in axes.collections if len(line.get_offsets())]
        for i, points in enumerate(classes):
            np.testing.assert_allclose(points, scale * CORNERS[i == IDS])
        assert [text.get_text() for text in axes.texts] == ["25%", "25%", "0%", "50%"]
        assert axes.get_xlim()[1] > scale
        crosses = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines[2:]}
        assert crosses == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
    assert legend(figure) == ["ant", "bee", "cat", "dog"]
    assert all_inside(figure)


def test_a_legend_of_many_classes_is_left_out(figures, path):
    outputs = {"A": RNG.normal(size=(62, 2))}
    plots.two_bit(outputs, np.arange(62) // 2, path)
    plots.two_bit(outputs, np.arange(62) % 30, path)
    assert not figures[0].legends
    assert legend(figures[1]) == [str(i) for i in range(30)]
    styles = {
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
        for dots in figures[0].axes[0].collections
    }
    assert len(styles) == 31


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


def test_tsne_metric_follows_the_codes(embedded, figures, path):
    signs = RNG.choice([-1.0, 1.0], size=(24, 11))
    codes = {
        "packed": np.packbits(signs > 0, axis=1),
        "signs": torch.tensor(signs, dtype=torch.int8),
        "real": signs * 0.5,
    }
    plots.tsne(codes, torch.tensor(IDS), path)
    (packed, one), (given, two), (real, three) = embedded
    assert [one["metric"], two["metric"], three["metric"]] == ["hamming", "hamming", "euclidean"]
    np.testing.assert_array_equal(packed[:, :11], signs > 0)
    assert not packed[:, 11:].any()
    np.testing.assert_array_equal(given, signs)
    np.testing.assert_array_equal(real, signs * 0.5)
    assert one["perplexity"] == 23 / 3
    assert [axes.get_title() for axes in figures[0].axes] == list(codes)
    assert legend(figures[0]) == ["0", "1", "2", "3"]


def test_tsne_draws_the_same_rows_for_every_panel(embedded, figures, path):
    values = np.stack([np.arange(24.0), IDS], axis=1)
    plots.tsne({"a": values, "b": values}, IDS, path, max_points=10, seed=1)
    plots.tsne({"a": values}, IDS, path, max_points=10, seed=2)
    first, second, other = (call[0] for call in embedded)
    assert len(first) == len(set(first[:, 0])) == 10
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert embedded[0][1]["random_state"] == 1
    for dots in figures[0].axes[0].collections:  # labels follow their rows
        assert len(set(np.asarray(dots.get_offsets())[:, 1])) <= 1


def test_tsne_separates_what_is_apart(figures, path):
    codes = np.repeat(np.array([[0, 0, 0], [255, 255, 255]], np.uint8), 12, axis=0)
    plots.tsne({"codes": codes}, np.repeat([0, 1], 12), path)
    left, right = (
        np.asarray(dots.get_offsets())
        for dots in figures[0].axes[0].collections
        if len(dots.get_offsets())
    )
    between = np.linalg.norm(left.mean(0) - right.mean(0))
    assert between > 3 * max(
        np.linalg.norm(side - side.mean(0), axis=1).mean() for side in (left, right)
    )


def test_wrong_points(path):
    good = {"a": RNG.normal(size=(24, 2))}
    for draw in (plots.two_bit, plots.tsne):
        with pytest.raises(ValueError, match="are empty; give at least one"):
            draw({}, IDS, path)
        with pytest.raises(ValueError, match="23 labels do not match the 24 rows of 'a'"):
            draw(good, IDS[1:], path)
        with pytest.raises(ValueError, match="labels are multi-hot"):
            draw(good, np.eye(24), path)
        with pytest.raises(TypeError, match="class ids are integers"):
            draw(good, IDS * 0.5, path)
        with pytest.raises(ValueError, match="class id -1"):
            draw(good, IDS - 1, path)
        with pytest.raises(ValueError, match="3 class_names do not match 4 classes"):
            draw(good, IDS, path, ["x", "y", "z"])
        with pytest.raises(ValueError, match=r"'a' have shape \[24\]"):
            draw({"a": np.zeros(24)}, IDS, path)
        with pytest.raises(ValueError, match="'a' hold NaN"):
            draw({"a": np.full((24, 2), np.nan)}, IDS, path)
    with pytest.raises(ValueError, match=r"shape \[24, 3\]; expected \[n, 2\]"):
        plots.two_bit({"a": np.zeros((24, 3))}, IDS, path)
    with pytest.raises(ValueError, match="t-SNE needs at least 4"):
        plots.tsne({"a": np.zeros((3, 2))}, [0, 1, 2], path)
    with pytest.raises(ValueError, match="t-SNE needs at least 4"):
        plots.tsne(good, IDS, path, max_points=3)
    assert not path.exists()


def test_distance_curves(figures, path):
    history = {
        "CSQ-S": {"hswd": [3, 2, 1], "swd": [0.3, 0.2, 0.1], "map": [None, 0.5, float("nan")]},
        "CSQ-C": {"hswd": np.array([9.0]), "swd": torch.tensor([0.5])},
    }
    plots.distance_curves(history, path)
    (figure,) = figures
    left, right, right_map = figure.axes
    assert [axes.get_title() for axes in (left, right)] == list(history)
    np.testing.assert_array_equal(left.lines[0].get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [0.3, 0.2, 0.1])
    np.testing.assert_array_equal(right_map.lines[0].get_xydata(), [[2, 0.5]])
    assert right_map.lines[0].get_linestyle() == "--"
    assert [line.get_marker() for line in (*left.lines, *right.lines)] == ["", "", "o", "o"]
    assert right_map.lines[0].get_marker() == "o"
    assert left.get_ylim()[1] > 3
    assert right.get_ylim()[1] > 9  # nothing is cut off
    assert legend(figure) == ["HSWD", "SWD", "mAP"]
    assert all_inside(figure)


def test_wrong_history(path):
    with pytest.raises(ValueError, match="history is empty"):
        plots.distance_curves({}, path)
    with pytest.raises(ValueError, match=r"holds \['swd'\]; expected hswd and swd"):
        plots.distance_curves({"a": {"swd": [1]}}, path)
    with pytest.raises(ValueError, match=r"shapes {'hswd': \[2\], 'swd': \[1\]}"):
        plots.distance_curves({"a": {"hswd": [1, 2], "swd": [1]}}, path)
    with pytest.raises(ValueError, match="one value an epoch"):
        plots.distance_curves({"a": {"hswd": [], "swd": []}}, path)
    assert not path.exists()


def test_quantization_bars(figures, path):
    values = {
        "CSQ": {"none": {"quantization_error": 0.4, "bit_entropy": 0.9}},
        "DCH": {
            "none": {"quantization_error": 0.3, "bit_entropy": 0.8},
            "hswd": {"quantization_error": 0.1, "bit_entropy": 1.0},
        },
    }
    plots.quantization_bars(values, path)
    (figure,) = figures
    errors, entropies = figure.axes  # no one has a mAP
    for axes, expected in ((errors, [0.4, 0.3, np.nan, 0.1]), (entropies, [0.9, 0.8, np.nan, 1])):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], expected)
        assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in errors.texts] == ["0.400", "0.300", "", "0.100"]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in errors.patches]
    np.testing.assert_allclose(middles, [-0.2, 0.8, 0.2, 1.2])
    assert [tick.get_text() for tick in entropies.get_xticklabels()] == ["CSQ", "DCH"]
    assert legend(figure) == ["none", "hswd"]
    assert all_inside(figure)


def test_quantization_bars_of_zero_and_of_nothing(path, recwarn):
    plots.quantization_bars({"CSQ": {"none": {"quantization_error": 0.0}}}, path)
    assert not recwarn.list
    for nothing in ({"CSQ": {}}, {"CSQ": {"none": {"loss": 1.0}}}):
        with pytest.raises(ValueError, match="none of quantization_error, bit_entropy, map"):
            plots.quantization_bars(nothing, path)
    with pytest.raises(ValueError, match="values are empty"):
        plots.quantization_bars({}, path)


@pytest.mark.parametrize("classes", [1, 10, 26])
def test_proxy_similarity(classes, figures, path):
    proxies = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0)) * 3
    names = [f"a rather long class name {i}" for i in range(classes)]
    plots.proxy_similarity(proxies.requires_grad_(), path, names)
    (figure,) = figures
    axes = figure.axes[0]
    expected = torch.nn.functional.cosine_similarity(proxies[:, None], proxies[None], dim=2)
    np.testing.assert_allclose(shown(axes), expected.detach(), atol=1e-6)
    assert axes.images[0].get_clim() == (-1, 1)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == names
    numbers = [text.get_text() for text in axes.texts]
    assert len(numbers) == (classes**2 if classes <= 25 else 0)
    assert "-0.00" not in numbers
    assert all_inside(figure)


def test_wrong_proxies(path):
    for shape in ((0, 8), (8,)):
        with pytest.raises(ValueError, match=r"expected \[C, bits\]"):
            plots.proxy_similarity(np.zeros(shape), path)
    with pytest.raises(ValueError, match="proxy 2 is zero or not finite"):
        plots.proxy_similarity(np.array([[1, 0], [0, 1], [0, 0], [np.nan, 0]]), path)
    with pytest.raises(ValueError, match="1 class_names do not match 3 classes"):
        plots.proxy_similarity(np.eye(3), path, ["one"])


def test_augmentation_grid(figures, path):
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    calls = []

    def darker(batch):
        calls.append(batch)
        return batch.float() / 255 / len(calls)

    plots.augmentation_grid(images, {"flip": lambda x: x.flip(3), "dark": darker}, path, views=2)
    cells = np.array(figures[0].axes).reshape(2, 7)
    assert len(calls) == 2
    for row in range(2):
        picture = images[row].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(shown(cells[row, 0]), picture)
        for column in (2, 3):
            np.testing.assert_array_equal(shown(cells[row, column]), picture[:, ::-1])
        np.testing.assert_array_equal(shown(cells[row, 5]), picture)
        np.testing.assert_array_equal(shown(cells[row, 6]), np.round(picture / 2))
        assert not cells[row, 1].images
        assert not cells[row, 4].images
    assert [cell.get_title() for cell in cells[0]] == ["original", "", "flip", "", "", "dark", ""]
    assert frame(cells[0, 0]) == PLAIN
    assert all_inside(figures[0])


def test_wrong_augmentation_grids(path):
    images, same = torch.zeros(2, 1, 4, 4), {"same": lambda x: x}
    with pytest.raises(ValueError, match="augmentations are empty"):
        plots.augmentation_grid(images, {}, path)
    for wrong in (images[:0], images[0], torch.zeros(2, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"expected at least one of each, \[n, C, H, W\]"):
            plots.augmentation_grid(wrong, same, path)
    with pytest.raises(ValueError, match="views is 0"):
        plots.augmentation_grid(images, same, path, views=0)


def test_deformation_grid_frames_what_the_original_found(figures, path):
    database = torch.arange(5 * 16, dtype=torch.uint8).view(5, 1, 4, 4)
    queries = {"original": database[0], "turned": database[1], "noisy": database[2]}
    ids = torch.tensor([[0, 1, 2], [2, 3, 0], [4, -1, -1]])
    plots.deformation_grid(queries, database, ids, path)
    cells = np.array(figures[0].axes).reshape(5, 3)
    assert [cell.get_title() for cell in cells[0]] == list(queries)
    for column, (name, frames) in enumerate(
        {
            "original": [RIGHT, RIGHT, RIGHT],
            "turned": [RIGHT, WRONG, RIGHT],
            "noisy": [WRONG, None, None],
        }.items()
    ):
        np.testing.assert_array_equal(shown(cells[0, column]), queries[name][0])
        assert [frame(cell) for cell in cells[2:, column]] == frames
        for cell, i in zip(cells[2:, column], ids[column].tolist(), strict=True):
            if i >= 0:
                np.testing.assert_array_equal(shown(cell), database[i, 0])
    assert all_inside(figures[0])


def test_deformation_grid_draws_ten_of_more(figures, path):
    database = torch.zeros(30, 1, 4, 4)
    ids = np.stack([np.arange(15), np.arange(15)[::-1]])
    plots.deformation_grid({"a": database[0], "b": database[1]}, database, ids, path)
    cells = np.array(figures[0].axes).reshape(12, 2)
    # All 15 of the original count as found.
    assert [frame(cell) for cell in cells[2:, 1]] == [RIGHT] * 10


def test_wrong_deformation_grids(path):
    database = torch.zeros(3, 1, 4, 4)
    with pytest.raises(ValueError, match=r"1 queries and ids \[2, 3\] do not match"):
        plots.deformation_grid({"a": database[0]}, database, np.zeros((2, 3), int), path)
    for shape in ((0, 3), (1, 0), (3,)):
        with pytest.raises(ValueError, match="there is nothing to draw"):
            plots.deformation_grid({"a": database[0]}, database, np.zeros(shape, int), path)


def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def test_label_statistics_of_ids(figures, path):
    plots.label_statistics(torch.tensor([0, 2, 2, 2]), path)
    plots.label_statistics([0, 2, 2, 2], path, ["ant", "bee", "cat", "dog"])
    (one,), (named,) = (figure.axes for figure in figures)
    assert heights(one) == [1, 0, 3]
    assert heights(named) == [1, 0, 3, 0]
    assert [tick.get_text() for tick in named.get_xticklabels()] == ["ant", "bee", "cat", "dog"]


def test_label_statistics_of_multi_hot(figures, path):
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    plots.label_statistics(labels, path)
    classes, sizes = figures[0].axes
    assert heights(classes) == [3, 1, 2]
    assert heights(sizes) == [1, 1, 1, 1]  # no, one, two and three labels
    assert sizes.get_title() == "mean 1.50 labels"
    assert all_inside(figures[0])


def test_label_statistics_of_many_classes(figures, path):
    plots.label_statistics(np.arange(60), path, [f"spotted salamander {i}" for i in range(60)])
    plots.label_statistics(np.arange(300), path)
    assert all_inside(figures[0])
    assert len(figures[0].axes[0].get_xticklabels()) == 60
    assert len(figures[1].axes[0].get_xticklabels()) < 20


def test_wrong_label_statistics(path):
    with pytest.raises(ValueError, match="labels are empty"):
        plots.label_statistics([], path)
    with pytest.raises(ValueError, match="class id -1"):
        plots.label_statistics([0, -1], path)
    with pytest.raises(ValueError, match="2 class_names do not match 3 classes"):
        plots.label_statistics([0, 2], path, ["a", "b"])
    with pytest.raises(ValueError, match="2 class_names do not match 3 classes"):
        plots.label_statistics(np.eye(3), path, ["a", "b"])
    assert not path.exists()
