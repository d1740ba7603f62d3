"""Any picture to one uint8 tensor: every kind of file, damaged ones, arrays."""

import os
import warnings

import numpy as np
import pytest
import torch
from data_examples import halves
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashfast.data import UnreadableImage, to_image

pytestmark = pytest.mark.filterwarnings("error")


MESSY = {
    "rgba.png": lambda: Image.new("RGBA", (50, 40), (255, 0, 0, 0)),
    "palette.png": lambda: Image.new("RGB", (50, 40), "white").convert("P"),
    "cmyk.jpg": lambda: Image.new("CMYK", (50, 40), (0, 0, 0, 0)),
    "deep.png": lambda: Image.fromarray(np.full((40, 50), 65535, np.uint16)),
    "deep.tif": lambda: Image.fromarray(np.full((40, 50), 65535, np.int32)),
    "grey_alpha.png": lambda: Image.new("LA", (50, 40), (255, 255)),
    "lab.tif": lambda: Image.new("RGB", (50, 40), "white").convert("LAB"),
    "bits.png": lambda: Image.new("1", (50, 40), 1),
    "strip.png": lambda: Image.new("RGB", (3000, 1), "white"),
}


@pytest.mark.parametrize("name", MESSY)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_picture_becomes_the_same_white_square(tmp_path, name, channels):
    path = tmp_path / name
    MESSY[name]().save(path)
    image = to_image(path, 16, channels)
    assert image.shape == (channels, 16, 16)
    assert image.dtype == torch.uint8
    assert image.min() >= 254  # LAB rounds
    with Image.open(path) as opened:
        assert torch.equal(to_image(opened, 16, channels), image)


def test_palette_transparency_is_laid_over_white(tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "hole.png", transparency=1)
    image.save(tmp_path / "full.png")
    assert to_image(tmp_path / "hole.png", 8).unique().tolist() == [255]
    assert to_image(tmp_path / "full.png", 8)[:, 0, 0].tolist() == [10, 20, 30]


def test_deep_grey_keeps_its_levels(tmp_path):
    levels = np.arange(256, dtype=np.uint16) * 257
    Image.fromarray(levels.reshape(16, 16)).save(tmp_path / "ramp.png")
    with Image.open(tmp_path / "ramp.png") as opened:
        assert opened.mode == "I;16"
    assert to_image(tmp_path / "ramp.png", 16, 1).flatten().tolist() == list(range(256))
    floats = Image.fromarray(np.array([[-1.0, 0.0], [0.0, 1.0]], np.float32))
    assert to_image(floats, None, 1).flatten().tolist() == [0, 128, 128, 255]
    assert to_image(Image.new("L", (2, 2), 200).convert("I"), None, 1).unique().tolist() == [200]


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert to_image(tmp_path / "a.gif", 8)[:, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    from PIL import ImageOps

    image = halves(64, 64)
    image.paste("lime", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.tif", "a.png"):
        image.save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as opened:
            upright = np.asarray(ImageOps.exif_transpose(opened)).astype(int)
        seen = to_image(tmp_path / name, 64).permute(1, 2, 0).numpy()
        assert np.abs(seen - upright).max() == 0, name


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (20, 20), "white").save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    warnings.simplefilter("ignore")  # Pillow says that the block is damaged
    assert to_image(path, 8).min() > 250


def test_the_picture_covers_the_square_and_its_centre_is_kept():
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste("white", (20, 0, 40, 20))
    assert to_image(wide, 20).min() == 255
    assert to_image(wide, 10).min() == 255
    assert to_image(wide.transpose(Image.Transpose.ROTATE_90), 20).min() == 255
    assert to_image(wide, None).shape == (3, 20, 60)


def test_large_jpegs_are_decoded_small_without_harm(tmp_path):
    ramp = np.linspace(0, 255, 1600 * 1200).reshape(1200, 1600).astype(np.uint8)
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        whole = to_image(opened, 64)
    small = to_image(tmp_path / "a.jpg", 64)
    assert (small.int() - whole.int()).abs().max() <= 2


def test_arrays_and_tensors():
    image = halves(8, 8)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(to_image(array, 8), tensor)
    assert torch.equal(to_image(tensor, 8), tensor)
    assert torch.equal(to_image(tensor.float() / 255, 8), tensor)
    assert torch.equal(to_image(tensor, 4), to_image(image, 4))
    assert to_image(array[..., 0], 8, 3).shape == (3, 8, 8)
    assert to_image(tensor, 8, 1).shape == (1, 8, 8)
    array.setflags(write=False)
    to_image(array, 8).zero_()
    assert array.any()


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (torch.full((3, 4, 4), 2.0), ValueError, r"outside \[0, 1\]; pass it before normalisation"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "dtype int64; expected uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), ValueError, r"shape \[2, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "no pixels"),
        (7, TypeError, "got int"),
    ],
)
def test_bad_arrays_are_named(picture, error, message):
    with pytest.raises(error, match=message):
        to_image(picture, 4)


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="channels=4; expected 1"):
        to_image(halves(), 8, 4)
    with pytest.raises(ValueError, match="image_size=0"):
        to_image(halves(), 0)


def unreadable(path):
    with pytest.raises(UnreadableImage) as caught:
        to_image(path, 8)
    assert caught.value.path == os.fspath(path)
    assert os.fspath(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
def test_truncated_files_are_unreadable(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "cannot be read (" in unreadable(path)


def test_other_files_are_unreadable(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    assert "the file is empty (0 bytes)" in unreadable(tmp_path / "empty.jpg")
    assert "not a picture that Pillow can read" in unreadable(tmp_path / "text.jpg")
    assert "No such file" in unreadable(tmp_path / "missing.jpg")
    assert "Is a directory" in unreadable(tmp_path)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    Image.new("1", (200, 200)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15000)
    message = unreadable(tmp_path / "a.png")
    assert "too large, refused" in message
    assert "40000 pixels" in message
    assert "MAX_IMAGE_PIXELS" in message


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]))
def test_no_bytes_raise_anything_else(tmp_path_factory, content, magic):
    path = tmp_path_factory.mktemp("junk", numbered=True) / "a.png"
    path.write_bytes(magic + content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = to_image(path, 8)
        except UnreadableImage as error:
            assert error.path == str(path)  # noqa: PT017
        else:
            assert image.shape == (3, 8, 8)
