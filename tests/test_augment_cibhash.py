"""The parts of CIBHash's views against their formulas for each image, and how often they happen."""

import colorsys
import math
from collections import Counter

import pytest
import torch

from hashfast.augment import build_augmentation, cibhash
from hashfast.augment.cibhash import ContrastiveViews, blend, blur, draw_crops, resample, turn_hue

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = (0.299, 0.587, 0.114)


def images(n, shape, seed=3):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_scale_multiplies_every_probability(channels, scale):
    n = 3000
    batch = images(n, (channels, 6, 6))
    views = build_augmentation("cibhash", (channels, 6, 6), scale)(batch)
    same = (views == batch).flatten(1).all(1).double().mean().item()
    expected = 1.0
    for p in (1.0, 0.5, 0.7, 0.2, 0.5) if channels == 3 else (1.0, 0.5, 0.7, 0.5):
        expected *= 1 - scale * p
    # A crop of the whole image, 3 % of all at this size, is no change either.
    slack = 5 * (0.25 / n) ** 0.5 + 0.05 * scale * expected / max(1 - scale, 0.1)
    assert abs(same - expected) < slack


def test_greyscale_happens_to_a_fifth_and_keeps_the_luminance():
    batch = images(2000, (3, 2, 2))
    views = build_augmentation("cibhash", (3, 2, 2))(batch)
    grey = ((views - views[:, :1]).abs() < 1e-6).flatten(1).all(1).double().mean().item()
    assert abs(grey - 0.2) < 5 * (0.16 / 2000) ** 0.5
    coloured = torch.tensor([0.9, 0.2, 0.4]).view(1, 3, 1, 1).expand(2000, 3, 2, 2)
    augment = build_augmentation("cibhash", (3, 2, 2))
    augment.steps._jittered = lambda x: x  # crop, flip and blur keep a flat image
    views = augment(coloured)[:, :, 0, 0]
    level = sum(w * x for w, x in zip(WEIGHTS, (0.9, 0.2, 0.4), strict=True))
    is_grey = (views[:, 0] - level).abs() < 1e-6
    assert torch.allclose(views[is_grey], torch.full((3,), level), atol=1e-6)
    assert torch.allclose(views[~is_grey], coloured[0, :, 0, 0], atol=1e-6)
    assert 300 < is_grey.sum() < 500


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 20), (9, 40), (1, 1)])
def test_crops_lie_everywhere_inside_the_image(height, width):
    rows, columns = draw_crops(4000, height, width, 1.0)
    assert rows.shape == (4000, height)
    assert columns.shape == (4000, width)
    for places, size in ((rows, height), (columns, width)):
        assert places.min() == 0
        assert places.max() == size - 1
        assert (places.diff(dim=1) >= 0).all()
        assert (places.diff(dim=1) <= 1 + 1e-5).all()  # never fewer pixels than it makes


def test_crops_have_the_published_areas_and_shapes():
    rows, columns = draw_crops(4000, 300, 300, 1.0)
    # The outermost pixels of a view are those of its window.
    high, wide = (x[:, -1] - x[:, 0] + 1 for x in (rows, columns))
    area, ratio = high * wide / 300**2, wide / high
    assert 0.495 < area.min() < 0.51
    assert 0.97 < area.max() <= 1
    # A window of area A in [1/2, 1] fits with probability min(1, log A / log(3/4)).
    assert abs(area.mean() - 0.692) < 5 * 0.13 / 4000**0.5
    assert 0.74 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.35
    assert abs(ratio.log().mean()) < 5 * 0.16 / 4000**0.5


def test_a_crop_is_resized_as_an_image_of_its_own():
    batch = images(6, (3, 12, 10))
    torch.manual_seed(4)
    rows, columns = draw_crops(6, 12, 10, 1.0)
    views = resample(batch, rows, columns)
    for image, view, y, x in zip(batch, views, rows, columns, strict=True):
        top, left = int(y[0]), int(x[0])
        part = image[None, :, top : int(y[-1]) + 1, left : int(x[-1]) + 1]
        expected = torch.nn.functional.interpolate(part, (12, 10), mode="bilinear")[0]
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_half_of_the_images_are_flipped():
    ramp = torch.linspace(0, 1, 16).expand(1000, 1, 16, 16)
    augment = build_augmentation("cibhash", (1, 16, 16))
    views = augment(ramp)[:, 0, 8]
    flipped = (views[:, 0] > views[:, -1]).double().mean().item()
    assert abs(flipped - 0.5) < 5 * (0.25 / 1000) ** 0.5


def luminance(pixel):
    return sum(w * x for w, x in zip(WEIGHTS, pixel, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_blends(channels):
    batch = images(6, (channels, 3, 2)).double()
    factor = torch.tensor([0.6, 1.4, 0.7, 1.3, 0.6, 1.4], dtype=torch.float64)
    kind = torch.tensor([0, 0, 1, 1, 2, 2])
    found = blend(batch, factor, kind)
    for image, view, f, k in zip(batch, found, factor.tolist(), kind.tolist(), strict=True):
        pixels = image.flatten(1).T.tolist()
        grey = [p[0] if channels == 1 else luminance(p) for p in pixels]
        for pixel, result, level in zip(pixels, view.flatten(1).T.tolist(), grey, strict=True):
            other = (0, sum(grey) / len(grey), level)[k]
            expected = [min(max(f * x + (1 - f) * other, 0), 1) for x in pixel]
            assert result == pytest.approx(expected, abs=1e-12)
    assert torch.equal(blend(batch, torch.ones(6).double(), kind), batch)


def test_hue_is_turned_as_in_hsv():
    batch = images(40, (3, 2, 2)).double()
    batch[0] = 0.3  # grey
    batch[1] = 0
    batch[2] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    batch[3] = torch.tensor([0.5, 0.5, 0.1]).view(3, 1, 1)  # two channels are the largest
    turns = torch.linspace(-0.1, 0.1, 40).double()
    for image, view, turn in zip(batch, turn_hue(batch, turns), turns.tolist(), strict=True):
        for pixel, found in zip(image.flatten(1).T, view.flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 1, 6), (3, 2, 1), (1, 1, 1)])
def test_blur_is_a_gaussian_of_three_pixels(shape):
    batch = images(3, shape).double()
    neighbour = torch.tensor([0.0, 0.3, math.exp(-0.5 / 4)]).double()
    found = blur(batch, neighbour)
    _, height, width = shape

    def mirrored(i, size):
        return min(abs(i), size - 1) if i < size else max(2 * size - 2 - i, 0)

    for image, view, w in zip(batch, found, neighbour.tolist(), strict=True):
        kernel = [w / (1 + 2 * w), 1 / (1 + 2 * w), w / (1 + 2 * w)]
        for channel, result in zip(image, view, strict=True):
            for y in range(height):
                for x in range(width):
                    expected = sum(
                        kernel[dy + 1]
                        * kernel[dx + 1]
                        * channel[mirrored(y + dy, height), mirrored(x + dx, width)].item()
                        for dy in (-1, 0, 1)
                        for dx in (-1, 0, 1)
                    )
                    assert result[y, x].item() == pytest.approx(expected, abs=1e-12)


def test_colours_change_by_the_published_strengths():
    colour = (0.3, 0.5, 0.4)
    flat = torch.tensor(colour).view(1, 3, 1, 1).expand(3000, 3, 2, 2)
    torch.manual_seed(1)
    views = ContrastiveViews(1.0)._jittered(flat)[:, :, 0, 0]
    unchanged = (views - torch.tensor(colour)).abs().amax(1) < 1e-6
    assert abs(unchanged.double().mean().item() - 0.3) < 5 * (0.21 / 3000) ** 0.5
    # Value: only brightness scales a flat image's mean, by 0.6 to 1.4.
    level = (views * torch.tensor(WEIGHTS)).sum(1) / luminance(colour)
    assert 0.5 < level.min() < 0.65
    assert 1.35 < level.max() < 1.5
    hue, spread = [], []
    for pixel in views[~unchanged].tolist():
        h, s, _ = colorsys.rgb_to_hsv(*pixel)
        hue.append(h - colorsys.rgb_to_hsv(*colour)[0])
        spread.append(s)
    assert -0.101 < min(hue) < -0.095
    assert 0.095 < max(hue) < 0.101
    # On a flat image contrast acts as saturation does, so that their factors multiply.
    assert 0.95 * saturated(colour, 0.36) < min(spread) < 1.2 * saturated(colour, 0.36)
    assert 0.8 * saturated(colour, 1.96) < max(spread) < 1.05 * saturated(colour, 1.96)


def saturated(colour, factor):
    """Saturation, in HSV, of factor x + (1 - factor) luminance."""
    gap = factor * (max(colour) - min(colour))
    return gap / (factor * max(colour) + (1 - factor) * luminance(colour))


def test_every_order_of_the_colours_is_as_frequent(monkeypatch):
    n, done = 4800, [[] for _ in range(4800)]

    def blended(images, factor, kind):
        for i in range(n):
            done[i].append(kind[i].item())
        return images

    def turned(images, turns):
        for i in images[:, 0, 0, 0].long().tolist():
            done[i].append(3)
        return images

    monkeypatch.setattr(cibhash, "blend", blended)
    monkeypatch.setattr(cibhash, "turn_hue", turned)
    numbered = torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 3, 1, 1)
    ContrastiveViews(1.0)._jittered(numbered)
    orders = Counter(tuple(order) for order in done if 3 in order)
    assert len(orders) == 24
    expected = 0.7 * n / 24
    assert all(abs(count - expected) < 5 * expected**0.5 for count in orders.values())


def test_white_and_black_stay_in_range():
    for value in (0.0, 1.0):
        views = build_augmentation("cibhash", (3, 9, 9))(torch.full((300, 3, 9, 9), value))
        assert views.min() >= 0
        assert views.max() <= 1


def test_one_channel_changes_brightness_and_contrast_only():
    flat = torch.full((1000, 1, 4, 4), 0.5)
    levels = build_augmentation("cibhash", (1, 4, 4))(flat).flatten(1)
    assert (levels.amax(1) - levels.amin(1)).max() < 1e-6
    assert abs(((levels[:, 0] - 0.5).abs() > 1e-6).double().mean() - 0.7) < 0.08
    assert 0.3 <= levels.min() < 0.31
    assert 0.69 < levels.max() <= 0.7 + 1e-6
