"""`hashfast export`, and what `hashfast index` reads back."""

import csv
import logging
import types

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_calls import answer, call
from hamming_oracle import random_codes
from index_examples import index_of

from hashfast import IndexBinaryFlat, load_index
from hashfast.cli import export
from hashfast.cli._read import read_gallery
from hashfast.index import Gallery, milvus
from hashfast.index.parquet import read_parquet

CODES = random_codes(7)
ITEMS = [f"/pictures/{row}, ünïcode.jpg" for row in range(6)] + ["/pictures/caf\udce9.jpg"]
LABELS = np.array([1, -1, 0, 2, 0, 1, -1])
NAMES = ("cat", "dog", "sea, sand")


@pytest.fixture
def gallery(tmp_path):
    Gallery.of(CODES, 64, ITEMS, LABELS, {"fingerprint": "f"}, NAMES).save(tmp_path / "gallery")
    return tmp_path / "gallery"


@pytest.fixture
def utf8(tmp_path):
    """The same, all names of which are UTF-8."""
    made = Gallery.of(CODES, 64, [*ITEMS[:6], "x"], LABELS, {"fingerprint": "f"}, NAMES)
    made.save(tmp_path / "utf8")
    return tmp_path / "utf8"


def listed(path):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))


def temporaries(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".hashfast")]


@pytest.mark.parametrize("kind", ["faiss", "npy"])
def test_codes_and_what_they_are_of(kind, gallery, tmp_path, capsys):
    out = tmp_path / f"codes.{kind}"
    found = answer(capsys, "export", gallery, "--to", kind, "--out", out)
    beside = tmp_path / f"codes.{kind}.items.csv"
    assert found == {"codes": 7, "bits": 64, "to": kind, "files": [str(out), str(beside)]}
    if kind == "npy":
        np.testing.assert_array_equal(np.load(out), CODES)
    else:
        index = faiss.read_index_binary(str(out))
        assert type(index) is faiss.IndexBinaryFlat
        np.testing.assert_array_equal(faiss.vector_to_array(index.xb).reshape(-1, 8), CODES)
    names = ["dog", "", "cat", "sea, sand", "cat", "dog", ""]
    assert listed(beside) == [
        ["row", "id", "item", "label", "class"],
        *(
            [str(row), str(row), ITEMS[row], str(label) if label >= 0 else "", name]
            for row, (label, name) in enumerate(zip(LABELS, names, strict=True))
        ),
    ]


def test_several_classes_without_names(tmp_path, capsys):
    labels = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
    Gallery.of(CODES[:2], 64, ["a", "b"], labels).save(tmp_path / "g")
    answer(capsys, "export", tmp_path / "g", "--to", "npy", "--out", tmp_path / "x.npy")
    rows = listed(tmp_path / "x.npy.items.csv")[1:]
    assert rows == [["0", "0", "a", "0 2", ""], ["1", "1", "b", "", ""]]


def test_ids_of_ones_own_are_kept(tmp_path, capsys):
    ids = [5, -9, 2**61, 5, 0, 1, 2]
    index_of(CODES, ids=ids).save(tmp_path / "source.index")
    for kind, files in (("faiss", 1), ("npy", 2), ("parquet", 1)):
        out = tmp_path / f"out.{kind}"
        found = answer(capsys, "export", tmp_path / "source.index", "--to", kind, "--out", out)
        assert len(found["files"]) == files
    assert (
        faiss.vector_to_array(faiss.read_index_binary(str(tmp_path / "out.faiss")).id_map).tolist()
        == ids
    )
    rows = listed(tmp_path / "out.npy.items.csv")[1:]
    assert [row[1] for row in rows] == [row[2] for row in rows] == [str(i) for i in ids]
    assert read_parquet(tmp_path / "out.parquet").index.ids.tolist() == ids
    again = tmp_path / "again.index"
    answer(capsys, "export", tmp_path / "out.parquet", "--to", "faiss", "--out", again)
    assert again.read_bytes() == (tmp_path / "source.index").read_bytes()


def test_a_list_that_would_say_nothing_is_not_written(gallery, tmp_path, capsys):
    out = tmp_path / "codes.npy"
    answer(capsys, "export", gallery, "--to", "npy", "--out", out)
    np.save(tmp_path / "plain.npy", CODES[:3])
    arguments = ["export", tmp_path / "plain.npy", "--to", "npy", "--out", out, "--overwrite"]
    assert answer(capsys, *arguments)["files"] == [str(out)]
    assert not (tmp_path / "codes.npy.items.csv").exists()  # it was of other codes
    np.testing.assert_array_equal(np.load(out), CODES[:3])


def test_codes_of_a_file_are_not_copied(tmp_path, capsys):
    """Nor are names and labels made for every row."""
    np.save(tmp_path / "x.npy", CODES)
    index_of(CODES, ids=[5, 9, 2, 3, 1, 0, 4]).save(tmp_path / "x.index")
    for name, ids in (("x.npy", range(7)), ("x.index", [5, 9, 2, 3, 1, 0, 4])):
        found = read_gallery(tmp_path / name)
        assert list(found.items) == [found.items[row] for row in range(7)] == list(map(str, ids))
        assert found.items[2:4] == list(map(str, ids))[2:4]
        assert found.items[-1] == str(ids[-1])
        with pytest.raises(IndexError):
            found.items[7]
        assert not isinstance(found.items, list)
        assert found.labels.strides == (0,)
        assert found.labelled == 0
    mapped = read_gallery(tmp_path / "x.npy").index.codes
    with open(tmp_path / "x.npy", "r+b") as file:
        file.seek(-8, 2)
        file.write(bytes(8))
    assert not mapped[-1].any()
    for kind in ("npy", "faiss"):
        out = tmp_path / f"out.{kind}"
        assert answer(capsys, "export", tmp_path / "x.npy", "--to", kind, "--out", out)[
            "files"
        ] == [str(out)]
    answer(capsys, "export", tmp_path / "x.npy", "--to", "parquet", "--out", tmp_path / "set")
    found = read_parquet(tmp_path / "set")
    assert (found.items, found.labels.tolist()) == (list("0123456"), [-1] * 7)
    assert found.index.numbered


def test_labels_alone_are_worth_a_list(tmp_path, capsys):
    Gallery.of(CODES, 64, labels=LABELS).save(tmp_path / "g")
    answer(capsys, "export", tmp_path / "g", "--to", "npy", "--out", tmp_path / "x.npy")
    assert listed(tmp_path / "x.npy.items.csv")[1] == ["0", "0", "0", "1", ""]


def test_parquet_and_back(utf8, tmp_path, capsys):
    arguments = ["--to", "parquet", "--out", tmp_path / "set", "--rows-per-file", 3]
    status, out, _ = call(capsys, "export", utf8, *arguments)
    assert status == 0
    assert out == f"7 codes of 64 bits in 3 files, {tmp_path / 'set'}\n"
    parts = sorted((tmp_path / "set").iterdir())
    assert [pq.read_metadata(part).num_rows for part in parts] == [3, 3, 1]
    status, _, err = call(capsys, "export", utf8, *arguments)
    assert status == 1
    assert "set is there already: --overwrite replaces it" in err
    answer(capsys, "export", utf8, *arguments, "--overwrite")
    facts = answer(capsys, "index", tmp_path / "set")
    assert (facts["codes"], facts["labelled"], facts["classes"]) == (7, 5, list(NAMES))
    answer(capsys, "index", tmp_path / "set", "--out", tmp_path / "back")
    back, original = Gallery.load(tmp_path / "back"), Gallery.load(utf8)
    np.testing.assert_array_equal(back.index.codes, original.index.codes)
    np.testing.assert_array_equal(back.labels, original.labels)
    assert (back.items, back.class_names) == (original.items, original.class_names)
    assert back.info["fingerprint"] == "f"
    parts[0].rename(tmp_path / "one.parquet")
    assert answer(capsys, "index", tmp_path / "one.parquet")["codes"] == 3


def test_a_gallery_with_parts_in_its_folder_is_a_gallery(utf8, tmp_path, capsys):
    answer(
        capsys, "export", utf8, "--to", "parquet", "--out", tmp_path / "set", "--rows-per-file", 4
    )
    (tmp_path / "set" / "part-00000.parquet").rename(utf8 / "part-00000.parquet")
    assert answer(capsys, "index", utf8)["codes"] == 7


def test_a_name_that_parquet_cannot_hold(gallery, tmp_path, capsys):
    status, _, err = call(capsys, "export", gallery, "--to", "parquet", "--out", tmp_path / "set")
    assert status == 1
    assert r"'/pictures/caf\udce9.jpg' is not UTF-8" in err
    assert not (tmp_path / "set").exists()
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("kind", ["faiss", "npy"])
def test_files_are_replaced_only_when_told_and_together(
    kind, gallery, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "codes"
    for there in ("codes", "codes.items.csv"):
        (tmp_path / there).write_text("mine")
        status, _, err = call(capsys, "export", gallery, "--to", kind, "--out", out)
        assert status == 1
        assert f"{there} is there already: --overwrite replaces it" in err
        assert (tmp_path / there).read_text() == "mine"
        (tmp_path / there).unlink()
    np.save(tmp_path / "other.npy", CODES[:2])
    answer(capsys, "export", gallery, "--to", kind, "--out", out)
    before = [(path, path.read_bytes()) for path in sorted(tmp_path.glob("codes*"))]
    assert len(before) == 2

    def full(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(IndexBinaryFlat, "write", full)
        patch.setattr(np.lib.format, "write_array", full)
        for source in (gallery, tmp_path / "other.npy"):
            arguments = ["export", source, "--to", kind, "--out", out, "--overwrite"]
            assert call(capsys, *arguments)[0] == 1
            assert [(path, path.read_bytes()) for path in sorted(tmp_path.glob("codes*"))] == before
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_file_is_no_folder_and_a_folder_no_file(more, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "read_gallery", None)  # refused before anything is read
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for kind, name, said in (
        ("parquet", "file", "file is a file; a Parquet set is a folder: choose another --out"),
        ("npy", "folder", "folder is a folder: name a file with --out"),
    ):
        arguments = ["export", "any", "--to", kind, "--out", tmp_path / name, *more]
        status, _, err = call(capsys, *arguments)
        assert (status, said in err) == (1, True)
    assert (tmp_path / "file").read_text() == "mine"


def test_faiss_has_whole_bytes_only(tmp_path, capsys):
    index = index_of(CODES[:, :2] & np.array([0xFF, 0xF8], np.uint8), 13)
    index.save(tmp_path / "odd.index")
    odd, out = tmp_path / "odd.index", tmp_path / "x"
    status, _, err = call(capsys, "export", odd, "--to", "faiss", "--out", out)
    assert status == 1
    assert "faiss holds whole bytes, this index 13-bit codes" in err
    assert not out.exists()
    answer(capsys, "export", odd, "--to", "npy", "--out", out)
    np.testing.assert_array_equal(np.load(out), index.codes)


@pytest.mark.parametrize("ids", [None, [3, 1, 4, 1, 5, 9, 2]])
def test_an_index_of_another_kind_becomes_a_flat_one(ids, tmp_path, capsys, monkeypatch):
    flat = index_of(CODES, ids=ids)
    facts = {"d": 64, "ntotal": 7, "codes": flat.codes, "ids": flat.ids}
    other = types.SimpleNamespace(**facts, numbered=flat.numbered)
    made = Gallery(other, [str(i) for i in flat.ids], np.full(7, -1))
    monkeypatch.setattr(export, "read_gallery", lambda _: made)
    answer(capsys, "export", "any", "--to", "faiss", "--out", tmp_path / "x")
    found = load_index(tmp_path / "x")
    np.testing.assert_array_equal(found.codes, flat.codes)
    np.testing.assert_array_equal(found.ids, flat.ids)


def test_milvus_gets_every_option(utf8, capsys, monkeypatch):
    calls = []

    class Collection:
        def __init__(self, *arguments):
            calls.append(arguments)

        def write(self, gallery, **options):
            calls.append((gallery.items, options))
            if options.get("batch_size") == 9:
                raise RuntimeError("Milvus: the disk is full")
            return 5

        def close(self):
            calls.append("closed")

    monkeypatch.setattr(milvus, "MilvusCollection", Collection)
    base = ["export", utf8, "--to", "milvus", "--uri", "http://host:1"]
    found = answer(capsys, *base)
    assert found == {"codes": 7, "bits": 64, "to": "milvus", "inserted": 5}
    items = Gallery.load(utf8).items
    opened = ("http://host:1", "hashfast", "")
    assert calls == [opened, (items, {"overwrite": False, "progress": True}), "closed"]
    calls.clear()
    options = ["--collection", "c", "--token", "a:b", "--batch-size", 9, "--nlist", 8]
    status, _, err = call(capsys, *base, *options, "--index-type", "BIN_IVF_FLAT", "--overwrite")
    assert status == 1
    assert "Milvus: the disk is full" in err
    given = {"index_type": "BIN_IVF_FLAT", "nlist": 8, "batch_size": 9, "overwrite": True}
    opened = ("http://host:1", "c", "a:b")
    assert calls == [opened, (items, {**given, "progress": True}), "closed"]
    status, out, _ = call(capsys, *base)
    assert out == (
        "7 codes of 64 bits in the collection hashfast of http://host:1; 2 were there already\n"
    )
    assert not logging.getLogger("pymilvus").isEnabledFor(logging.ERROR)


NPY, MILVUS = ("--to", "npy", "--out", "x"), ("--to", "milvus", "--uri", "x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "npy"), "--to npy is told where to write by --out"),
        (("--to", "npy", "--out", "x", "--uri", "y"), "not --uri"),
        (("--to", "milvus", "--out", "x"), "--to milvus is told where to write by --uri"),
        (("--to", "parquet", "--out", "x", "--rows-per-file", 0), "rows_per_file is 0"),
        ((*MILVUS, "--batch-size", 0), "batch_size is 0"),
        ((*MILVUS, "--nlist", 0, "--index-type", "BIN_IVF_FLAT"), "nlist is 0"),
        ((*MILVUS, "--nlist", 9), "--nlist belongs to --index-type BIN_IVF_FLAT"),
        ((*MILVUS, "--rows-per-file", 9), "--rows-per-file belongs to --to parquet"),
        ((*NPY, "--rows-per-file", 9), "--rows-per-file belongs to --to parquet"),
        ((*NPY, "--collection", "c"), "--collection belongs to --to milvus"),
        ((*NPY, "--token", "t"), "--token belongs to --to milvus"),
        ((*NPY, "--batch-size", 9), "--batch-size belongs to --to milvus"),
        ((*NPY, "--index-type", "BIN_FLAT"), "--index-type belongs to --to milvus"),
        ((*NPY, "--nlist", 9), "--nlist belongs to --to milvus"),
    ],
)
def test_bad_usage(arguments, said, capsys):
    status, out, err = call(capsys, "export", "source", *arguments)
    assert status == 2
    assert said in " ".join((out + err).split())
