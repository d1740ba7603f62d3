"""Galleries as Parquet: what is written comes back, part by part and row by row."""

import builtins
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hamming_oracle import random_codes

import hashfast
from hashfast import IndexBinaryFlat
from hashfast.index import Gallery, parquet, parquet_layout
from hashfast.index.parquet import read_parquet, write_parquet
from hashfast.index.parquet_set import ParquetSet


def gallery_of(n=10, bits=64, labels=None, **kwargs):
    items = [f"/pictures/{row}, ünïcode\n.jpg" for row in range(n)]
    codes = hashfast.pack(np.random.default_rng(n).standard_normal((n, bits)))
    return Gallery.of(codes, bits, items, labels, **kwargs)


def with_ids(ids):
    index = IndexBinaryFlat(64)
    index.add_with_ids(random_codes(len(ids)), ids)
    return Gallery(index, [str(i) for i in ids], np.full(len(ids), -1))


def multi_hot(n):
    return (np.arange(3 * n).reshape(n, 3) % 4 == 0).astype(np.float32)  # some rows have no class


def assert_same(found, expected):
    assert found.index.d == expected.index.d
    np.testing.assert_array_equal(found.index.codes, expected.index.codes)
    np.testing.assert_array_equal(found.index.ids, expected.index.ids)
    assert found.items == expected.items
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.labels.dtype == expected.labels.dtype
    assert found.info == expected.info
    assert found.class_names == expected.class_names


EXAMPLES = {
    "plain": gallery_of(info={"fingerprint": "abc", "code_spaces": ["a", "b"]}),
    "odd bits": gallery_of(7, 13),
    "labels": gallery_of(5, 8, np.array([2, -1, 0, 1, -1]), class_names=("x", "y", "z")),
    "many labels": gallery_of(8, 16, multi_hot(8), class_names=("x", "y", "z")),
    "ids": with_ids([5, -9, 2**61, 5, 0, 1, 2]),
    "empty": gallery_of(0, 32),
    "empty, many labels": gallery_of(0, 32, multi_hot(0)),
}


@pytest.mark.parametrize("rows_per_file", [3, 100])
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_comes_back(name, rows_per_file, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 2)
    gallery = EXAMPLES[name]
    n = gallery.index.ntotal
    paths = write_parquet(gallery, tmp_path / "set", rows_per_file)
    assert paths == sorted((tmp_path / "set").iterdir())
    assert [pq.read_metadata(path).num_rows for path in paths] == [
        min(rows_per_file, n - first) for first in range(0, max(n, 1), rows_per_file)
    ]
    assert_same(read_parquet(tmp_path / "set"), gallery)
    found = ParquetSet(tmp_path / "set")
    assert (found.ntotal, found.bits) == (n, gallery.index.d)
    for start in range(n + 1):
        for stop in range(start, n + 1):
            np.testing.assert_array_equal(found.codes(start, stop), gallery.index.codes[start:stop])
            if name == "ids":
                np.testing.assert_array_equal(found.ids(start, stop), gallery.index.ids[start:stop])


def test_a_single_file_is_a_set(tmp_path):
    gallery = EXAMPLES["labels"]
    (part,) = write_parquet(gallery, tmp_path / "set")
    part.rename(tmp_path / "codes.parquet")
    assert_same(read_parquet(tmp_path / "codes.parquet"), gallery)


def test_columns_that_other_programs_see(tmp_path):
    (part,) = write_parquet(EXAMPLES["labels"], tmp_path / "set")
    found = pq.read_table(part)
    assert found.schema.names == ["item", "code", "label"]
    assert found.column("label").to_pylist() == [2, None, 0, 1, None]
    assert b"".join(found.column("code").to_pylist()) == EXAMPLES["labels"].index.codes.tobytes()
    facts = json.loads(found.schema.metadata[b"hashfast"])
    assert facts == {"bits": 8, "class_names": ["x", "y", "z"], "rows": 5}
    (part,) = write_parquet(EXAMPLES["many labels"], tmp_path / "set")
    expected = [np.flatnonzero(row).tolist() for row in EXAMPLES["many labels"].labels]
    assert pq.read_table(part).column("label").to_pylist() == expected
    (part,) = write_parquet(EXAMPLES["ids"], tmp_path / "set")
    assert pq.read_table(part).column("id").to_pylist() == [5, -9, 2**61, 5, 0, 1, 2]


def test_only_the_codes_of_the_rows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 2)
    write_parquet(EXAMPLES["plain"], tmp_path / "set", 4)
    read, original = [], pq.ParquetFile.read_row_group

    def counted(self, group, columns):
        read.append((group, columns))
        return original(self, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    found = ParquetSet(tmp_path / "set")
    assert read == []
    found.codes(3, 7)
    assert read == [(1, ["code"]), (0, ["code"]), (1, ["code"])]
    with pytest.raises(ValueError, match="which has 10"):
        found.codes(3, 11)


def test_no_file_stays_open(tmp_path, monkeypatch):
    """A set may have more files than a process may open."""
    write_parquet(EXAMPLES["plain"], tmp_path / "set", 1)
    opened, still = [], []

    class Watched(pq.ParquetFile):
        def __init__(self, *arguments):
            still.append(sum(not file.closed for file in opened))
            super().__init__(*arguments)
            opened.append(self)

    monkeypatch.setattr(pq, "ParquetFile", Watched)
    found = ParquetSet(tmp_path / "set")
    found.codes(0, 10)
    assert_same(read_parquet(tmp_path / "set"), EXAMPLES["plain"])
    assert len(opened) == 4 * 10  # the end and the rows of each, twice
    assert still == [0] * 40
    assert all(file.closed for file in opened)


def test_a_set_that_changes_is_not_read(tmp_path):
    write_parquet(gallery_of(10), tmp_path / "set")
    found = ParquetSet(tmp_path / "set")
    write_parquet(gallery_of(9), tmp_path / "set")
    with pytest.raises(ValueError, match=r"part-00000.parquet has changed while it was read"):
        found.codes(0, 10)


def test_codes_of_a_sliced_column():
    codes = random_codes(9)
    column = pa.chunked_array([pa.array([row.tobytes() for row in codes], pa.binary(8))] * 2)
    found = parquet_layout.codes_of(column.slice(4, 8))
    np.testing.assert_array_equal(found, np.concatenate([codes, codes])[4:12])


def test_a_set_is_replaced_whole_or_not_at_all(tmp_path):
    write_parquet(EXAMPLES["plain"], tmp_path / "set", 1)
    bad = gallery_of(10)
    bad.items[7] = "caf\udce9.jpg"
    with pytest.raises(ValueError, match=re.escape(r"'caf\udce9.jpg' is not UTF-8")):
        write_parquet(bad, tmp_path / "set", 2)
    assert_same(read_parquet(tmp_path / "set"), EXAMPLES["plain"])
    write_parquet(EXAMPLES["odd bits"], tmp_path / "set", 3)
    assert_same(read_parquet(tmp_path / "set"), EXAMPLES["odd bits"])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_old_set_returns_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write_parquet(EXAMPLES["plain"], tmp_path / "set")
    rename = parquet.Path.rename

    def fails_once(self, target):
        if (self / "part-00000.parquet").exists() and self.name.startswith(".hashfast"):
            monkeypatch.setattr(parquet.Path, "rename", rename)
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(parquet.Path, "rename", fails_once)
    with pytest.raises(OSError, match="no"):
        write_parquet(EXAMPLES["odd bits"], tmp_path / "set")
    assert_same(read_parquet(tmp_path / "set"), EXAMPLES["plain"])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    EXAMPLES["plain"].save(tmp_path / "gallery")
    with pytest.raises(FileExistsError, match=r"holds codes\.ibxf, which is no part"):
        write_parquet(EXAMPLES["plain"], tmp_path / "gallery")
    assert_same(Gallery.load(tmp_path / "gallery"), EXAMPLES["plain"])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file is a file; a Parquet set is a folder"):
        write_parquet(EXAMPLES["plain"], tmp_path / "file")
    with pytest.raises(ValueError, match="rows_per_file is 0"):
        write_parquet(EXAMPLES["plain"], tmp_path / "set", 0)


def test_parts_must_be_of_one_set(tmp_path):
    write_parquet(gallery_of(3, info={"fingerprint": "a"}), tmp_path / "set")
    (other,) = write_parquet(gallery_of(3, info={"fingerprint": "b"}), tmp_path / "other")
    other.rename(tmp_path / "set" / "part-00001.parquet")
    for read in (read_parquet, ParquetSet):
        with pytest.raises(ValueError, match=r"part-00001.* differ in fingerprint"):
            read(tmp_path / "set")


def test_other_parquet_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"item": ["a"], "code": [b"12345678"]}), path)
    with pytest.raises(ValueError, match="with columns item, code, does not say how many bits"):
        read_parquet(path)
    facts = {b"hashfast": json.dumps({"bits": 64, "class_names": []}).encode()}
    table = pa.table({"item": ["a"], "code": [b"12345678"], "label": [1]})
    pq.write_table(table.replace_schema_metadata(facts), path)
    with pytest.raises(ValueError, match=r"code is binary; expected fixed_size_binary\[8\]"):
        read_parquet(path)
    layout = parquet_layout.schema(64, {})
    nullable = pa.schema([field.with_nullable(True) for field in layout], layout.metadata)
    pq.write_table(pa.table([["a"], [None], [1]], schema=nullable), path)
    with pytest.raises(ValueError, match="rows without code"):
        read_parquet(path)
    many = parquet_layout.schema(64, {}, (), 2)
    pq.write_table(pa.table([["a"], [b"12345678"], [[2]]], schema=many), path)
    with pytest.raises(ValueError, match="a label beyond its 2 classes"):
        read_parquet(path)


def test_damage_is_named(tmp_path):
    (part,) = write_parquet(gallery_of(1000), tmp_path / "set")
    whole = part.read_bytes()
    end = int.from_bytes(whole[-8:-4], "little")  # of the file, which says what is in it
    for damaged in (whole[:-100], whole[: -8 - end] + bytes([255]) * end + whole[-8:]):
        part.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"part-00000.parquet is not a readable Parquet file"):
            ParquetSet(tmp_path / "set")
    part.write_bytes(bytes(200) + whole[200:])
    with pytest.raises(OSError, match=r"part-00000.parquet is damaged"):
        read_parquet(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="no Parquet set at"):
        ParquetSet(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"absent\.parquet"):
        ParquetSet(tmp_path / "absent.parquet")


def test_rows_must_fit_the_schema():
    layout = parquet_layout.schema(64, {})
    codes, items, labels = random_codes(2), ["a", "b"], np.array([1, -1])
    assert parquet_layout.table(codes, items, labels, layout).num_rows == 2
    for arguments, said in (
        ((random_codes(2, 1), items, labels), "codes are 1 bytes wide; the schema has 8"),
        ((codes, items[:1], labels), "2 codes, 1 items and 2 labels"),
        ((codes, items, np.ones((2, 3))), r"labels have shape \[2, 3\]; the schema expects \[n\]"),
    ):
        with pytest.raises(ValueError, match=said):
            parquet_layout.table(*arguments, layout)
    with pytest.raises(ValueError, match="ids do not fit it"):
        parquet_layout.table(codes, items, labels, layout, np.arange(2))
    with pytest.raises(TypeError, match="codes is int64"):
        parquet_layout.table(np.zeros((2, 8), np.int64), items, labels, layout)


def test_the_extra_is_named_without_pyarrow(tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=re.escape("pip install 'hashfast[parquet]'")):
        write_parquet(EXAMPLES["plain"], tmp_path / "set")


def test_a_missing_part_is_noticed(tmp_path):
    parts = write_parquet(Gallery.of(np.zeros((5, 8), np.uint8), 64), tmp_path / "set", 2)
    parts[1].unlink()
    for read in (read_parquet, ParquetSet):
        with pytest.raises(ValueError, match="has 3 rows in 2 files and was written with 5"):
            read(tmp_path / "set")
