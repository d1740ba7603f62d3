"""Index files: what is written, what is read back, and what damaged files do."""

import os
import stat
import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from hamming_oracle import assert_same, brute_force, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from index_examples import every_index, examples, index_of

from hashfast import IndexBinaryFlat, load_index
from hashfast.index import io

pytestmark = pytest.mark.filterwarnings("error")
HEADER = struct.Struct("<4siiqBi")
CODES = random_codes(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def bytes_of(index):
    file = BytesIO()
    index.write(file)
    return file.getvalue()


WHOLE = [bytes_of(index) for index in examples()]


@every_index
@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("number", range(len(examples())))
def test_file_round_trip(tmp_path, kind, number, mmap):
    index, path = examples(kind)[number], tmp_path / "codes.idx"
    index.save(path)
    again = load_index(path, mmap=mmap)
    assert repr(again) == repr(index)
    np.testing.assert_array_equal(again.codes, index.codes)
    np.testing.assert_array_equal(again.ids, index.ids)
    query = random_codes(2, index.code_size) & (0xFF << (-index.d % 8) & 0xFF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(again.search(query, 6), index.search(query, 6))
    again.save(path)  # over the very file that is mapped
    np.testing.assert_array_equal(again.codes, index.codes)
    assert os.listdir(tmp_path) == ["codes.idx"]


@every_index
def test_codes_of_every_width(tmp_path, kind):
    """A file tells its kind whatever its first bytes are: the width may be that of a bracket."""
    path = tmp_path / "codes.idx"
    for size in (1, 60, ord("["), ord("{"), ord("}"), 256 + ord("{")):
        index = index_of(random_codes(2, size), 8 * size, kind=kind)
        index.save(path)
        again = load_index(path)
        assert repr(again) == repr(index)
        np.testing.assert_array_equal(again.codes, index.codes)


def test_layout_of_the_file(tmp_path):
    path = tmp_path / "codes.idx"
    index_of(CODES).save(path)
    flat = HEADER.pack(b"IBxF", 64, 8, 4, 1, 1) + struct.pack("<Q", 32) + CODES.tobytes()
    assert path.read_bytes() == flat
    assert len(flat) - CODES.nbytes == 33
    index = IndexBinaryFlat(64)
    index.add_with_ids(CODES, [3, 1, -4, 1])
    index.save(path)
    ids = struct.pack("<Q4q", 4, 3, 1, -4, 1)
    assert path.read_bytes() == HEADER.pack(b"IBMp", 64, 8, 4, 1, 1) + flat + ids


@every_index
def test_changing_a_memory_mapped_index_leaves_the_file_alone(tmp_path, kind):
    path = tmp_path / "codes.idx"
    for index in (index_of(CODES, kind=kind), kind(64)):
        index.save(path)
        before = path.read_bytes()
        mapped = load_index(path, mmap=True)
        mapped.add(CODES[:1])
        expected = np.concatenate([index.codes, CODES[:1]])
        assert_same(mapped.search(CODES, 1), brute_force(CODES, expected, 1))
        mapped.reset()
        mapped.add(CODES)
        assert path.read_bytes() == before
    for index in (index_of(CODES, kind=kind), index_of(CODES, ids=[3, 1, 0, 1], kind=kind)):
        index.save(path)
        before = path.read_bytes()
        mapped = load_index(path, mmap=True)
        codes, rows = mapped.codes, np.flatnonzero(index.ids != 1)
        assert mapped.remove_ids([1]) == 4 - len(rows)
        np.testing.assert_array_equal(mapped.codes, CODES[rows])
        assert path.read_bytes() == before
        np.testing.assert_array_equal(codes, CODES)  # still the map of the file


def test_searching_a_memory_mapped_index_of_many_codes(tmp_path):
    """The codes start at byte 33 of the file, or 58 behind an id map's header."""
    codes, query, path = random_codes(5_003), random_codes(9, seed=1), tmp_path / "codes.idx"
    expected = brute_force(query, codes, 70)
    for ids in (None, np.arange(5_003) * 7):
        index_of(codes, ids=ids).save(path)
        mapped = load_index(path, mmap=True)
        start = 33 if ids is None else 58
        assert mapped.codes.ctypes.data % 4096 == start
        distances, found = mapped.search(query, 70)
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(found, expected[1] if ids is None else ids[expected[1]])


def headers_of(raw):
    return [0, HEADER.size] if raw[:4] == b"IBMp" else [0]


def test_truncated_and_lengthened_files(tmp_path):
    path = tmp_path / "codes.idx"
    for index in examples():
        index.save(path)
        raw = path.read_bytes()
        for size in range(len(raw)):
            path.write_bytes(raw[:size])
            for mmap in (False, True):
                with pytest.raises(ValueError, match=r"truncated|not a flat binary index"):
                    load_index(path, mmap=mmap)
        path.write_bytes(raw + b"12345")
        with pytest.raises(ValueError, match=r"codes\.idx: 5 bytes too long"):
            load_index(path)


@pytest.mark.parametrize(
    ("offset", "form", "values"),
    [
        (0, "<4s", [b"IxFI", b"\x89PNG", b"PK\x03\x04", b"\0\0\0\0", b"IBwF"]),
        (4, "<i", [0, -64, 63, 56, 72, 2**31 - 1, -(2**31)]),
        (8, "<i", [0, -8, 7, 9, 2**31 - 1]),
        (12, "<q", [-1, 0, 3, 5, 2**40, 2**63 - 1, -(2**63)]),
        (20, "<B", [0, 2, 255]),
        (21, "<i", [0, 2, -1]),
        (25, "<Q", [0, 31, 33, 2**32 + 32, 2**63, 2**64 - 1]),
    ],
)
def test_every_header_field_is_checked(tmp_path, offset, form, values):
    path = tmp_path / "codes.idx"
    for index in (index_of(CODES), examples()[4]):
        index.save(path)
        raw = path.read_bytes()
        starts = headers_of(raw)
        for start in starts[-1:] if offset == 25 else starts:
            for value in values:
                spoiled = bytearray(raw)
                struct.pack_into(form, spoiled, start + offset, value)
                path.write_bytes(spoiled)
                for mmap in (False, True):
                    with pytest.raises(ValueError, match=r"codes\.idx: "):
                        load_index(path, mmap=mmap)


def test_the_number_of_ids_is_checked(tmp_path):
    path = tmp_path / "codes.idx"
    examples()[4].save(path)
    raw = bytearray(path.read_bytes())
    for count in (0, 3, 5, 2**64 - 1):
        struct.pack_into("<Q", raw, len(raw) - 4 * 8 - 8, count)
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=f"announces {count} ids, but .* asks for 4"):
            load_index(path)


NUMBERS = [0, 1, 7, 8, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**61, 2**62, 2**63 - 9, 2**63 - 1]
NUMBERS += [2**63, 2**63 + 1, 2**64 - 8, 2**64 - 1]


@st.composite
def damaged(draw):
    """An index file with bits flipped, numbers and runs of bytes replaced, cut or lengthened."""
    raw = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(
            st.integers(0, max(len(raw) - 1, 0)) | st.sampled_from([4, 8, 12, 25, 29, 37, 50])
        )
        kind = draw(st.sampled_from(["bit", "number", "bytes", "cut", "more"]))
        if kind == "bit" and at < len(raw):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width = draw(st.sampled_from([4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * width)
            raw[at : at + width] = number.to_bytes(width, "little")
        elif kind == "bytes":
            replacement = draw(st.binary(max_size=9))
            raw[at : at + len(replacement)] = replacement
        elif kind == "cut":
            del raw[at:]
        else:
            raw += draw(st.binary(max_size=40))
    return bytes(raw)


FOURCCS = st.sampled_from([b"", b"IBxF", b"HFxF", b"IBMp", b"IBM2"])
foreign = st.builds(bytes.__add__, FOURCCS, st.binary(max_size=99))


@settings(max_examples=600, deadline=None)
@given(raw=damaged() | foreign)
def test_any_damage_is_a_value_error_or_an_index_of_the_same_size(folder, raw):
    path, copy = folder / "damaged.idx", folder / "copy.idx"
    path.write_bytes(raw)
    for mmap in (False, True):
        try:
            index = load_index(path, mmap=mmap)
        except ValueError:
            continue
        assert index.codes.shape == (index.ntotal, index.code_size)
        assert index.ids.shape == (index.ntotal,)
        index.save(copy)
        assert copy.stat().st_size == len(raw)
        if index.ntotal:
            query = np.zeros((1, index.code_size), np.uint8)
            assert index.search(query, 1)[1][0, 0] in index.ids
    path.unlink()  # a mapped file must not be overwritten in place


def test_other_things_than_files(tmp_path):
    with pytest.raises(IsADirectoryError):
        load_index(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "none.idx")
    for mmap in (False, True):
        with pytest.raises(ValueError, match="/dev/null: not a flat binary index: the file ends"):
            load_index("/dev/null", mmap=mmap)


def test_wording_of_foreign_files(tmp_path):
    path = tmp_path / "other.idx"
    for raw, message in [
        (b"", "not a flat binary index: the file ends where its type stands; expected one of IBxF"),
        (b"\x89PNG\r\n", r"not a flat binary index: found b'\\x89PNG' where"),
        (b"IBxF" + bytes(9), "truncated: the file ends after 13 bytes, inside a header"),
        (HEADER.pack(b"IBxF", 64, 8, 9, 1, 1), "truncated: 25 bytes, but its header asks for 105"),
        (HEADER.pack(b"IBxF", 64, 8, -1, 1, 1), "the header says -1 codes"),
        (HEADER.pack(b"IBxF", 0, 0, 0, 1, 1) + bytes(8), "says 0 bits in 0 bytes per code"),
        (HEADER.pack(b"IBxF", 60, 8, 0, 1, 1), "says 60 bits, which IBxF files do not hold"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=f"other.idx: .*{message}"):
            load_index(path)


@every_index
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_old_file_whole(tmp_path, monkeypatch, kind, call):
    path = tmp_path / "codes.idx"
    index_of(CODES, kind=kind).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        index_of(CODES[:1], kind=kind).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["codes.idx"]


@every_index
@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_saving_keeps_permissions_and_links(tmp_path, kind):
    path, link = tmp_path / "codes.idx", tmp_path / "link.idx"
    index_of(CODES, kind=kind).save(path)
    path.chmod(0o600)
    link.symlink_to(path)
    index_of(CODES[:1], kind=kind).save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(load_index(path)) == 1
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist"):
        index_of(CODES, kind=kind).save(tmp_path / "none" / "codes.idx")


def test_a_folder(tmp_path):
    for mmap in (False, True):
        with pytest.raises(
            IsADirectoryError, match=r"is a folder; .*Gallery\.load reads galleries"
        ):
            load_index(tmp_path, mmap=mmap)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"\x93NUMPY\x01\x00", "an .npy file: numpy.load"),
        (b"IBHm" + bytes(40), "another kind of faiss index: add its codes"),
    ],
)
def test_files_of_others_are_told_apart(content, hint, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=hint):
        load_index(tmp_path / "file")
