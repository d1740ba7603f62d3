"""HashNet text lists, as read and as protocols."""

import pytest
import torch
from data_examples import replaced, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashfast.data import PROTOCOLS, FileDataset, load, load_lists, read_list

pytestmark = pytest.mark.filterwarnings("error")


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
    with pytest.raises(ValueError, match=r"nuswide21 needs root= \(--root\): folder with"):
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


# Lists of one's own


def test_own_lists_of_ids(tmp_path):
    write_lists(tmp_path, ["a.jpg 4\n", "a.jpg 0 \na.jpg 2", "a.jpg 1\n\na.jpg 3\na.jpg 4"])
    splits = load("list", tmp_path, image_size=8)
    assert sizes(splits) == (1, 2, 3)
    assert splits.num_classes == 5
    assert splits.class_names == ("0", "1", "2", "3", "4")
    assert not splits.multi_label
    assert splits.query.labels.tolist() == [4]
    assert splits.train.labels.tolist() == [0, 2]
    assert splits.database[2][1] == 4
    assert splits.query.image_shape == (3, 8, 8)


def test_own_lists_with_several_classes_a_picture(tmp_path):
    write_lists(tmp_path, ["a.jpg 0 1 0", "a.jpg 1 1 0", "a.jpg 0 0 0"])
    splits = load_lists(tmp_path)
    assert (splits.num_classes, splits.multi_label) == (3, True)
    assert splits.train.labels.tolist() == [[1, 1, 0]]
    write_lists(tmp_path, ["a.jpg 0 1 0", "a.jpg 1 0 0", "a.jpg 0 0 1"])
    splits = load_lists(tmp_path)
    assert (splits.num_classes, splits.multi_label) == (3, False)
    assert [splits.query[0][1], splits.train[0][1], splits.database[0][1]] == [1, 0, 2]


def test_own_lists_of_pictures_elsewhere(tmp_path):
    write_lists(tmp_path, ["/far/deep/a.jpg 0", "/far/deep/a.jpg 1", "/far/deep/a.jpg 1"])
    (tmp_path / "there").mkdir()
    (tmp_path / "a.jpg").rename(tmp_path / "there" / "a.jpg")
    for splits in (
        load_lists(tmp_path, 8, root=tmp_path / "there"),
        load_lists(tmp_path, 8, root=tmp_path, strip_prefix="/far/deep/"),
    ):
        assert splits.query.files == ["a.jpg"]
    assert load_lists(tmp_path, 8, root=tmp_path / "there").query[0][0].shape == (3, 8, 8)


def test_own_lists_that_do_not_fit_each_other(tmp_path):
    write_lists(tmp_path, ["a.jpg 1", "a.jpg 0 1 0", "a.jpg 0 0 1"])
    with pytest.raises(ValueError, match=r"labels a picture: test.txt 1, train.txt 3, database.t"):
        load("list", tmp_path)
    write_lists(tmp_path, ["a.jpg -1", "a.jpg 1", "a.jpg 0"])
    with pytest.raises(ValueError, match=r"list, .*test.txt: labels hold class ids -1"):
        load("list", tmp_path)
    with pytest.raises(ValueError, match=r"list needs root= \(--root\): folder with train.txt"):
        load("list")
    (tmp_path / "database.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: database.txt. They are lists"):
        load_lists(tmp_path)
