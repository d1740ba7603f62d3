"""Named protocols: real digits and Fashion-MNIST, and files of others made on the spot."""

import os
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from data_examples import replaced, sizes

from hashfast import data
from hashfast.data import PROTOCOLS, load, pools, to_image, wrap

pytestmark = pytest.mark.filterwarnings("error")


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
