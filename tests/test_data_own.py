"""The user's own pictures: class folders, CSV files, and any dataset."""

import json
import warnings

import numpy as np
import pytest
import torch
from cli_calls import answer
from data_examples import class_folders, halves, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hashfast.data import Splits, load, load_csv, load_folder, read_csv, split_rows, wrap
from hashfast.hashing import TrainConfig, train

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def pictures(tmp_path):
    return class_folders(tmp_path)


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
    with pytest.raises(ValueError, match=r"one class folder, cat; .*hashfast encode FOLDER"):
        load("folder", tmp_path)
    with pytest.raises(ValueError, match="needs root="):
        load("folder")


# CSV files


@pytest.fixture
def table(tmp_path):
    """Three pictures, one with a comma in its name; a function that writes a CSV file of them."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b, c.png", "d.png"):
        Image.new("RGB", (9, 9), "white").save(tmp_path / "images" / name)

    def write(text, name="my.csv"):
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return write


def test_ids_in_a_csv(table):
    path = table(
        "\ufeffID, Label ,PATH\r\n"
        'x,2,images/a.png\r\n\r\ny,10,"images/b, c.png"\r\nz,2,images/d.png'
    )
    files, labels, names, rows = read_csv(path)
    assert files == ["images/a.png", "images/b, c.png", "images/d.png"]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 0]
    assert names == ("2", "10")  # by number
    assert rows is None


def test_names_and_several_of_them_in_a_csv(table):
    _, labels, names, _ = read_csv(table("path,label\nimages/a.png,dog\nimages/d.png,cat\n"))
    assert (labels.tolist(), names) == ([1, 0], ("cat", "dog"))
    text = "path,label\nimages/a.png,dog|cat\nimages/d.png,owl\nimages/a.png,owl ; cat;\n"
    _, labels, names, _ = read_csv(table(text))
    assert names == ("cat", "dog", "owl")
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 1]]
    _, labels, names, _ = read_csv(table("path,label\nimages/a.png,3|3\nimages/d.png,x\n"))
    assert (labels.tolist(), names) == ([0, 1], ("3", "x"))


SPLIT = """path,label,split
images/a.png,cat,query
images/a.png,dog,train
"images/b, c.png",dog,Database
images/d.png,cat,train | database
"""


def test_a_split_column_is_the_split(table):
    path = table(SPLIT)
    splits = load("csv", path, seed=5, image_size=8)
    assert {part: rows.tolist() for part, rows in splits.rows.items()} == {
        "query": [0],
        "train": [1, 3],
        "database": [2, 3],
    }
    assert splits.database.files == ["images/b, c.png", "images/d.png"]
    assert splits.database.labels.tolist() == [1, 0]
    assert splits.database[0][0].shape == (3, 8, 8)
    assert splits.class_names == ("cat", "dog")
    assert splits.describe()["recipe"] == {"split": "column"}
    assert load_csv(path, seed=6).fingerprint == splits.fingerprint
    assert load_csv(table(SPLIT.replace("dog,train", "cat,train"))).fingerprint != (
        splits.fingerprint
    )


def test_queries_in_the_database_are_warned_about(table):
    path = table(SPLIT + "images/a.png,cat,database\n")
    with pytest.warns(UserWarning, match=r"1 queries are in the database too .*first: images/a"):
        load_csv(path)


def many(pictures, labels):
    rows = "\n".join(f"images/a.png,{label}" for label in labels)
    return pictures(f"path,label\n{rows}\n")


def test_without_a_split_column_the_recipe_draws_it(table):
    labels = np.arange(60) % 3
    splits = load_csv(many(table, labels), seed=4, query=2, train=5, train_in_database=False)
    expected = split_rows(labels, query=2, train=5, train_in_database=False, seed=4)
    for part, rows in expected.items():
        assert splits.rows[part].tolist() == rows.tolist()
        assert getattr(splits, part).labels.tolist() == labels[rows].tolist()
    splits = load("csv", many(table, labels), image_size=8)
    assert sizes(splits) == (6, 54, 54)
    assert splits.train is splits.database


def test_pictures_of_several_classes_are_drawn_together(table):
    path = many(table, ["x|y", "x", "y|z", "z"] * 10)
    splits = load("csv", path, seed=1, image_size=8)
    assert (splits.multi_label, splits.num_classes) == (True, 3)
    assert sizes(splits) == (4, 36, 36)
    assert sorted([*splits.rows["query"], *splits.rows["database"]]) == list(range(40))
    assert splits.rows["query"].tolist() != load("csv", path, seed=2).rows["query"].tolist()
    assert splits.query[0][1].shape == (3,)


def test_pictures_of_a_csv_elsewhere(table, tmp_path):
    (tmp_path / "lists").mkdir()
    text = "path,label,split\n" + "".join(
        f"/far/images/{name}.png,{name},{part}\n"
        for name, part in (("a", "query"), ("d", "train|database"))
    )
    path = table(text, "lists/my.csv")
    for root in (tmp_path, tmp_path / "images"):
        splits = load_csv(path, root=root, image_size=8)
        assert splits.query[0][0].min() == splits.train[0][0].min() == 255
    assert splits.train is splits.database
    with pytest.raises(FileNotFoundError, match=r"is not below .*lists"):
        load_csv(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: expected a header with the columns path,label .*got ''"),
        ("images/a.png,3\n", r"line 1: expected a header .*got 'images/a.png,3'"),
        ("path;label\nimages/a.png;3\n", r"separated by commas; got 'path;label'"),
        ("path,label\n\n", "holds no pictures; expected lines below the header"),
        ("path,label\nimages/a.png,0\nimages/d.png\n", r"line 3: 1 cells, the header has 2"),
        ("path,label\nimages/a.png,0\n\nb, c.png,1\n", r"line 4: 3 cells.*got 'b, c.png,1'"),
        ("path,label\n,0\n", "line 2: the path is empty"),
        ("path,label\nimages/a.png, \n", "line 2: images/a.png has no label"),
        ("path,label\nimages/a.png,-1\n", "label -1; class ids start at 0"),
        ("path,label\nimages/a.png,0\n", r"has one class, 0; .*hashfast encode"),
        ("path,label,split\nimages/a.png,0,test\n", "line 2: split is 'test'; expected query, tr"),
        ("path,label,split\nimages/a.png,0,\n", "line 2: split is ''"),
        ("path,label,split\nimages/a.png,0,query\n", r"names no train pictures; .*train\|database"),
        (f"path,label\n{'x' * 200_000},0\n", "line 2: field larger than field limit"),
    ],
)
def test_bad_csv_files_are_named(table, text, message):
    with pytest.raises(ValueError, match=message):
        load("csv", table(text))


def test_missing_csv_files_and_pictures(table, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv does not exist"):
        load_csv(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"is a folder, expected a CSV file"):
        load_csv(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"my.csv is a file, expected a folder"):
        load("folder", table("path,label\n"))
    with pytest.raises(FileNotFoundError, match=r"the first picture, far/z.png, is not below"):
        load_csv(table("path,label\nfar/z.png,0\nimages/a.png,1\n"))
    with pytest.raises(ValueError, match=r"csv needs root= \(--root\), a CSV file with columns"):
        load("csv")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="|;\0"), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, st.sets(CELLS, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows):
    import csv

    rows = [
        (f"{name.strip() or 'x'}.png", {label.strip() or "y" for label in labels})
        for name, labels in rows
    ]
    rows = [(name, {label for label in labels if not label.lstrip("-").isdigit()} or {"y"})
            for name, labels in rows]  # fmt: skip
    path = tmp_path_factory.mktemp("csv", numbered=True) / "my.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((n, "|".join(ls)) for n, ls in rows)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hashfast.data.tables.strip_folders", lambda files, *_: files)
        files, labels, names, _ = read_csv(path)
    assert files == [name for name, _ in rows]
    assert names == tuple(sorted(set().union(*(found for _, found in rows))))
    one_hot = torch.eye(len(names))[labels] if labels.ndim == 1 else labels
    assert [{names[c] for c in row.nonzero()} for row in one_hot] == [found for _, found in rows]


# Training on them


def training(**settings):
    return TrainConfig(**{"width": 4, "epochs": 1, "batch_size": 8, "bits": 8, **settings})


def test_train_and_encode_a_csv_from_the_command_line(table, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (24, 10, 10, 3), np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "23.png").write_bytes(b"")
    path = table("path,label\n" + "\n".join(f"{n}.png,{'ab'[n % 2]}" for n in range(24)))
    options = ["--width", 4, "--epochs", 1, "--image-size", 8, "--bits", 8, "--out"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the empty picture
        results = answer(
            capsys, "train", "--data", "csv", "--root", path, *options, tmp_path / "run"
        )
    assert results["protocol"]["sizes"] == {"query": 2, "train": 22, "database": 22}
    assert ["23.png: the file is empty" in reason for reason in results["unreadable"]] == [True]
    gallery = answer(
        capsys, "encode", "csv", "--root", path, "--split", "query", "--model", tmp_path / "run",
        "--out", tmp_path / "gallery",
    )  # fmt: skip
    assert gallery["codes"] == 2
    assert json.loads((tmp_path / "gallery" / "gallery.json").read_text())["class_names"] == [
        "a",
        "b",
    ]


class Digits(torch.utils.data.Dataset):
    """Anyone's dataset of (picture, label), known only by its items."""

    def __init__(self, part):
        self.part = part

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        image, label, _ = self.part[index]
        return Image.fromarray(image[0].numpy()), label


def test_train_on_any_dataset_through_splits():
    digits = load("digits")
    parts = {
        part: wrap(Digits(getattr(digits, part).subset(range(40))), 8, 1, num_classes=10)
        for part in ("query", "train", "database")
    }
    splits = Splits(
        "mine", **parts, num_classes=10, multi_label=False, topk=20, image_shape=(1, 8, 8),
        class_names=digits.class_names, seed=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the codes have collapsed")  # forty images teach little
        result = train(training(), splits=splits, progress=False)
    assert result.model.config.image_shape == (1, 8, 8)
    assert 0 < result.report.map <= 1
    assert result.results["protocol"]["sizes"] == {"query": 40, "train": 40, "database": 40}
