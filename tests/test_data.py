"""Datasets, protocols and decoding: real digits and Fashion-MNIST, and files made on the spot."""

import os
import pickle
import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from hashfast import data
from hashfast.data import (
    PROTOCOLS,
    ArrayDataset,
    FileDataset,
    UnreadableImage,
    check_labels,
    load,
    load_folder,
    pools,
    read_list,
    split_rows,
    to_image,
    wrap,
)


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sizes(splits):
    return len(splits.query), len(splits.train), len(splits.database)


def halves(width=60, height=40, left=(255, 0, 0), right=(0, 0, 255)):
    """A picture of two colours, side by side."""
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


# Labels


def test_labels_come_back_as_the_losses_take_them():
    assert check_labels([0, 2, 1], 3).dtype == torch.int64
    assert check_labels(np.array([0, 2], np.uint8), 3).tolist() == [0, 2]
    multi_hot = check_labels(torch.tensor([[True, False], [False, False]]), 2)
    assert multi_hot.dtype == torch.float32
    assert multi_hot.tolist() == [[1, 0], [0, 0]]
    assert check_labels([], 3).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 3], ValueError, r"0 to 3, 3 at row 1; num_classes=3 expects ids 0 to 2: renumber"),
        ([0, -1], ValueError, r"class ids -1 to 0, -1 at row 1"),
        ([1, 2, 3], ValueError, r"class ids 1 to 3, 3 at row 2; .* start at 1, subtract 1"),
        ([0.0, 1.0], TypeError, r"float32 of shape \[2\]; class ids are integers: convert"),
        ([True, False], TypeError, r"labels are bool"),
        ([[0], [1]], ValueError, r"shape \[2, 1\].*use labels.flatten\(\)"),
        (7, ValueError, r"shape \[\]"),
        ([[0, 1]], ValueError, r"shape \[1, 2\]; .* multi-hot \[n, num_classes=3\]"),
        ([[0, 1, 2]], ValueError, r"must be 0 or 1; got 2 at row 0, class 2"),
        ([[0, float("nan"), 1]], ValueError, r"got nan at row 0, class 1"),
    ],
)
def test_bad_labels_are_named(labels, error, message):
    with pytest.raises(error, match=message):
        check_labels(torch.tensor(labels), 3)


# Pictures


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


# Datasets


def test_arrays_are_fetched_in_batches():
    images = torch.randint(0, 256, (10, 3, 6, 6), dtype=torch.uint8)
    dataset = ArrayDataset(images, torch.arange(10))
    image, label, index = dataset[-1]
    assert torch.equal(image, images[9])
    assert (label, index) == (9, 9)
    assert type(label) is int
    assert len(list(dataset)) == 10
    for batch in (next(iter(DataLoader(dataset, batch_size=4))), dataset.batch([0, 1, 2, 3])):
        assert torch.equal(batch[0], images[:4])
        assert batch[1].tolist() == batch[2].tolist() == [0, 1, 2, 3]
    subset = dataset.subset([5, 2])
    assert subset.labels.tolist() == [5, 2]
    assert subset[1][2] == 1
    with pytest.raises(IndexError):
        dataset[10]


def test_multi_hot_and_missing_labels():
    images = np.zeros((3, 1, 4, 4), np.uint8)
    multi_hot = ArrayDataset(images, [[0, 1], [1, 1], [0, 0]])
    assert multi_hot[1][1].dtype == torch.float32
    assert next(iter(DataLoader(multi_hot, batch_size=3)))[1].tolist() == [[0, 1], [1, 1], [0, 0]]
    assert [label for _, label, _ in ArrayDataset(images)] == [-1, -1, -1]


def test_arrays_are_scaled_as_pictures_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30), np.uint8)
    dataset = ArrayDataset(pixels, [0, 1], image_size=12)
    assert dataset.image_shape == (3, 12, 12)
    assert dataset.images.shape == (2, 3, 20, 30)
    for image, _, index in dataset:
        pillow = to_image(torch.from_numpy(pixels[index]), 12)
        assert image.dtype == torch.uint8
        assert (image.int() - pillow.int()).abs().max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_arrays_live_on_the_gpu():
    images = torch.randint(0, 256, (8, 3, 20, 20), dtype=torch.uint8)
    host = ArrayDataset(images, torch.arange(8), image_size=16)
    device = host.to("cuda")
    got, want = device.batch(torch.tensor([3, 1])), host.batch([3, 1])
    assert all(value.is_cuda for value in got)
    assert (got[0].cpu().int() - want[0].int()).abs().max() <= 1
    assert got[1].tolist() == want[1].tolist()


def test_bad_arrays_for_a_dataset():
    with pytest.raises(TypeError, match="images have dtype float32; expected uint8"):
        ArrayDataset(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"images have shape \[2, 4, 4\]"):
        ArrayDataset(torch.zeros(2, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="2 images but 3 labels"):
        ArrayDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1, 2])


@pytest.fixture
def pictures(tmp_path):
    """Two classes of three pictures; also an empty class, hidden files and a loose picture."""
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / name / "deep").mkdir(parents=True)
        for file in ("1.PNG", "2.jpg", "deep/3.png"):
            Image.new("RGB", (12, 10), colour).save(tmp_path / name / file)
        (tmp_path / name / "notes.txt").write_text("not a picture")
        (tmp_path / name / "._1.png").write_text("what macOS leaves behind")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".git").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "loose.png")
    return tmp_path


def test_class_folders(pictures):
    dataset = FileDataset.from_classes(pictures, image_size=8)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.files == [
        f"{name}/{file}" for name in ("cat", "dog") for file in ("1.PNG", "2.jpg", "deep/3.png")
    ]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    image, label, index = dataset[3]
    assert image[:, 4, 4].tolist() == [0, 0, 255]
    assert (label, index) == (1, 3)
    images, labels, indices = dataset.batch([5, 0])
    assert images.shape == (2, 3, 8, 8)
    assert labels.tolist() == [1, 0]
    assert indices.tolist() == [5, 0]


def test_plain_folders(pictures):
    dataset = FileDataset.from_folder(pictures, image_size=8, channels=1)
    assert len(dataset) == 7
    assert "loose.png" in dataset.files
    assert dataset[0][0].shape == (1, 8, 8)
    assert {label for _, label, _ in dataset} == {-1}


def test_an_unreadable_file_is_named_wherever_it_is_read(pictures):
    (pictures / "cat" / "0.png").touch()
    dataset = FileDataset.from_classes(pictures, image_size=8)
    assert dataset.path(0) == str(pictures / "cat" / "0.png")
    with pytest.raises(UnreadableImage, match=r"cat/0.png: the file is empty") as caught:
        dataset.batch([1, 0])
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.path == dataset.path(0)
    # A DataLoader rebuilds the exception of a worker from its message alone.
    assert str(type(error)(str(error))) == str(error)


def test_folders_without_pictures_say_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*: looked for .*\.jpg"):
        FileDataset.from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no class folders in .*<class>/.*fit_projection"):
        FileDataset.from_classes(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        FileDataset.from_folder(tmp_path / "nowhere")


class Pairs(torch.utils.data.Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_any_dataset_can_be_wrapped():
    grey = torch.rand(1, 9, 7)
    dataset = wrap(Pairs((halves(), 1), (grey, torch.tensor(2)), (halves(), 0, "x")), 8, 3, 3)
    assert [label for _, label, _ in dataset] == [1, 2, 0]
    images, labels, indices = next(iter(DataLoader(dataset, batch_size=3)))
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [1, 2, 0]
    assert indices.tolist() == [0, 1, 2]
    multi_hot = wrap(Pairs((halves(), [0, 1, 1])), 8)[0][1]
    assert multi_hot.tolist() == [0, 1, 1]
    assert multi_hot.dtype == torch.float32


def test_wrapping_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"label of item 0 \(3\): labels .* 3 at row 0; .*0 to 2"):
        wrap(Pairs((halves(), 3)), 8, num_classes=3)[0]
    with pytest.raises(TypeError, match=r"label of item 0 \(0.5\): .*float32"):
        wrap(Pairs((halves(), 0.5)), 8)[0]
    with pytest.raises(TypeError, match="item 0 is a Image; expected a tuple"):
        wrap(Pairs(halves()), 8)[0]
    with pytest.raises(TypeError, match="generator is not map-style"):
        wrap(x for x in ())


# Lists


@pytest.fixture
def listed(tmp_path):
    """Three pictures, one with a space in its name; a function that writes a list of them."""
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b c.jpg", "d.jpg"):
        Image.new("RGB", (9, 9), "white").save(tmp_path / "images" / name)

    def write(text, name="list.txt"):
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return write


def test_multi_hot_lists(listed):
    path = listed("images/a.jpg 0 1 0 \nimages/b c.jpg 1 1 0\r\n\nimages/d.jpg 0 0 0")
    files, labels = read_list(path)
    assert files == ["images/a.jpg", "images/b c.jpg", "images/d.jpg"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]
    image, label, index = FileDataset.from_list(path, image_size=8)[1]
    assert image.shape == (3, 8, 8)
    assert (label.tolist(), index) == ([1, 1, 0], 1)


def test_class_id_lists(listed):
    files, labels = read_list(listed("\ufeffimages/a.jpg 12 \nimages/b c.jpg 3"))
    assert files == ["images/a.jpg", "images/b c.jpg"]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [12, 3]


@pytest.mark.parametrize("prefix", ["/home/someone/data/", "../../data/nus wide/", "./"])
def test_the_folders_of_another_machine_are_dropped(listed, prefix):
    path = listed(f"{prefix}images/a.jpg 1\n{prefix}images/d.jpg 0\n")
    assert FileDataset.from_list(path, image_size=8)[1][0].min() == 255
    files, _ = read_list(path, strip_prefix=f"{prefix}images/")
    assert files == ["a.jpg", "d.jpg"]
    dataset = FileDataset.from_list(path, path.parent / "images", image_size=8)
    assert dataset[1][0].min() == 255


def test_absolute_names_that_are_right_stay(listed):
    path = listed("x")
    path = listed(f"{path.parent}/images/a.jpg 1")
    assert FileDataset.from_list(path, image_size=8)[0][0].min() == 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected lines"),
        ("images/a.jpg", "line 1: expected a file name and its label"),
        ("images/a.jpg 0 1\nimages/d.jpg 1", r"line 2: expected a file name and 2 label\(s\)"),
        ("images/a.jpg 0 1\nimages/d.jpg 0 x", "line 2: .*got 'images/d.jpg 0 x'"),
        ("images/a.jpg 0 2", "list.txt: multi-hot labels must be 0 or 1; got 2 at row 0, class 1"),
    ],
)
def test_bad_lists_are_named(listed, text, message):
    with pytest.raises(ValueError, match=message):
        read_list(listed(text))


def test_missing_lists_and_pictures(listed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt does not exist"):
        read_list(tmp_path / "nowhere.txt")
    with pytest.raises(
        FileNotFoundError, match=r"the first picture, far/z.jpg, is not below .*root="
    ):
        read_list(listed("far/z.jpg 0 1"))


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), min_size=1)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(NAMES, st.lists(st.integers(0, 1), min_size=width, max_size=width)),
            min_size=1,
        )
    ),
    st.sampled_from(["\n", " \n", "\r\n", "\n\n"]),
    st.booleans(),
)
def test_lists_are_read_back(tmp_path_factory, rows, end, final):
    path = tmp_path_factory.mktemp("lists", numbered=True) / "list.txt"
    lines = [" ".join([f"{name}.jpg", *map(str, values)]) for name, values in rows]
    path.write_bytes((end.join(lines) + end * final).encode())
    files, labels = read_list(path, strip_prefix="")
    assert files == [f"{name}.jpg" for name, _ in rows]
    assert labels.reshape(len(rows), -1).tolist() == [values for _, values in rows]


# The recipe


def published_recipe(labels, query, train, seed):
    """The loop of DeepHash-pytorch's CIFAR-10 loader."""
    random = np.random.RandomState(seed)
    parts = [[], [], []]
    for label in range(labels.max() + 1):
        index = np.where(labels == label)[0]
        index = index[random.permutation(len(index))]
        cuts = np.split(index, [query, query + train])
        for part, cut in zip(parts, cuts, strict=True):
            part.extend(cut)
    return parts


def test_the_recipe_is_the_published_one():
    labels = np.random.default_rng(0).integers(0, 5, 400)
    query, train, rest = published_recipe(labels, 10, 20, seed=3)
    amounts = {"query": 10, "train": 20, "seed": 3}
    split = split_rows(labels, train_in_database=False, **amounts)
    assert split["query"].tolist() == query
    assert split["train"].tolist() == train
    assert split["database"].tolist() == rest
    split = split_rows(labels, train_in_database=True, **amounts)
    assert split["database"].tolist() == train + rest


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=60, max_size=120),
    st.one_of(st.floats(0.01, 0.99), st.just("test")),
    st.one_of(st.none(), st.floats(0.01, 0.5)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_splits_never_leak_queries(labels, query, train, train_in_database, seed):
    labels = np.array([*range(5), *range(5), *labels])
    test_rows = np.arange(10, 20)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    arguments = {
        "query": query,
        "train": train,
        "train_in_database": train_in_database,
        "test_rows": test_rows,
        "seed": seed,
    }
    try:
        split = split_rows(labels, **arguments)
    except ValueError as error:
        assert "leaves no" in str(error)  # noqa: PT017
        return
    again = split_rows(labels, **arguments)
    assert all(np.array_equal(split[part], again[part]) for part in split)
    queries, trained, database = (set(split[part].tolist()) for part in split)
    assert [len(rows) for rows in (queries, trained, database)] == [len(r) for r in split.values()]
    assert not queries & database
    assert not queries & trained
    if train is None:
        assert trained == database
    elif train_in_database:
        assert trained <= database
    else:
        assert not trained & database
    if query == "test":
        assert queries == set(test_rows.tolist())
    elif train is None:
        for label in range(5):
            rows = set(np.flatnonzero(labels == label).tolist())
            expected = min(max(1, round(query * len(rows))), len(rows) - 1)
            assert len(queries & rows) == expected
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": 9, "train": 4}, r"class 0 has 12 images; the split takes 9 query and 4"),
        ({"query": 6, "train": 6}, "leaves no database images"),
        ({"query": 0}, "query=0; expected images of each class"),
        ({"query": 1.5}, "query=1.5"),
        ({"train": -1}, "train=-1"),
        ({"query": "test"}, "test_rows"),
    ],
)
def test_impossible_splits_are_named(change, message):
    arguments = {"query": 2, "train": 2, "train_in_database": False} | change
    with pytest.raises(ValueError, match=message):
        split_rows(np.arange(24) % 2, **arguments)


# Protocols


def test_digits():
    splits = load("digits")
    assert sizes(splits) == (200, 500, 1097)
    assert splits.image_shape == (1, 8, 8)
    assert splits.class_names == tuple("0123456789")
    assert torch.bincount(splits.query.labels).tolist() == [20] * 10
    assert torch.bincount(splits.train.labels).tolist() == [50] * 10
    rows = np.concatenate(list(splits.rows.values()))
    assert sorted(rows.tolist()) == list(range(1797))
    pixels = splits.query.images
    assert pixels.dtype == torch.uint8
    assert pixels.max() == 255
    assert set(pixels.unique().tolist()) <= {round(level * 255 / 16) for level in range(17)}
    assert load("digits", image_size=32).train[0][0].shape == (1, 32, 32)


def test_splits_of_a_seed_stay_what_they_are():
    """Snapshots: a published seed must draw the same split for good."""
    splits = load("digits")
    assert splits.rows["query"][:5].tolist() == [536, 1516, 617, 546, 1235]
    assert splits.fingerprint[:16] == "4763753963d9fac4"
    assert load("digits", seed=1).fingerprint[:16] == "31e7a1714a53e967"
    torch.manual_seed(5)
    assert load("digits").fingerprint == splits.fingerprint


def test_describe_is_what_a_result_stores():
    import json

    described = load("digits", seed=7).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == "digits"
    assert described["seed"] == 7
    assert described["sizes"] == {"query": 200, "train": 500, "database": 1097}
    assert described["topk"] == 1000
    assert described["recipe"] == {"query": 20, "train": 50, "train_in_database": False}


@pytest.mark.skipif(
    not pools.FASHION_MNIST_FOLDER.is_dir() and os.environ.get("CI") != "true",
    reason="needs the Debian package dataset-fashion-mnist",
)
def test_fashion_mnist():
    splits = load("fashion-mnist")
    assert sizes(splits) == (1000, 5000, 64000)
    assert splits.image_shape == (1, 28, 28)
    assert splits.topk == 5000
    assert splits.class_names[9] == "Ankle boot"
    assert torch.bincount(splits.query.labels).tolist() == [100] * 10
    assert torch.bincount(splits.database.labels).tolist() == [6400] * 10
    assert splits.fingerprint[:16] == "bd964bddfb3661d4"
    means = [part.images.float().mean().item() for part in (splits.query, splits.database)]
    assert means == pytest.approx([73, 73], abs=1.5)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_fashion_mnist_from_torchvisions_layout(tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    for part, count in (("train", 60), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.full((count, 28, 28), count, np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    small = {"query": 2, "train": 3}
    monkeypatch.setitem(PROTOCOLS, "fashion-mnist", replaced("fashion-mnist", **small))
    with pytest.warns(UserWarning, match="sizes are 20/30/30, the published ones 1,000/5,000/64,0"):
        splits = load("fashion-mnist", tmp_path)
    assert set(splits.query.images.unique().tolist()) <= {60, 20}


def replaced(name, **changes):
    from dataclasses import replace

    return replace(PROTOCOLS[name], **changes)


def test_missing_fashion_mnist_names_the_package(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load("fashion-mnist", tmp_path)
    message = str(error.value)
    assert "apt-get install dataset-fashion-mnist" in message
    assert "train-images-idx3-ubyte" in message
    assert str(tmp_path / "FashionMNIST" / "raw") in message


def test_damaged_idx_files_are_named(tmp_path):
    path = tmp_path / "x"
    write_idx(path, np.zeros((3, 4), np.uint8))
    assert pools.read_idx(path).shape == (3, 4)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"damaged: 11 bytes for shape \[3, 4\]"):
        pools.read_idx(path)
    path.write_bytes(b"\0\0\x0d\1" + whole[4:])
    with pytest.raises(ValueError, match="not an idx file of bytes"):
        pools.read_idx(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"idx file|damaged"):
            pools.read_idx(path)


def write_cifar(root, reader, classes, each):
    """CIFAR in its Python format; every image is filled with its row in the joined source."""
    folder = root / reader.base_folder
    folder.mkdir()
    key = reader.meta["key"]
    names = [f"class {label}" for label in range(classes)]
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps({key: names}))
    row = 0
    for file, _ in (*reader.train_list, *reader.test_list):
        labels = [label % classes for label in range(each * classes)]
        rows = np.arange(row, row + len(labels), dtype=np.uint8)
        batch = {
            "data": np.repeat(rows[:, None], 3072, axis=1),
            "labels" if classes == 10 else "fine_labels": labels,
        }
        (folder / file).write_bytes(pickle.dumps(batch))
        row += len(labels)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR-10 of 6 x 20 images; torchvision's MD5 sums of the real one are not compared."""
    from torchvision import datasets
    from torchvision.datasets import cifar

    write_cifar(tmp_path, datasets.CIFAR10, classes=10, each=2)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "amounts", "expected"),
    [
        ("cifar10", {"query": 2, "train": 3}, (20, 30, 70)),
        ("cifar10-1", {"query": 2, "train": 3}, (20, 30, 100)),
        ("cifar10-2", {}, (20, 100, 100)),
        ("cifar10-brcd", {"query": 4, "train": 3}, (40, 30, 80)),
    ],
)
def test_cifar10_protocols(cifar, monkeypatch, name, amounts, expected):
    monkeypatch.setitem(PROTOCOLS, name, replaced(name, sizes=(None,) * 3, **amounts))
    splits = load(name, cifar, seed=4)
    assert sizes(splits) == expected
    assert splits.image_shape == (3, 32, 32)
    assert splits.class_names[3] == "class 3"
    for part, rows in splits.rows.items():
        dataset = getattr(splits, part)
        assert dataset.images[:, 0, 0, 0].tolist() == rows.tolist()
        assert dataset.labels.tolist() == (rows % 10).tolist()
    if name == "cifar10-2":
        assert splits.rows["query"].tolist() == list(range(100, 120))
        assert splits.rows["database"].tolist() == list(range(100))
        assert splits.train is splits.database
    assert load(name, cifar / "cifar-10-batches-py", seed=4).fingerprint == splits.fingerprint


def test_cifar_pixels_keep_their_place(cifar):
    from torchvision import datasets

    batch = cifar / "cifar-10-batches-py" / "data_batch_1"
    content = pickle.loads(batch.read_bytes())
    content["data"][:] = np.arange(3072) % 251  # red plane, green plane, blue plane; row by row
    batch.write_bytes(pickle.dumps(content))
    pool = pools.cifar10(cifar, None)
    expected = torch.arange(3072).remainder(251).reshape(3, 32, 32)
    assert torch.equal(pool.dataset.images[0].long(), expected)
    pillow, label = datasets.CIFAR10(cifar)[0]
    wrapped = wrap(datasets.CIFAR10(cifar), 32)[0]
    assert torch.equal(wrapped[0], pool.dataset.images[0])
    assert torch.equal(to_image(pillow, 32), pool.dataset.images[0])
    assert wrapped[1] == label


def test_cifar100(tmp_path, monkeypatch):
    from torchvision import datasets
    from torchvision.datasets import cifar

    write_cifar(tmp_path, datasets.CIFAR100, classes=100, each=2)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    small = replaced("cifar100", query=1, train=1, sizes=(100, 100, 200))
    monkeypatch.setitem(PROTOCOLS, "cifar100", small)
    splits = load("cifar100", tmp_path)
    assert splits.num_classes == 100
    assert torch.bincount(splits.query.labels).tolist() == [1] * 100


def test_cifar_is_never_downloaded(tmp_path, monkeypatch):
    from torchvision import datasets

    def no_network(*_, **__):
        raise AssertionError("a network connection was opened")

    monkeypatch.setattr("socket.socket.connect", no_network)
    with pytest.raises(ValueError, match=r"CIFAR10 needs root=.*cifar-10-batches-py/"):
        load("cifar10")
    with pytest.raises(FileNotFoundError) as error:
        load("cifar10", tmp_path)
    assert "data_batch_1" in str(error.value)
    assert "cifar-10-python.tar.gz" in str(error.value)
    write_cifar(tmp_path, datasets.CIFAR10, classes=10, each=1)
    with pytest.raises(ValueError, match="damaged: a file's MD5 sum differs"):
        load("cifar10", tmp_path)


def write_lists(root, lines):
    Image.new("RGB", (9, 9), "white").save(root / "a.jpg")
    for file, text in zip(("test.txt", "train.txt", "database.txt"), lines, strict=True):
        (root / file).write_text(text)


def test_imagenet_lists_with_one_hot_rows_or_ids(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "imagenet10", replaced("imagenet10", sizes=(1, 2, None)))
    hot = "x/a.jpg " + " ".join("1" if label == 7 else "0" for label in range(10))
    write_lists(tmp_path, [hot, f"{hot}\n{hot} \n", "a.jpg 3\na.jpg 4\na.jpg 5"])
    splits = load("imagenet10", tmp_path, image_size=16)
    assert sizes(splits) == (1, 2, 3)
    assert splits.train.labels.tolist() == [7, 7]
    assert splits.database.labels.tolist() == [3, 4, 5]
    assert splits.image_shape == (3, 16, 16)
    assert splits.train[1][1] == 7
    first = splits.fingerprint
    assert load("imagenet10", tmp_path).fingerprint == first
    (tmp_path / "test.txt").write_text("a.jpg 6")
    assert load("imagenet10", tmp_path).fingerprint != first


def test_multi_label_lists(tmp_path):
    line = "a.jpg " + "0 1 " * 40
    write_lists(tmp_path, [line] * 3)
    with pytest.warns(UserWarning, match="sizes are 1/1/1, the published ones 5,000/10,000/rest"):
        splits = load("coco", tmp_path)
    assert splits.multi_label
    assert splits.topk == 5000
    assert splits.database.labels.shape == (1, 80)
    assert splits.query[0][0].shape == (3, 224, 224)


def test_wrong_lists_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nuswide21 needs root=: folder with train.txt"):
        load("nuswide21")
    with pytest.raises(
        FileNotFoundError, match=r"looked for test.txt, train.txt, database.txt .*HashNet"
    ):
        load("nuswide21", tmp_path)
    write_lists(tmp_path, ["a.jpg 3"] * 3)
    with pytest.raises(ValueError, match=r"nuswide21, .*test.txt: .*needs 21 0/1 labels"):
        load("nuswide21", tmp_path)
    write_lists(tmp_path, ["a.jpg 1 1 0 0 0 0 0 0 0 0"] * 3)
    with pytest.raises(ValueError, match="picture 0 has 2 classes; this protocol has exactly one"):
        load("imagenet10", tmp_path)
    write_lists(tmp_path, ["a.jpg 10"] * 3)
    with pytest.raises(ValueError, match=r"test.txt: labels .* 10 at row 0; .* ids 0 to 9"):
        load("imagenet10", tmp_path)


def test_own_pictures(pictures):
    splits = load("folder", pictures, image_size=8)
    assert sizes(splits) == (2, 4, 4)
    assert splits.train is splits.database
    assert splits.num_classes == 2
    assert splits.class_names == ("cat", "dog")
    assert splits.query[0][0].shape == (3, 8, 8)
    assert splits.query.labels.tolist() == [0, 1]
    splits = load_folder(pictures, image_size=8, query=1, train=1, train_in_database=False)
    assert sizes(splits) == (2, 2, 2)
    assert splits.describe()["recipe"] == {"query": 1, "train": 1, "train_in_database": False}
    files = [file for part in splits.rows for file in getattr(splits, part).files]
    assert len(set(files)) == 6


def test_own_pictures_need_two_classes(tmp_path):
    (tmp_path / "cat").mkdir()
    halves().save(tmp_path / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"one class folder, cat; .*fit_projection"):
        load("folder", tmp_path)
    with pytest.raises(ValueError, match="needs root="):
        load("folder")


def test_unknown_protocols_and_superfluous_roots():
    with pytest.raises(ValueError, match=r"unknown protocol 'mnist'; known: digits, fashion-mnist"):
        load("mnist")
    with pytest.raises(ValueError, match="leave root out"):
        load("digits", "somewhere")


def test_protocols_explain_themselves():
    for name, protocol in PROTOCOLS.items():
        assert protocol.description, name
        assert protocol.where, name
        assert protocol.topk > 0


def test_importing_data_is_cheap():
    import subprocess

    code = (
        "import sys, hashfast.data; heavy = {'torchvision', 'sklearn', 'scipy', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
    assert set(data.__all__) <= set(dir(data))
