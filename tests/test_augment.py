"""Training views: the draws are each image's own, seeded, and happen as often as they should."""

import sys

import pytest
import torch

from hashfast.augment import AUGMENTATIONS, build_augmentation

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 20), (3, 224, 224)]


UNCLAMPED = ("dsa", "idc")


def images(n, shape, dtype=torch.uint8):
    values = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(3))
    return values.to(torch.uint8) if dtype == torch.uint8 else (values / 255).to(dtype)


def build(name, shape, scale=1.0):
    if name == "dhd":
        pytest.importorskip("kornia")
    return build_augmentation(name, shape, scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_are_float32_in_the_unit_range_and_seeded(name, shape):
    augment, batch = build(name, shape), images(3, shape)
    before = batch.clone()
    torch.manual_seed(0)
    first, second = augment(batch), augment(batch)
    torch.manual_seed(0)
    again = augment(batch)
    assert first.shape == batch.shape
    assert first.dtype == torch.float32
    if name not in UNCLAMPED:
        assert first.min() >= 0
        assert first.max() <= 1
    assert torch.equal(first, again)
    assert torch.equal(first, second) == (name == "none")
    assert torch.equal(batch, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_floating_point_images_give_the_views_of_their_values(name, dtype):
    augment, batch = build(name, (3, 8, 8)), images(4, (3, 8, 8), dtype)
    before = batch.clone()
    torch.manual_seed(0)
    views = augment(batch)
    torch.manual_seed(0)
    assert views.dtype == torch.float32
    assert torch.equal(views, augment(batch.float()))
    assert torch.equal(batch, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_has_its_own_draws(name):
    same = images(1, (3, 16, 16)).expand(64, -1, -1, -1)  # not contiguous either
    torch.manual_seed(0)
    views = build(name, (3, 16, 16))(same)
    distinct = len(torch.unique(views.flatten(1), dim=0))
    assert distinct == 1 if name == "none" else distinct > 5


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_scale_zero_and_no_images(name):
    batch = images(5, (3, 8, 8))
    augment = build(name, (3, 8, 8), scale=0.0)
    assert torch.equal(augment(batch), batch / 255)
    assert build(name, (3, 8, 8))(batch[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_autocast_and_gradients_stay_out(name):
    augment, batch = build(name, (3, 8, 8)), images(4, (3, 8, 8), torch.float32)
    torch.manual_seed(0)
    views = augment(batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(batch.requires_grad_()), views)
    assert not augment(batch).requires_grad


def crops(image, border_y, border_x):
    """Every crop of the zero-padded image, plain and flipped, by its offset and flip."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * border_y, width + 2 * border_x)
    padded[:, border_y : border_y + height, border_x : border_x + width] = image
    for y in range(2 * border_y + 1):
        for x in range(2 * border_x + 1):
            crop = padded[:, y : y + height, x : x + width]
            yield (y, x, False), crop
            yield (y, x, True), crop.flip(2)


def test_standard_draws_all_crops_and_flips():
    shape = (3, 16, 8)  # borders 2 and 1: 15 crops, plain or flipped
    image = images(1, shape)
    views = build_augmentation("standard", shape)(image.expand(900, -1, -1, -1))
    found = {key: 0 for key, _ in crops(image[0] / 255, 2, 1)}
    for view in views:
        (key,) = (key for key, crop in crops(image[0] / 255, 2, 1) if torch.equal(crop, view))
        found[key] += 1
    assert len(found) == 30
    assert all(10 <= count <= 55 for count in found.values())  # 30 each, 5 deviations


def test_standard_scale_multiplies_both_probabilities():
    shape = (1, 8, 8)
    image = images(1, shape)
    views = build_augmentation("standard", shape, 0.4)(image.expand(4000, -1, -1, -1))
    identical = (views == image / 255).flatten(1).all(1).float().mean()
    # Not flipped, and either not cropped or one crop of nine.
    assert abs(identical - 0.8 * (0.6 + 0.4 / 9)) < 5 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize(("channels", "scale"), [(3, 0.2), (3, 0.5), (1, 0.5)])
def test_dhd_scale_multiplies_every_probability(channels, scale):
    shape, n = (channels, 8, 8), 2000
    batch = images(n, shape)
    views = build("dhd", shape, scale)(batch)
    identical = (views == batch / 255).flatten(1).all(1).float().mean()
    expected = 1.0
    for p in (1.0, 0.5, 0.8, 0.2, 0.5) if channels == 3 else (1.0, 0.5, 0.8, 0.5):
        expected *= 1 - scale * p
    # One batch: a draw for all its images at once would be far off.
    assert abs(identical - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


@pytest.mark.parametrize("name", UNCLAMPED)
def test_the_scale_of_condensation_views_is_the_share_of_images_touched(name):
    shape, n = (3, 16, 16), 1000
    batch = images(n, shape)
    torch.manual_seed(0)
    views = build_augmentation(name, shape, 0.3)(batch)
    touched = (views != batch / 255).flatten(1).any(1).float().mean()
    assert abs(touched - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5


def test_idc_views_are_brighter_cropped_and_have_a_hole():
    flat = torch.full((200, 3, 16, 16), 0.5)
    views = build_augmentation("idc", (3, 16, 16))(flat)
    # A value for all that is neither border nor hole: 0.5 + U(-0.5, 0.5).
    middle = views.flatten(1).max(1)[0]
    assert (views - middle[:, None, None, None] * (views != 0)).abs().max() < 1e-6
    assert middle.max() > 0.9
    assert 0 < middle.min() < 0.1
    hidden = (views == 0).all(1).float().mean((1, 2))
    assert hidden.min() >= 1 / 16  # a corner of the hole of 8 x 8 pixels, 4 x 4
    assert hidden.max() <= (64 + 60) / 256  # all of the hole, two rows and columns of border


def test_dsa_views_of_a_batch_have_one_operation():
    # Color gives an image another value everywhere; no other part does.
    flat = torch.full((50, 1, 16, 16), 0.5)
    augment, kinds = build_augmentation("dsa", (1, 16, 16)), set()
    for _ in range(60):
        views = augment(flat).flatten(1)
        coloured = (views.max(1)[0] - views.min(1)[0] < 1e-6) & (views[:, 0] - 0.5).abs().gt(1e-6)
        assert coloured.all() or not coloured.any()
        kinds.add(bool(coloured.all()))
    assert kinds == {False, True}


def test_dhd_turns_a_fifth_grey():
    views = build("dhd", (3, 8, 8))(images(1000, (3, 8, 8)))
    grey = ((views - views[:, :1]).abs() < 1e-6).flatten(1).all(1).float().mean()
    assert 0.14 < grey < 0.26


def test_dhd_on_one_channel_changes_brightness_and_contrast():
    flat = torch.full((500, 1, 8, 8), 0.5)  # crop, flip and blur keep it
    levels = build("dhd", (1, 8, 8))(flat).flatten(1)
    assert (levels.max(1)[0] - levels.min(1)[0]).max() < 1e-6
    changed = ((levels[:, 0] - 0.5).abs() > 1e-4).float().mean()
    assert 0.7 < changed < 0.9
    # (0.5 +- 0.4) * (1 +- 0.8) in either order, clipped.
    assert levels.min() < 0.1
    assert levels.max() > 0.9


def test_dhd_keeps_white_white():
    white = build("dhd", (3, 64, 64), scale=0.99)(torch.ones(200, 3, 64, 64))
    assert white.max() == 1


def test_dhd_crops_enlarge_a_part():
    ramp = torch.linspace(0, 1, 16).expand(300, 1, 16, 16)
    crop = build("dhd", (1, 16, 16)).steps[0]  # the resized crop alone
    views = crop(ramp)
    spread = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    # Sides from sqrt(0.08 * 3/4) to 1 of the image; bilinear, so still ramps.
    assert 0.1 < spread.min() < 0.35
    assert spread.max() > 0.9
    steps = views[:, 0, 0].diff(dim=1)
    assert (steps - steps.mean(1, keepdim=True)).abs().max() < 1e-5


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'strong' is unknown; choose from none, standard, dhd, "):
        build_augmentation("strong", (3, 8, 8))
    for shape in ((8, 8), (4, 8, 8), (3, 0, 8)):
        with pytest.raises(ValueError, match=r"expected \(C, H, W\)"):
            build_augmentation("none", shape)
    for scale in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            build_augmentation("standard", (3, 8, 8), scale)
    augment = build_augmentation("none", (3, 8, 8))
    for shape in ((2, 1, 8, 8), (3, 8, 8), (2, 3, 8, 9)):
        with pytest.raises(ValueError, match=r"built for \[n, 3, 8, 8\]"):
            augment(torch.zeros(shape))
    with pytest.raises(TypeError, match="images are int64; expected uint8"):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.int64))


def test_missing_kornia_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r'pip install "hashfast\[train\]"'):
        build_augmentation("dhd", (3, 8, 8))
    build_augmentation("standard", (3, 8, 8))
