"""Deformations against literal loops and known answers."""

import math

import pytest
import torch

from hashfast.augment import DEFORMATIONS, deform, deformations

NAMES = ["cutout", "dropout", "zoom-in", "zoom-out", "rotation", "shearing", "gaussian-noise"]
DRAWS_NOTHING = {"zoom-in", "zoom-out"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=3, shape=(3, 12, 8)):
    return torch.rand(n, *shape, generator=seeded(5))


def moved(image, matrix):
    """Bilinear sampling, one pixel at a time: where does the pixel (row, column) come from?"""
    height, width = image.shape[1:]
    (a, b), (c, d) = torch.tensor(matrix, dtype=torch.float64).inverse().tolist()
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            from_x = a * x + b * y + (width - 1) / 2
            from_y = c * x + d * y + (height - 1) / 2
            for r in (math.floor(from_y), math.floor(from_y) + 1):
                for s in (math.floor(from_x), math.floor(from_x) + 1):
                    if 0 <= r < height and 0 <= s < width:
                        weight = (1 - abs(r - from_y)) * (1 - abs(s - from_x))
                        result[:, row, column] += weight * image[:, r, s]
    return result


def test_names():
    assert list(DEFORMATIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_any_dtype_seeded_and_the_input_untouched(name):
    batch = images()
    before = batch.clone()
    result = deform(batch, name, seeded(1))
    assert result.shape == batch.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(batch, before)
    assert torch.equal(deform(batch, name, seeded(1)), result)
    assert torch.equal(deform(batch, name, seeded(2)), result) == (name in DRAWS_NOTHING)
    assert torch.equal(deform(batch.flip(3).contiguous().flip(3), name, seeded(1)), result)
    assert deform(batch[:0], name, seeded()).shape == (0, 3, 12, 8)
    assert deform(batch[:, :1], name, seeded()).shape == (3, 1, 12, 8)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        half = deform(batch.to(dtype), name, seeded(1))
        assert half.dtype == dtype
        torch.testing.assert_close(half, result.to(dtype), rtol=0, atol=0.02)
    pixels = (batch * 255).round().to(torch.uint8)
    expected = (deform(pixels / 255, name, seeded(1)) * 255).round()
    assert torch.equal(deform(pixels, name, seeded(1)), expected.to(torch.uint8))


@pytest.mark.parametrize("name", sorted(set(NAMES) - DRAWS_NOTHING))
def test_each_image_has_its_own_draw(name):
    same = images(1, (1, 30, 30)).expand(20, -1, -1, -1)
    result = deform(same, name, seeded())
    assert len(torch.unique(result.flatten(1), dim=0)) > 15  # few pixels dropped may agree


def test_a_quarter_turn_of_an_l_is_clockwise():
    shape = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 1, 0]])[None, None]
    turned = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])[None, None]
    result = deformations._affine(shape, deformations._rotation(torch.tensor([90.0])))
    torch.testing.assert_close(result, turned, atol=1e-6, rtol=0)


def test_a_shear_moves_rows_sideways():
    square = torch.zeros(1, 1, 5, 5)
    square[..., 1:4, 2] = 1
    result = deformations._affine(square, deformations._shear(torch.tensor([45.0])))
    torch.testing.assert_close(result[0, 0, 1:4, 1:4], torch.eye(3), atol=1e-6, rtol=0)
    assert abs(result.sum() - 3) < 1e-5


def test_rotation_and_shearing_by_the_drawn_angles():
    batch = images(4)
    angles = (-30 + 60 * torch.rand(4, generator=seeded(7))).tolist()
    assert max(angles) - min(angles) > 10
    rotated, sheared = deform(batch, "rotation", seeded(7)), deform(batch, "shearing", seeded(7))
    for i, angle in enumerate(math.radians(angle) for angle in angles):
        cos, sin = math.cos(angle), math.sin(angle)
        torch.testing.assert_close(
            rotated[i], moved(batch[i], [[cos, -sin], [sin, cos]]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            sheared[i], moved(batch[i], [[1, math.tan(angle)], [0, 1]]), atol=1e-5, rtol=0
        )


def test_angles_fill_their_range():
    draws = deformations._uniform(-30, 30, (2000,), seeded())
    assert -30 <= draws.min() < -29
    assert 29 < draws.max() < 30


def test_zoom_out_leaves_a_border():
    batch = images()
    result = deform(batch, "zoom-out", seeded())
    middle = batch.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))  # 2 x 2 pixels become one
    torch.testing.assert_close(result[:, :, 3:9, 2:6], middle)
    result[:, :, 3:9, 2:6] = 0
    assert (result == 0).all()


def test_zoom_in_shows_the_middle_half():
    batch = images(2, (1, 4, 4))
    result = deform(batch, "zoom-in", seeded())
    for i in range(2):
        torch.testing.assert_close(result[i], moved(batch[i], [[2.0, 0], [0, 2]]))
    # The border of the frame shows pixels 1 and 2, a quarter of their neighbours mixed in.
    corner = (0.75 * batch[0, 0, 1] + 0.25 * batch[0, 0, 0]) @ torch.tensor([0.25, 0.75, 0, 0])
    torch.testing.assert_close(result[0, 0, 0, 0], corner)


def test_cutout_hides_two_squares_of_a_fifth():
    result = deform(torch.zeros(3000, 3, 20, 40, dtype=torch.uint8), "cutout", seeded())
    assert set(result.unique().tolist()) == {0, 128}
    assert (result == result[:, :1]).all()
    hidden = result[:, 0] > 0
    area = hidden.sum((1, 2))
    # 4 x 4 each; less where they overlap or are cut at the border.
    assert area.max() == 32
    assert area.min() >= 4
    assert hidden.any(2).sum(1).max() == 8
    assert hidden.any(1).sum(1).max() == 8
    # A pixel amid the image is hidden by a square with probability 16 / 800, twice.
    assert abs(hidden[:, 8:12, 10:30].float().mean() - 0.04) < 0.005
    assert hidden[:, 0, 0].any()


def test_dropout_blackens_up_to_a_hundredth():
    result = deform(torch.ones(200, 3, 100, 100), "dropout", seeded())
    assert set(result.unique().tolist()) == {0.0, 1.0}
    assert (result == result[:, :1]).all()
    rates = (result[:, 0] == 0).float().mean((1, 2))
    assert abs(rates.mean() - 0.005) < 0.001
    assert rates.max() < 0.013
    assert rates.std() > 0.002  # one rate for all would give 0.0007


def test_gaussian_noise_has_a_deviation_of_each_image():
    grey = torch.full((200, 3, 50, 50), 0.5)
    noise = deform(grey, "gaussian-noise", seeded()) - grey
    assert (noise == noise[:, :1]).all()
    deviations = noise[:, 0].flatten(1).std(1)
    assert abs(deviations.mean() - 0.05) < 0.01
    assert deviations.min() < 0.005
    assert 0.095 < deviations.max() < 0.105
    assert noise[:, 0].mean((1, 2)).abs().max() < 5 * 0.1 / 50


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'zoom' is unknown; choose from cutout, dropout, zoom-in"):
        deform(images(), "zoom", seeded())
    with pytest.raises(ValueError, match=r"shape \[3, 12, 8\]; expected \[n, C, H, W\]"):
        deform(images()[0], "cutout", seeded())
    with pytest.raises(ValueError, match="C = 1 or 3"):
        deform(torch.zeros(2, 4, 8, 8), "cutout", seeded())
    with pytest.raises(TypeError, match="images are int32"):
        deform(torch.zeros(2, 3, 8, 8, dtype=torch.int32), "cutout", seeded())
