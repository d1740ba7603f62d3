"""Siamese augmentation: its operations by hand, and which images share which of their draws."""

import math

import pytest
import torch

from hashfast.augment import SiameseAugmentation
from hashfast.augment import _siamese_ops as ops
from hashfast.augment.siamese import BRIGHTNESS, CHOICE, CONTRAST, CUTOUT, FLIP, MOVE, SATURATION

FULL = "color_crop_cutout_flip_scale_rotate"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, shape=(3, 9, 12), dtype=torch.float64):
    return torch.rand(n, *shape, generator=seeded(5), dtype=torch.float64).to(dtype)


def draws_of(*values):
    return torch.tensor(values, dtype=torch.float64)


def of(image_row):
    return torch.tensor(image_row, dtype=torch.float64)[None, None]


HALF = draws_of(0.5)


def test_brightness_adds():
    grey = torch.full((2, 3, 4, 5), 0.5)
    result = ops.color(grey, torch.tensor([0.75, 0.0]), *[torch.tensor([0.5, 0.5])] * 2)
    assert torch.equal(result[0], torch.full((3, 4, 5), 0.75))
    assert torch.equal(result[1], torch.zeros(3, 4, 5))


def test_saturation_spreads_the_channels_of_a_pixel():
    pixel = torch.tensor([0.0, 0.3, 0.6], dtype=torch.float64).view(1, 3, 1, 1)
    for draw, expected in [(0.0, [0.3, 0.3, 0.3]), (0.75, [-0.15, 0.3, 0.75])]:
        result = ops.color(pixel, HALF, draws_of(draw), HALF)
        torch.testing.assert_close(result.flatten(), draws_of(*expected))
    grey = images(1, (1, 4, 4))
    torch.testing.assert_close(ops.color(grey, HALF, draws_of(0.1), HALF), grey)


def test_contrast_spreads_the_values_of_an_image():
    image = of([[0.2, 0.6], [0.4, 0.4]])
    for draw, expected in [(0.0, [0.3, 0.5, 0.4, 0.4]), (0.75, [0.15, 0.65, 0.4, 0.4])]:
        result = ops.color(image, HALF, HALF, draws_of(draw))
        torch.testing.assert_close(result.flatten(), draws_of(*expected))


def test_color_is_the_three_one_after_the_other():
    batch = images(4)
    shift, spread, gain = torch.rand(3, 4, generator=seeded(1), dtype=torch.float64)
    result = ops.color(batch, shift, spread, gain)
    for i, image in enumerate(batch):
        image = image + (shift[i] - 0.5)
        mean = image.mean(0)
        image = (image - mean) * (2 * spread[i]) + mean
        image = (image - image.mean()) * (gain[i] + 0.5) + image.mean()
        torch.testing.assert_close(result[i], image)


def test_flip():
    batch = of([[1.0, 2, 3], [4, 5, 6]]).expand(2, -1, -1, -1)
    result = ops.flip(batch, draws_of(0.49, 0.5))
    assert result[0, 0].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert torch.equal(result[1], batch[1])


def test_crop_moves_the_window():
    batch = torch.zeros(3, 1, 5, 8)
    batch[:, :, 2, 3] = 1
    result = ops.crop(batch, torch.tensor([1, 0, 3]), torch.tensor([-2, 0, 0]))
    assert [view.nonzero().tolist() for view in result[:, 0]] == [[[1, 5]], [[2, 3]], []]
    white = ops.crop(torch.ones(2, 2, 4, 4), torch.tensor([1, -1]), torch.tensor([-1, 1]))
    assert white[0, 1].tolist() == [[0, 1, 1, 1]] * 3 + [[0, 0, 0, 0]]
    assert white[1, 1].tolist() == [[0, 0, 0, 0]] + [[1, 1, 1, 0]] * 3
    assert [ops.crop_border(size) for size in (3, 8, 28, 32, 224)] == [0, 1, 4, 4, 28]


def test_cutout_is_clipped_at_the_border():
    def cut(row, column):  # 6 x 4 pixels: a box of 3 x 2
        white = torch.ones(1, 1, 6, 4)
        return ops.cutout(white, torch.tensor([row]), torch.tensor([column]))[0, 0]

    middle = cut(3, 2)
    assert middle.tolist() == [[1, 1, 1, 1]] * 2 + [[1, 0, 0, 1]] * 3 + [[1, 1, 1, 1]]
    assert cut(0, 0).tolist() == [[0, 1, 1, 1]] * 2 + [[1, 1, 1, 1]] * 4
    assert cut(5, 4).tolist() == [[1, 1, 1, 1]] * 4 + [[1, 1, 1, 0]] * 2
    assert [ops.cutout_side(size) for size in (1, 2, 3, 28, 32)] == [1, 1, 2, 14, 16]


def bilinear(image, matrix):
    """One pixel at a time; (x, y) runs from -1 to 1 over the image."""
    height, width = image.shape[1:]
    (a, b), (c, d) = matrix.tolist()
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
            from_x = ((a * x + b * y + 1) * width - 1) / 2
            from_y = ((c * x + d * y + 1) * height - 1) / 2
            for r in (math.floor(from_y), math.floor(from_y) + 1):
                for s in (math.floor(from_x), math.floor(from_x) + 1):
                    if 0 <= r < height and 0 <= s < width:
                        weight = (1 - abs(r - from_y)) * (1 - abs(s - from_x))
                        result[:, row, column] += weight * image[:, r, s]
    return result


def test_warps_are_bilinear():
    batch = images(3)
    first, second = torch.rand(2, 3, generator=seeded(2), dtype=torch.float64)
    for matrices in (ops.scaling(first, second), ops.rotation(first)):
        result = ops.warp(batch, matrices)
        for i in range(3):
            torch.testing.assert_close(result[i], bilinear(batch[i], matrices[i]))


def test_warp_matrices():
    one, none = draws_of(1.0), draws_of(0.0)
    expected = torch.tensor([[1.2, 0], [0, 1 / 1.2]], dtype=torch.float64)
    torch.testing.assert_close(ops.scaling(one, none)[0], expected)
    cos, sin = math.cos(math.pi / 12), math.sin(math.pi / 12)
    expected = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    torch.testing.assert_close(ops.rotation(one)[0], expected)
    torch.testing.assert_close(ops.rotation(none)[0], expected.T)


def test_a_positive_rotation_is_anticlockwise():
    shape = of([[1.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    quarter = torch.tensor([[[0.0, -1], [1, 0]]])
    expected = of([[0.0, 0, 0], [0, 0, 1], [1, 1, 1]])
    torch.testing.assert_close(ops.warp(shape, quarter), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_rotation_leaves_the_very_image(dtype):
    batch = images(2, dtype=dtype)
    matrices = ops.rotation(torch.tensor([0.5, 0.9]))
    result = ops.warp(batch, matrices)
    assert torch.equal(result[0], batch[0])
    assert not torch.equal(result[1], batch[1])
    assert result.dtype == dtype


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("strategy", "mode"), [(FULL, "one"), (FULL, "all"), ("crop", "all")])
def test_gradients(strategy, mode, channels):
    augment = SiameseAugmentation(strategy, mode)
    draws = augment.draw(6, seeded())
    draws[:, CHOICE] = (torch.arange(6) + 0.5) / 6
    batch = images(6, (channels, 4, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, None, draws), batch)


def by_hand(image, u, parts):
    """One image [1, C, H, W] through `parts`, its draws u [1, 9]."""
    height, width = image.shape[2:]
    for part in parts:
        if part == "flip":
            image = image.flip(3) if u[0, FLIP] < 0.5 else image
        elif part == "color":
            image = ops.color(image, u[:, BRIGHTNESS], u[:, SATURATION], u[:, CONTRAST])
        elif part == "crop":
            shifts = []
            for draw, size in ((u[0, MOVE], height), (u[0, MOVE + 1], width)):
                border = int(size / 8 + 0.5)
                shifts.append(torch.tensor([int(draw * (2 * border + 1)) - border]))
            image = ops.crop(image, *shifts)
        elif part == "scale":
            image = ops.warp(image, ops.scaling(u[:, MOVE], u[:, MOVE + 1]))
        elif part == "rotate":
            image = ops.warp(image, ops.rotation(u[:, MOVE]))
        else:
            places = []
            for draw, size in ((u[0, CUTOUT], height), (u[0, CUTOUT + 1], width)):
                side = int(size / 2 + 0.5)
                places.append(torch.tensor([int(draw * (size + (1 - side % 2)))]))
            image = ops.cutout(image, *places)
    return image


@pytest.mark.parametrize("strategy", [FULL, "cutout_crop", "scale", "rotate_flip_color"])
def test_one_part_a_group(strategy):
    augment, batch = SiameseAugmentation(strategy, "one"), images(40)
    draws, parts = augment.draw(40, seeded()), strategy.split("_")
    result = augment(batch, None, draws)
    chosen = [parts[int(draws[i, CHOICE] * len(parts))] for i in range(40)]
    assert set(chosen) == set(parts)
    for i in range(40):
        expected = by_hand(batch[i : i + 1], draws[i : i + 1], [chosen[i]])
        torch.testing.assert_close(result[i : i + 1], expected)


@pytest.mark.parametrize("strategy", [FULL, "color_crop_cutout", "cutout_flip", "rotate_scale"])
def test_all_parts_and_one_move(strategy):
    augment, batch, listed = SiameseAugmentation(strategy, "all"), images(30), strategy.split("_")
    draws = augment.draw(30, seeded())
    moves = [part for part in listed if part in ("crop", "scale", "rotate")]
    result = augment(batch, None, draws)
    for i in range(30):
        move = [moves[int(draws[i, CHOICE] * len(moves))]] if moves else []
        order = [*(["flip"] * ("flip" in listed)), *(["color"] * ("color" in listed)), *move]
        order += ["cutout"] * ("cutout" in listed)
        expected = by_hand(batch[i : i + 1], draws[i : i + 1], order)
        torch.testing.assert_close(result[i : i + 1], expected)


@pytest.mark.parametrize("mode", ["one", "all"])
def test_groups_share_their_draws(mode):
    augment = SiameseAugmentation(FULL, mode)
    draws = augment.draw(3, seeded(1))
    groups = torch.tensor([2, 0, 1, 0, 2])
    batch, others = images(5), images(9)[4:7]
    result = augment(batch, groups, draws)
    assert torch.equal(result, augment(batch, None, draws[groups]))
    # A group by itself, also a single image of it among others.
    for group in range(3):
        rows = groups == group
        alone = augment(batch[rows], torch.zeros(int(rows.sum())).long(), draws[group, None])
        torch.testing.assert_close(result[rows], alone)
    # Real and synthetic images of a class.
    synthetic = augment(torch.cat([batch[1:2], others]), torch.tensor([0, 1, 2, 1]), draws)
    torch.testing.assert_close(synthetic[0], result[1])


def test_draws_repeat_and_fill_their_ranges():
    augment = SiameseAugmentation(FULL)
    draws = augment.draw(3000, seeded())
    assert draws.shape == (3000, 9)
    assert torch.equal(draws, augment.draw(3000, seeded()))
    assert not torch.equal(draws, augment.draw(3000, seeded(1)))
    torch.manual_seed(0)
    unseeded = augment.draw(2)
    torch.manual_seed(0)
    assert torch.equal(augment.draw(2), unseeded)
    # All the places a single pixel can come from: 3 x 5 windows of a crop.
    point = torch.zeros(1, 1, 8, 16)
    point[..., 4, 8] = 1
    views = SiameseAugmentation("crop")(point.expand(3000, -1, -1, -1), None, draws)
    places, counts = views[:, 0].nonzero()[:, 1:].unique(dim=0, return_counts=True)
    assert places.tolist() == [[y, x] for y in (3, 4, 5) for x in (6, 7, 8, 9, 10)]
    assert counts.min() > 130  # 200 each, 5 deviations
    assert counts.max() < 270


@pytest.mark.parametrize("mode", ["one", "all"])
def test_the_largest_draw_stays_in_range(mode):
    draws = torch.full((1, 9), 1 - 2.0**-24)  # the largest float32 that rand returns
    for size in (7, 28, 32, 224):
        for part in ("crop", "cutout", "rotate"):
            white = torch.ones(1, 1, size, size)
            result = SiameseAugmentation(f"color_{part}", mode)(white, None, draws)
            expected = by_hand(white, draws, [part] if mode == "one" else ["color", part])
            torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("mode", ["one", "all"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (3, 1, 1), (4, 28, 28)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shapes_and_dtypes(shape, dtype, mode):
    augment, batch = SiameseAugmentation(FULL, mode), images(12, shape, dtype)
    before, draws = batch.clone(), augment.draw(12, seeded())
    result = augment(batch, None, draws)
    assert result.shape == batch.shape
    assert result.dtype == dtype
    exact = augment(batch.double(), None, draws)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=0.02)
    assert torch.equal(batch, before)
    strided = batch.flip(3).contiguous().flip(3)
    torch.testing.assert_close(augment(strided, None, draws), result)
    assert augment(batch[:0], torch.zeros(0).long(), draws).shape == (0, *shape)


def test_nothing_listed_nothing_done():
    batch = images(2)
    for strategy in ("none", ""):
        augment = SiameseAugmentation(strategy)
        assert augment(batch, None, augment.draw(2)) is batch


def test_nothing_is_clamped():
    augment = SiameseAugmentation("color", "all")
    draws = torch.tensor([[0, 0, 0.9, 0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.1, 0.5, 0.5, 0, 0, 0, 0]])
    result = augment(torch.tensor([1.0, 0]).view(2, 1, 1, 1), None, draws)
    torch.testing.assert_close(result.flatten(), torch.tensor([1.4, -0.4]))


@pytest.mark.parametrize("mode", ["one", "all"])
def test_compiles_to_one_graph(mode):
    augment, batch = SiameseAugmentation(FULL, mode), images(6).requires_grad_()
    draws, groups = augment.draw(3, seeded()), torch.tensor([0, 0, 1, 1, 2, 2])
    compiled = torch.compile(augment, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, groups, draws), augment(batch, groups, draws))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="expected 'none', or some of color, crop, cutout, flip"):
        SiameseAugmentation("color_noise")
    with pytest.raises(ValueError, match="each once"):
        SiameseAugmentation("crop_crop")
    with pytest.raises(ValueError, match="mode is 'some'; expected one or all"):
        SiameseAugmentation("crop", "some")
    augment, batch = SiameseAugmentation("crop"), images(2)
    draws = augment.draw(2)
    with pytest.raises(TypeError, match="images are uint8; expected floating point"):
        augment(batch.byte(), None, draws)
    with pytest.raises(ValueError, match=r"shape \[3, 9, 12\]; expected \[n, C, H, W\]"):
        augment(batch[0], None, draws)
    with pytest.raises(ValueError, match="2 images and 3 groups"):
        augment(batch, torch.tensor([0, 1, 1]), draws)
    with pytest.raises(ValueError, match="2 images and 1 rows of draws"):
        augment(batch, None, draws[:1])
    with pytest.raises(ValueError, match=r"draws have shape \[2, 8\]; expected \[groups, 9\]"):
        augment(batch, None, draws[:, :8])
