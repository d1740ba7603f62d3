"""Parts of sets of codes: together they are the set, and a part reads its own rows only."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hamming_oracle import random_codes
from index_examples import index_of

import hashfast
from hashfast.index import Gallery, IndexBinaryMultiHash, count_codes, open_part
from hashfast.index.parquet import write_parquet
from hashfast.index.shards import read_facts

N = 11
IDS = np.arange(N) * 7 - 3
INFO = {"fingerprint": "abc", "code_spaces": ["abc", "d"]}


def codes_of(bits):
    return hashfast.pack(np.random.default_rng(bits).standard_normal((N, bits)))


def gallery_of(bits, ids=None):
    return Gallery(
        index_of(codes_of(bits), bits, ids), list(map(str, range(N))), np.full(N, -1), INFO
    )


def npy(path):
    np.save(path / "codes.npy", codes_of(16))
    return path / "codes.npy"


def npy_by_columns(path):
    np.save(path / "codes.npy", np.asfortranarray(codes_of(16)))
    return path / "codes.npy"


def index_file(path, bits=16, ids=None):
    index_of(codes_of(bits), bits, ids).save(path / "codes.bin")
    return path / "codes.bin"


def gallery(path):
    gallery_of(13).save(path / "g")
    return path / "g"


def parquet(path, ids=None):
    write_parquet(gallery_of(13, ids), path / "p", 4)
    return path / "p"


def one_parquet(path):
    return write_parquet(gallery_of(16), path / "p")[0]


SETS = {
    "npy": (npy, 16, None),
    "npy by columns": (npy_by_columns, 16, None),
    "index": (index_file, 16, None),
    "index of odd bits": (lambda path: index_file(path, 13), 13, None),
    "index with ids": (lambda path: index_file(path, 16, IDS), 16, IDS),
    "gallery": (gallery, 13, None),
    "parquet": (parquet, 13, None),
    "parquet with ids": (lambda path: parquet(path, IDS), 13, IDS),
    "one parquet file": (one_parquet, 16, None),
}


@pytest.mark.parametrize("name", SETS)
def test_parts_are_the_whole(name, tmp_path):
    write, bits, ids = SETS[name]
    path = write(tmp_path)
    assert count_codes(str(path)) == (N, bits)
    for parts in (1, 2, 3, 2 * N):
        expected = [rows.numpy() for rows in torch.arange(N).tensor_split(parts)]
        for number, rows in enumerate(expected):
            part = open_part(str(path), number, parts)
            assert (part.bits, part.n_total) == (bits, N)
            assert part.first_row == sum(map(len, expected[:number]))
            assert part.codes.dtype == np.uint8
            np.testing.assert_array_equal(part.codes, codes_of(bits)[rows])
            if ids is None:
                assert part.ids is None
            else:
                assert part.ids.dtype == np.int64
                np.testing.assert_array_equal(part.ids, ids[rows])
    whole = open_part(path)
    assert len(whole.codes) == N


@pytest.mark.parametrize("name", SETS)
def test_facts_of_a_set(name, tmp_path):
    facts = read_facts(SETS[name][0](tmp_path))
    if "gallery" in name or "parquet" in name:
        assert {key: facts[key] for key in INFO} == INFO
    else:
        assert facts == {}


@pytest.mark.parametrize("name", [name for name in SETS if "parquet" not in name])
def test_codes_stay_where_they_lie(name, tmp_path):
    """Of a file only the rows that a search touches are read."""
    array = open_part(SETS[name][0](tmp_path), 1, 2).codes
    while not isinstance(array, np.memmap):
        array = array.base
        assert array is not None
    assert array.mode == "r"


def test_a_part_of_parquet_reads_its_rows(tmp_path, monkeypatch):
    path, read = parquet(tmp_path, IDS), []
    original = pq.ParquetFile.read_row_group

    def counted(self, group, columns):
        read.append((self.metadata.num_rows, *columns))
        return original(self, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    count_codes(path)
    assert read == []
    open_part(path, 2, 3)  # rows 8 to 10 of files of 4, 4 and 3
    assert read == [(3, "code"), (3, "id")]


@pytest.mark.parametrize(
    ("part", "parts", "said"),
    [
        (2, 2, "part is 2; expected at most 1"),
        (-1, 2, "part is -1; expected at least 0"),
        (0, 0, "parts is 0; expected at least 1"),
    ],
)
def test_there_is_no_such_part(part, parts, said, tmp_path):
    for path in (npy(tmp_path), parquet(tmp_path)):
        with pytest.raises(ValueError, match=said):
            open_part(path, part, parts)
        with pytest.raises(TypeError, match=r"part is 0\.5"):
            open_part(path, 0.5, 2)


def test_the_ends_of_a_set_are_read_once(tmp_path, monkeypatch):
    path, opened = parquet(tmp_path), []
    original = pq.ParquetFile.__init__

    def counted(self, source, *arguments, **options):
        opened.append(source.name)
        original(self, source, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", counted)
    open_part(path, 2, 3)
    ends = [f"part-0000{number}.parquet" for number in range(3)]
    assert opened == [*ends, ends[2]]  # and one for its codes


def test_a_set_of_no_codes(tmp_path):
    np.save(tmp_path / "codes.npy", random_codes(0))
    hashfast.IndexBinaryFlat(64).save(tmp_path / "codes.bin")
    for name in ("codes.npy", "codes.bin"):
        assert count_codes(tmp_path / name) == (0, 64)
        part = open_part(tmp_path / name, 1, 2)
        assert part.codes.shape == (0, 8)
        assert (part.first_row, part.n_total, part.ids) == (0, 0, None)


# ---- what is no set of codes ----------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_a_damaged_npy_is_named(content, tmp_path):
    path = npy(tmp_path)
    path.write_bytes(content)
    for function in (count_codes, open_part):
        with pytest.raises(ValueError, match=r"codes.npy is not a readable .npy file"):
            function(path)
    whole = npy(tmp_path).read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"codes.npy is not a readable .npy file"):
        open_part(path)


def test_other_arrays_are_refused(tmp_path):
    path = tmp_path / "codes.npy"
    np.save(path, np.zeros((3, 8), np.int8))
    with pytest.raises(TypeError, match=r"codes.npy is int8; expected packed codes"):
        open_part(path)
    np.save(path, np.zeros(8, np.uint8))
    with pytest.raises(ValueError, match=r"codes.npy has shape \[8\]"):
        count_codes(path)


def test_damaged_files_are_named(tmp_path):
    path = index_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    for function in (count_codes, open_part):
        with pytest.raises(ValueError, match=r"codes.bin: truncated"):
            function(path)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            function(tmp_path / "nowhere")
    parts = parquet(tmp_path)
    (parts / "part-00001.parquet").write_bytes(b"")
    for function in (count_codes, open_part, read_facts):
        with pytest.raises(ValueError, match=r"part-00001.parquet is not a readable"):
            function(parts)


def test_a_multi_index_hash_is_no_file_to_cut(tmp_path):
    index = IndexBinaryMultiHash(16)
    index.add(codes_of(16))
    index.save(tmp_path / "codes.mih")
    for function in (count_codes, open_part):
        with pytest.raises(ValueError, match=r"codes.mih is a .*`hashfast export .* --to faiss"):
            function(tmp_path / "codes.mih")


@pytest.mark.parametrize("name", ["codes.ibxf", "gallery.json"])
def test_half_a_gallery_is_refused(name, tmp_path):
    folder = gallery(tmp_path)
    (folder / name).unlink()
    for function in (count_codes, open_part):
        with pytest.raises(FileNotFoundError, match=f"no codes in .*g: it has no {name}"):
            function(folder)


def test_a_gallery_of_two_is_refused(tmp_path):
    folder = gallery(tmp_path)
    whole = json.loads((folder / "gallery.json").read_text())
    for change in ({"codes": 12}, {"bits": 16}):
        (folder / "gallery.json").write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=r"has 11 codes of 13 bits, gallery.json says"):
            open_part(folder)
    (folder / "gallery.json").write_text("[]")
    with pytest.raises(ValueError, match="does not describe a gallery"):
        open_part(folder)


def test_a_gallery_that_holds_parquet_too_is_a_gallery(tmp_path):
    folder = gallery(tmp_path)
    write_parquet(gallery_of(64), tmp_path / "p")
    shutil.copy(tmp_path / "p" / "part-00000.parquet", folder)
    assert count_codes(folder) == (N, 13)
    for name in ("codes.ibxf", "gallery.json"):  # so is one that has lost a file
        (folder / name).rename(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=f"no codes in .*g: it has no {name}"):
            count_codes(folder)
        (tmp_path / name).rename(folder / name)
