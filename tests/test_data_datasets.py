"""Labels, datasets over arrays and files, and anyone's dataset."""

import pickle

import numpy as np
import pytest
import torch
from data_examples import class_folders, halves
from torch.utils.data import DataLoader

from hashfast.data import (
    ArrayDataset,
    FileDataset,
    UnreadableImage,
    check_labels,
    to_image,
    wrap,
)

pytestmark = pytest.mark.filterwarnings("error")


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


def test_arrays_in_another_size_are_scaled_from_the_pictures_themselves():
    pixels = torch.randint(256, (3, 1, 30, 20), dtype=torch.uint8)
    small = ArrayDataset(pixels, [2, 0, 1], image_size=4)
    for size in (4, 12, 40):
        resized = small.resized(size)
        assert resized.image_shape == (1, size, size)
        expected = ArrayDataset(pixels, [2, 0, 1], image_size=size).batch([0, 1, 2])
        for ours, theirs in zip(resized.batch([0, 1, 2]), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert small.image_shape == (1, 4, 4)


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
    return class_folders(tmp_path)


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


def test_files_in_another_size_are_read_in_it(pictures):
    small = FileDataset.from_classes(pictures, image_size=8, channels=1).subset([4, 0])
    resized = small.resized(11)
    assert resized.image_shape == (1, 11, 11)
    assert resized.class_names == ("cat", "dog")
    assert resized.labels.tolist() == [1, 0]
    assert [resized.path(row) for row in (0, 1)] == [small.path(row) for row in (0, 1)]
    assert torch.equal(resized[0][0], to_image(small.path(0), 11, 1))
    assert small[0][0].shape == (1, 8, 8)


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
    with pytest.raises(FileNotFoundError, match=r"no class folders in .*<class>/.*hashfast encode"):
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


def test_a_wrapped_dataset_has_one_size():
    dataset = wrap(Pairs((halves(), 1)), 8)
    assert dataset.resized(8) is dataset
    with pytest.raises(TypeError, match="gives images of 8x8 only, and 9x9 are needed: wrap"):
        dataset.resized(9)


def test_which_batches_are_cheap(pictures):
    files = FileDataset.from_folder(pictures, image_size=8)
    arrays = ArrayDataset(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    wrapped = wrap(Pairs((halves(), 1)), 8)
    assert [found.in_memory for found in (files, arrays, wrapped)] == [False, True, False]


def test_wrapping_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"label of item 0 \(3\): labels .* 3 at row 0; .*0 to 2"):
        wrap(Pairs((halves(), 3)), 8, num_classes=3)[0]
    with pytest.raises(TypeError, match=r"label of item 0 \(0.5\): .*float32"):
        wrap(Pairs((halves(), 0.5)), 8)[0]
    with pytest.raises(TypeError, match="item 0 is a Image; expected a tuple"):
        wrap(Pairs(halves()), 8)[0]
    with pytest.raises(TypeError, match="generator is not map-style"):
        wrap(x for x in ())
