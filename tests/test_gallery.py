"""Galleries on disk, and the commands that write, join, search and evaluate them."""

import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from cli_calls import answer, call
from PIL import Image

from hashfast._environment import environment
from hashfast.cli import main
from hashfast.cli.encode import read_unreadable
from hashfast.data import load
from hashfast.hashing import HashModel, ModelConfig
from hashfast.index import (
    Gallery,
    IndexBinaryAuto,
    IndexBinaryFlat,
    IndexBinaryMultiHash,
    gallery,
)
from hashfast.metrics import evaluate

SHADES = {"a": 20, "b": 120, "c": 220}


def save_model(folder, seed=0, channels=1):
    torch.manual_seed(seed)
    shape = (channels, 8, 8)
    config = ModelConfig(
        "pixels", 32, image_shape=shape, mean=(0.5,) * channels, std=(0.2,) * channels
    )
    HashModel(config).save_pretrained(folder)
    return folder


def picture(path, class_name="a", seed=0):
    """A noisy picture whose shade tells its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 21, (8, 8))
    pixels = np.clip(np.linspace(-60, 60, 8) + noise + SHADES[class_name], 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def galleries(model, tmp_path_factory):
    """Queries of classes b, c and a database of a, b, c, where ids differ but names do not."""
    folder = tmp_path_factory.mktemp("galleries")
    for name, classes, count in (("query", "bc", 4), ("database", "abc", 6)):
        for c in classes:
            for i in range(count):
                picture(folder / "pictures" / name / c / f"{i}.png", c, 100 * len(classes) + i)
        encode = ["encode", folder / "pictures" / name, "--model", model, "--out", folder / name]
        assert main(list(map(str, encode))) == 0
    return folder


def codes(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4), dtype=np.uint8)


# Files of a gallery


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (None, ()),
        (np.array([2, -1, 0]), ()),
        (np.array([2, -1, 0]), ("cat", "dog, brown", 'bird "x"')),
        (np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32), ("cat", "dog", "bird")),
    ],
    ids=["none", "ids", "named", "multi-hot"],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_saved_comes_back(labels, class_names, mmap, tmp_path):
    info = {"source": "here", "protocol": {"seed": 3}}
    saved = Gallery.of(codes(3), 32, ["x", "y", "z"], labels, info, class_names)
    saved.save(tmp_path / "new" / "gallery")
    loaded = Gallery.load(tmp_path / "new" / "gallery", mmap=mmap)
    np.testing.assert_array_equal(loaded.index.codes, codes(3))
    assert (loaded.items, loaded.info, loaded.class_names) == (list("xyz"), info, class_names)
    np.testing.assert_array_equal(loaded.labels, saved.labels)


def test_every_file_name_survives(tmp_path):
    items = [os.fsdecode(b"caf\xe9.png"), "café.png", "日本.png", "a,b.png", 'say "hi".png']
    items += ["two\nlines", "bare\rreturn", "both\r\nof them", " spaces ", "\ttab", "\u2028"]
    items += ["'", '"', "", "-1", "=1+1"]
    Gallery.of(codes(len(items)), 32, items, np.arange(len(items))).save(tmp_path)
    loaded = Gallery.load(tmp_path)
    assert loaded.items == items
    assert loaded.labels.tolist() == list(range(len(items)))
    assert b"caf\xe9.png" in (tmp_path / "items.csv").read_bytes()


@pytest.mark.parametrize("kind", [IndexBinaryMultiHash, IndexBinaryAuto])
@pytest.mark.parametrize("ids", [None, [7, 5, 3]])
def test_a_gallery_of_another_index_is_saved_as_a_flat_one(kind, ids, tmp_path):
    index = kind(32)
    if ids is None:
        index.add(codes(3))
    else:
        index.add_with_ids(codes(3), ids)
    Gallery(index, ["a", "b", "c"], np.array([0, 1, 0])).save(tmp_path / "g")
    loaded = Gallery.load(tmp_path / "g").index
    assert isinstance(loaded, IndexBinaryFlat)
    assert loaded.ids.tolist() == (ids or [0, 1, 2])
    np.testing.assert_array_equal(loaded.codes, codes(3))


def test_an_empty_gallery(tmp_path):
    Gallery.of(codes(0), 32).save(tmp_path)
    assert Gallery.load(tmp_path, mmap=True).index.ntotal == 0


@pytest.mark.parametrize("name", ["codes.ibxf", "items.csv", "gallery.json"])
def test_files_of_two_galleries_are_refused(name, tmp_path):
    for seed in (1, 2):
        items, labels = [f"{seed}-0", f"{seed}-1"], np.array([seed, 0])
        Gallery.of(codes(2, seed), 32, items, labels).save(tmp_path / str(seed))
    shutil.copy(tmp_path / "2" / name, tmp_path / "1" / name)
    with pytest.raises(ValueError, match=r"not of the same gallery"):
        Gallery.load(tmp_path / "1")


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failure_leaves_the_older_gallery_whole(failing, tmp_path, monkeypatch):
    Gallery.of(codes(5), 32).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    opened = 0

    @contextmanager
    def full_disk(path):
        nonlocal opened
        opened += 1
        with real(path) as file:
            if opened == failing:
                raise OSError(28, "No space left on device")
            yield file

    real = gallery.atomic_write
    monkeypatch.setattr(gallery, "atomic_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Gallery.of(codes(9, 1), 32).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "does not describe a gallery"),
        (b"", "is not valid JSON"),
        (b'{"class_names": "ab"}', "class_names is not a list of names"),
        (b"{}", "digest None"),
    ],
)
def test_damaged_facts_are_named(content, said, tmp_path):
    Gallery.of(codes(2), 32).save(tmp_path)
    (tmp_path / "gallery.json").write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        Gallery.load(tmp_path)
    assert "gallery.json" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "items.csv is not a list of row, item, label"),
        (b"row,item\n", "items.csv is not a list of row, item, label"),
        (b"row,item,label\n0,a\n1,b,2\n", "items.csv is not a list of row, item, label"),
        (b"row,item,label\n0,a,\n1,b,cat\n", "items.csv: a label is not readable"),
        (b"row,item,label\n0,a,\n", "2 codes has 1 items"),
    ],
)
def test_damaged_lists_of_items_are_named(content, said, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_digest", lambda index, items: "as if it fitted")
    Gallery.of(codes(2), 32).save(tmp_path)
    (tmp_path / "items.csv").write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        Gallery.load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0, 2], ["a", "b"], "3 classes have 2 class names"),
        ([[1, 0], [0, 1]], ["a", "b", "c"], "2 classes have 3 class names"),
        ([0, 1], ["a", "a"], "repeat: a, a"),
    ],
)
def test_class_names_must_fit(labels, names, said):
    with pytest.raises(ValueError, match=said):
        Gallery.of(codes(2), 32, labels=np.array(labels), class_names=names)


# encode


def test_pictures_beside_class_folders_are_encoded(model, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    picture(pictures / "loose.png")
    picture(pictures / "b" / "deep" / "1.png")
    picture(pictures / "a" / "0.png")
    (pictures / "empty").mkdir()
    picture(tmp_path / "elsewhere" / "2.png")
    (pictures / "linked").symlink_to(tmp_path / "elsewhere")
    answer(capsys, "encode", pictures, "--model", model, "--out", tmp_path / "g")
    gallery = Gallery.load(tmp_path / "g")
    assert gallery.class_names == ("a", "b", "linked")
    found = [os.path.relpath(item, pictures) for item in gallery.items]
    assert found == ["a/0.png", "b/deep/1.png", "linked/2.png", "loose.png"]
    assert gallery.labels.tolist() == [0, 1, 2, -1]


def test_a_folder_without_sub_folders_has_no_classes(model, tmp_path, capsys):
    picture(tmp_path / "pictures" / "1.png")
    answer(capsys, "encode", tmp_path / "pictures", "--model", model, "--out", tmp_path / "g")
    gallery = Gallery.load(tmp_path / "g")
    assert (gallery.class_names, gallery.labels.tolist()) == ((), [-1])


def test_encode_takes_one_picture(model, tmp_path, capsys):
    one = picture(tmp_path / "one.png")
    answer(capsys, "encode", one, "--model", model, "--out", tmp_path / "g")
    assert Gallery.load(tmp_path / "g").items == [str(one)]
    (tmp_path / "text.txt").write_text("hello")
    encode = ["encode", tmp_path / "text.txt", "--model", model, "--out", tmp_path / "h"]
    status, _, err = call(capsys, *encode)
    assert status == 1
    assert "none of the 1 pictures" in err
    assert "text.txt: not a picture" in err


@pytest.mark.parametrize(
    ("source", "item"),
    [
        (["query/../query"], "query/b/0.png"),
        (["query/c/../b/0.png"], "query/b/0.png"),
        (["folder", "--root", "./query", "--split", "train"], "query/b/1.png"),
    ],
    ids=["folder", "picture", "protocol"],
)
def test_items_are_found_from_any_folder(source, item, galleries, tmp_path, monkeypatch, capsys):
    colour = save_model(tmp_path / "colour", channels=3)
    monkeypatch.chdir(galleries / "pictures")
    made = answer(capsys, "encode", *source, "--model", colour, "--out", tmp_path / "g")
    assert str(galleries / "pictures" / item) in Gallery.load(tmp_path / "g").items
    assert os.path.isabs(made["source"]) == (source[0] != "folder")


def test_an_undecodable_name_goes_all_the_way(model, tmp_path, capsys):
    good = picture(tmp_path / "pictures" / "x.png")
    odd, broken = (tmp_path / "pictures" / os.fsdecode(n) for n in (b"caf\xe9.png", b"\xff\r.png"))
    good.rename(odd)
    broken.touch()
    answer(capsys, "encode", odd.parent, "--model", model, "--out", tmp_path / "g")
    assert Gallery.load(tmp_path / "g").items == [str(odd)]
    assert os.fsencode(broken) in (tmp_path / "g" / "unreadable.csv").read_bytes()
    assert answer(capsys, "search", tmp_path / "g", "--image", odd)["results"][0]["hits"][0][
        "item"
    ] == str(odd)
    status, out, _ = call(capsys, "search", tmp_path / "g", "--image", odd)
    assert status == 0
    out.encode()  # what is shown is text


def test_a_protocol_is_stored_with_its_codes(model, tmp_path, capsys):
    encode = ["encode", "digits", "--split", "query", "--split-seed", 3]
    answer(capsys, *encode, "--model", model, "--out", tmp_path / "g")
    gallery = Gallery.load(tmp_path / "g")
    assert gallery.class_names == tuple("0123456789")
    assert gallery.info["protocol"] == load("digits", seed=3, image_size=8).describe()
    assert gallery.info["split"] == "query"
    assert gallery.info["environment"].keys() == environment().keys()


def test_encode_says_what_does_not_fit(model, tmp_path, capsys):
    colour = save_model(tmp_path / "colour", channels=3)
    status, _, err = call(capsys, "encode", "digits", "--model", colour, "--out", tmp_path / "g")
    assert status == 1
    assert "digits has images of 1 channels" in err
    assert "takes 3" in err
    encode = ["encode", "digits", "--model", model, "--out", tmp_path / "g"]
    status, _, err = call(capsys, *encode, "--batch-size", 0)
    assert status != 0
    assert "it must be at least 1" in err


def test_galleries_are_replaced_only_when_told(galleries, model, tmp_path, capsys):
    one = picture(tmp_path / "one.png")
    encode = ["encode", one, "--model", model, "--out", tmp_path / "g"]
    index = ["index", galleries / "query", "--out", tmp_path / "g"]
    answer(capsys, *encode)
    for command in (encode, index):
        before = Gallery.load(tmp_path / "g").items
        status, _, err = call(capsys, *command)
        assert status == 1
        assert "--overwrite" in err
        assert Gallery.load(tmp_path / "g").items == before
        answer(capsys, *command, "--overwrite")
    assert Gallery.load(tmp_path / "g").index.ntotal == 8


# Classes of two folders


def test_eval_matches_classes_by_name(galleries, capsys):
    query, database = (Gallery.load(galleries / name) for name in ("query", "database"))
    by_name = [
        np.array([gallery.class_names[i] for i in gallery.labels]) for gallery in (query, database)
    ]
    ids = [np.searchsorted(["a", "b", "c"], names) for names in by_name]
    expected = evaluate(query.index.codes, database.index.codes, *ids).map
    wrong = evaluate(query.index.codes, database.index.codes, query.labels, database.labels).map
    found = answer(capsys, "eval", galleries / "query", galleries / "database")
    assert found["map"] == pytest.approx(expected, abs=1e-12)
    assert abs(wrong - expected) > 0.1
    named = found["galleries"]
    assert named["query"]["path"] == str(galleries / "query")
    assert named["query"]["fingerprint"] == named["database"]["fingerprint"]
    assert named["database"]["source"] == str(galleries / "pictures" / "database")
    assert found["environment"] == environment()


def test_eval_warns_of_classes_the_database_lacks(galleries, capsys):
    status, _, err = call(capsys, "eval", galleries / "database", galleries / "query")
    assert status == 0
    assert "no class a: their queries find nothing" in err


@pytest.mark.parametrize("command", ["eval", "index"])
def test_classes_that_cannot_be_matched_are_refused(command, tmp_path, capsys):
    made = {
        "named": ([0, 1], ("x", "y")),
        "unnamed": ([0, 1], ()),
        "others": ([0, 1], ("z", "w")),
        "multi": ([[1, 0], [0, 1]], ("x", "y")),
        "three": ([[1, 0, 0], [0, 1, 0]], ()),
        "two": ([[1, 0], [0, 1]], ()),
    }
    for name, (labels, names) in made.items():
        Gallery.of(codes(2), 32, labels=np.array(labels), class_names=names).save(tmp_path / name)
    out = ["--out", tmp_path / "joined"] if command == "index" else []
    for one, other, said in (
        ("named", "unnamed", "names its classes and"),
        ("unnamed", "named", "names its classes and"),
        ("named", "multi", "different kinds"),
        ("three", "two", "cannot be matched"),
    ):
        status, _, err = call(capsys, command, tmp_path / one, tmp_path / other, *out)
        assert status == 1
        assert said in err
    if command == "eval":
        status, _, err = call(capsys, "eval", tmp_path / "named", tmp_path / "others")
        assert status == 1
        assert "no class in common: x, y, and w, z" in err


def test_index_joins_classes_by_name(galleries, tmp_path, capsys):
    joined = tmp_path / "joined"
    both = [galleries / "query", galleries / "database"]
    assert answer(capsys, "index", *both, "--out", joined)["codes"] == 26
    gallery = Gallery.load(joined)
    assert gallery.class_names == ("b", "c", "a")
    for item, label in zip(gallery.items, gallery.labels, strict=True):
        assert os.path.basename(os.path.dirname(item)) == gallery.class_names[label]
    assert gallery.info["model"] == Gallery.load(both[0]).info["model"]
    assert answer(capsys, "index", joined)["classes"] == ["b", "c", "a"]


def test_index_joins_multi_hot_classes_by_name(tmp_path, capsys):
    for name, classes in (("1", ("x", "y")), ("2", ("z", "x"))):
        labels = np.array([[1, 1], [0, 1]], np.float32)
        Gallery.of(codes(2), 32, None, labels, None, classes).save(tmp_path / name)
    answer(capsys, "index", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "joined")
    gallery = Gallery.load(tmp_path / "joined")
    assert gallery.class_names == ("x", "y", "z")
    assert gallery.labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 0, 0]]


def test_joined_codes_of_two_models_have_none(model, tmp_path, capsys):
    picture(tmp_path / "p" / "1.png")
    other = save_model(tmp_path / "other", seed=1)
    for name, folder in (("1", model), ("2", other)):
        answer(capsys, "encode", tmp_path / "p", "--model", folder, "--out", tmp_path / name)
    join = ["index", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "joined"]
    assert call(capsys, *join)[0] == 1
    answer(capsys, *join, "--force")
    assert not {"model", "fingerprint"} & Gallery.load(tmp_path / "joined").info.keys()


def test_index_joins_the_lists_of_unreadable_pictures(model, tmp_path, capsys):
    sources = [tmp_path / "1", tmp_path / "2"]
    broken = []
    for folder, odd in zip(sources, (b"caf\xe9.png", b"two\nlines.png"), strict=True):
        picture(folder / "pictures" / "good.png")
        broken.append(folder / "pictures" / os.fsdecode(odd))
        broken[-1].touch()
        answer(capsys, "encode", folder / "pictures", "--model", model, "--out", folder / "g")
    both = [folder / "g" for folder in sources]
    answer(capsys, "index", *both, both[0], "--out", both[0], "--overwrite")
    listed = read_unreadable(both[0])
    assert [item for item, _ in listed] == [str(path) for path in broken]
    assert all("the file is empty" in reason for _, reason in listed)
    np.save(tmp_path / "codes.npy", codes(3))
    answer(capsys, "index", tmp_path / "codes.npy", "--out", both[0], "--overwrite")
    assert not (both[0] / "unreadable.csv").exists()


def test_search_names_classes(galleries, capsys):
    image = galleries / "pictures" / "query" / "c" / "0.png"
    search = ["search", galleries / "query", "--image", image, "--k", 1]
    hit = answer(capsys, *search)["results"][0]["hits"][0]
    assert (hit["distance"], hit["label"], hit["class"]) == (0, 1, "c")
    row = call(capsys, *search)[1].splitlines()[-1].split()
    assert row == ["1", "0", "c", str(image)]


def test_search_names_several_classes(model, tmp_path, capsys):
    image = picture(tmp_path / "1.png")
    labels = np.array([[0, 1, 1]], np.float32)
    names = ("sky", "sea", "sand")
    Gallery.of(codes(1), 32, ["z"], labels, None, names).save(tmp_path / "g")
    search = ["search", tmp_path / "g", "--image", image, "--model", model]
    hit = answer(capsys, *search)["results"][0]["hits"][0]
    assert (hit["label"], hit["class"]) == ([1, 2], ["sea", "sand"])
    assert "sea, sand" in call(capsys, *search)[1]


# Models and odd sources


def test_the_model_is_found_after_a_move(tmp_path, capsys):
    home = tmp_path / "home"
    save_model(home / "runs" / "mine")
    image = picture(tmp_path / "1.png")
    encode = ["encode", image, "--model", home / "runs" / "mine", "--out", home / "gallery"]
    answer(capsys, *encode)
    search = ["--image", image]
    shutil.copytree(home / "gallery", tmp_path / "elsewhere" / "gallery")
    answer(capsys, "search", tmp_path / "elsewhere" / "gallery", *search)  # the model has stayed
    home.rename(tmp_path / "new")
    answer(capsys, "search", tmp_path / "new" / "gallery", *search)  # both have moved together
    status, _, err = call(capsys, "search", tmp_path / "elsewhere" / "gallery", *search)
    assert status == 1
    assert f"not at {home / 'runs' / 'mine'} any more" in err
    assert "--model" in err
    moved = tmp_path / "new" / "runs" / "mine"
    answer(capsys, "search", tmp_path / "elsewhere" / "gallery", *search, "--model", moved)


def test_codes_of_an_unknown_model(model, tmp_path, capsys):
    np.save(tmp_path / "codes.npy", codes(3))
    answer(capsys, "index", tmp_path / "codes.npy", "--out", tmp_path / "g")
    search = ["search", tmp_path / "g", "--image", picture(tmp_path / "1.png")]
    status, _, err = call(capsys, *search)
    assert status == 1
    assert "does not say which model made it: name it by --model" in err
    status, out, err = call(capsys, *search, "--model", model)
    assert status == 0
    assert "does not say which model made it" in err
    assert len(out.splitlines()) == 6


def test_search_of_an_empty_gallery(model, tmp_path, capsys):
    np.save(tmp_path / "codes.npy", codes(0))
    answer(capsys, "index", tmp_path / "codes.npy", "--out", tmp_path / "g")
    image = picture(tmp_path / "1.png")
    status, out, err = call(capsys, "search", tmp_path / "g", "--image", image, "--model", model)
    assert status == 0
    assert "g is empty" in out
    assert "k is" not in err


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_a_damaged_npy_is_named(content, tmp_path, capsys):
    (tmp_path / "codes.npy").write_bytes(content)
    status, _, err = call(capsys, "index", tmp_path / "codes.npy")
    assert status == 1
    assert "codes.npy is not a readable .npy file" in err


def test_eval_leaves_the_query_itself_out(galleries, capsys):
    both = [galleries / "database", galleries / "database"]
    status, _, err = call(capsys, "eval", *both)
    assert status == 0
    assert "exclude_self" in err
    gallery = Gallery.load(both[0])
    expected = evaluate(
        gallery.index.codes, gallery.index.codes, gallery.labels, gallery.labels, exclude_self=True
    ).map
    status, out, err = call(capsys, "eval", *both, "--exclude-self", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["map"] == pytest.approx(expected, abs=1e-12)
