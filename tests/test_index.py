"""Search over packed codes and its index: against a brute-force ranking, and against faiss."""

import os
import re
import stat
import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hashfast
from hashfast import IndexBinaryFlat, load_index, range_search, search
from hashfast.index import io

PAD = (2**31 - 1, -1)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
HEADER = struct.Struct("<4siiqBi")


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def faiss():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old SWIG types warn while they are imported
        return pytest.importorskip("faiss")


def random_codes(n, size=8, seed=0, values=256):
    return np.random.default_rng(seed).integers(0, values, (n, size), dtype=np.uint8)


def all_distances(query, database):
    differing = np.unpackbits(query[:, None] ^ database[None], axis=2)
    return differing.sum(axis=2, dtype=np.int32)


def brute_force(query, database, k):
    """The k nearest, ordered by (distance, row), padded."""
    distances = np.full((len(query), k), PAD[0], np.int32)
    rows = np.full((len(query), k), PAD[1], np.int64)
    for i, row in enumerate(all_distances(query, database)):
        order = np.argsort(row, kind="stable")[:k]
        distances[i, : len(order)], rows[i, : len(order)] = row[order], order
    return distances, rows


def brute_force_range(query, database, radius):
    limits, distances, rows = [0], [], []
    for row in all_distances(query, database):
        order = np.argsort(row, kind="stable")
        order = order[row[order] <= radius]
        limits.append(limits[-1] + len(order))
        distances.extend(row[order])
        rows.extend(order)
    return np.array(limits, np.int64), np.array(distances, np.int32), np.array(rows, np.int64)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def index_of(codes, bits=64, **kwargs):
    index = IndexBinaryFlat(bits, **kwargs)
    index.add(codes)
    return index


# ---- ranking -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranking_equals_brute_force(data):
    size = data.draw(st.sampled_from([1, 2, 4, 5, 8, 16]))
    n = data.draw(st.integers(0, 40))
    values = data.draw(st.sampled_from([2, 256]))  # 2: nearly all codes are duplicates
    seed = data.draw(st.integers(0, 2**16))
    k = data.draw(st.integers(1, 45))
    radius = data.draw(st.integers(0, 8 * size + 2))
    database = random_codes(n, size, seed, values)
    query = random_codes(data.draw(st.integers(0, 4)), size, seed + 1, values)
    cut = data.draw(st.integers(0, n))
    ids = np.random.default_rng(seed).integers(0, 2**62, n)

    index = index_of(database[:cut], 8 * size)
    index.add(database[cut:])
    with_ids = IndexBinaryFlat(8 * size)
    with_ids.add_with_ids(torch.from_numpy(database[:cut]), ids[:cut])
    with_ids.add_with_ids(database[cut:], ids[cut:].tolist())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances, rows = brute_force(query, database, k)
        assert_same(search(query, database, k), (distances, rows))
        assert_same(index.search(query, k), (distances, rows))
        mapped = np.where(rows < 0, rows, np.append(ids, 0)[rows])
        assert_same(with_ids.search(query, k), (distances, mapped))
    expected = brute_force_range(query, database, radius)
    assert_same(range_search(query, database, radius), expected)
    assert_same(index.range_search(query, radius), expected)
    assert_same(with_ids.range_search(query, radius), (*expected[:2], ids[expected[2]]))


def test_ties_keep_the_order_of_adding_whatever_the_ids():
    codes = np.repeat(random_codes(1), 5, axis=0)
    index = IndexBinaryFlat(64)
    index.add_with_ids(codes, [50, -7, 30, 2**62, 10])
    distances, ids = index.search(codes[:1], 3)
    assert distances.tolist() == [[0, 0, 0]]
    assert ids.tolist() == [[50, -7, 30]]


def test_radius_is_included():
    codes = np.array([[0b0], [0b1], [0b11]], np.uint8)
    limits, distances, ids = index_of(codes, 8).range_search(codes[:1], 1)
    assert (limits.tolist(), distances.tolist(), ids.tolist()) == ([0, 2], [0, 1], [0, 1])
    assert index_of(codes, 8).range_search(codes[:1], 2**70)[2].tolist() == [0, 1, 2]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_more_neighbours_than_codes_are_padded_with_one_warning(n):
    database, query = random_codes(n), random_codes(2, seed=1)
    for run in (lambda: search(query, database, 5), lambda: index_of(database).search(query, 5)):
        with pytest.warns(UserWarning, match=f"k is 5 but there are {n} codes") as caught:
            found = run()
        assert [os.path.basename(w.filename) for w in caught] == ["test_index.py"]
        assert_same(found, brute_force(query, database, 5))


def test_empty_query():
    query, database = random_codes(0), random_codes(9)
    for distances, ids in (search(query, database, 4), index_of(database).search(query, 4)):
        assert (distances.shape, ids.shape) == ((0, 4), (0, 4))
    assert [len(part) for part in range_search(query, database, 64)] == [1, 0, 0]


def test_bits_that_fill_no_byte():
    values = np.random.default_rng(0).standard_normal((30, 13))
    codes = hashfast.pack(values)
    index = index_of(codes, 13)
    assert (index.d, index.code_size) == (13, 2)
    assert_same(index.search(codes[:3], 30), brute_force(codes[:3], codes, 30))
    spoiled = codes | 1
    with pytest.raises(ValueError, match=r"last 3 bits of a code are set; .* 13-bit codes"):
        index.search(spoiled, 1)
    with pytest.raises(ValueError, match="codes: some of the last 3 bits"):
        index.add(spoiled)


# ---- numpy and torch -----------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_results_come_back_as_the_query_came(device):
    database, query = random_codes(50), random_codes(3, seed=1)
    there = torch.from_numpy(query).to(device)
    expected, within = brute_force(query, database, 7), brute_force_range(query, database, 30)
    on_device = torch.from_numpy(database).to(device)
    index = index_of(database, device=device)
    ids = np.arange(50) * 3 - 60
    with_ids = IndexBinaryFlat(64, device=device)
    with_ids.add_with_ids(on_device, torch.from_numpy(ids))
    for data in (database, on_device):
        assert_same(search(query, data, 7), expected)
        found = search(there, data, 7) + range_search(there, data, 30)
        assert {part.device.type for part in found} == {device}
        assert_same([part.cpu().numpy() for part in found], expected + within)
    for at, same in ((query, np.asarray), (there, lambda part: part.cpu().numpy())):
        assert_same([same(part) for part in index.search(at, 7)], expected)
        assert_same([same(part) for part in index.range_search(at, 30)], within)
        mapped = (expected[0], ids[expected[1]])
        assert_same([same(part) for part in with_ids.search(at, 7)], mapped)
    assert with_ids.ids.tolist() == ids.tolist()
    assert with_ids.reconstruct(-57).tolist() == database[1].tolist()
    assert with_ids.codes.tolist() == database.tolist()


def test_awkward_arrays_search_and_add_the_same():
    wide = random_codes(40, 32)
    read_only = random_codes(40)
    read_only.flags.writeable = False
    for codes in (wide[::2, ::4], wide[:, 8:16], wide[::-1, 7::-1], np.asfortranarray(wide)):
        bits, query = 8 * codes.shape[1], codes[:4]
        expected = brute_force(query, codes, 9)
        assert_same(search(query, codes, 9), expected)
        assert_same(index_of(codes, bits).search(query, 9), expected)
    expected = brute_force(read_only[:4], read_only, 9)
    assert_same(search(read_only[:4], read_only, 9), expected)
    assert_same(index_of(read_only).search(read_only[:4], 9), expected)
    assert not read_only.flags.writeable


def test_the_database_is_not_copied(tmp_path, monkeypatch):
    path = tmp_path / "codes.bin"
    random_codes(100).tofile(path)
    mapped = np.memmap(path, np.uint8, "r").reshape(-1, 8)
    seen = []

    def hamming_topk(query, database, k):
        seen.append(database.data_ptr())
        return torch.zeros(len(query), k, dtype=torch.int32), torch.zeros(len(query), k).long()

    monkeypatch.setattr(hashfast.ops, "hamming_topk", hamming_topk)
    search(random_codes(1), mapped, 2)
    search(random_codes(1), mapped[5::2], 2)
    start = mapped.ctypes.data
    assert seen == [start, start + 40]


def test_read_only_arrays_bring_no_warning():
    codes = random_codes(9)
    codes.flags.writeable = False
    torch.set_warn_always(True)  # torch tells of read-only arrays once a process otherwise
    try:
        assert_same(search(codes, codes, 2), brute_force(codes, codes, 2))
        assert_same(index_of(codes).search(codes, 2), brute_force(codes, codes, 2))
    finally:
        torch.set_warn_always(False)


# ---- the index -----------------------------------------------------------------------------


def test_adding_and_forgetting():
    codes = random_codes(300)
    index = IndexBinaryFlat(64)
    assert (index.d, index.code_size, index.ntotal, index.is_trained) == (64, 8, 0, True)
    moves, start = 0, None
    for i in range(300):
        index.add(codes[i : i + 1])
        moves += index.codes.ctypes.data != start
        start = index.codes.ctypes.data
    assert len(index) == index.ntotal == 300
    assert moves < 20  # memory grows by factors
    np.testing.assert_array_equal(index.codes, codes)
    assert not index.codes.flags.writeable
    index.add(index.codes)
    np.testing.assert_array_equal(index.codes, np.concatenate([codes, codes]))
    index.reset()
    assert (index.ntotal, index.codes.shape) == (0, (0, 8))
    index.add_with_ids(codes, range(300))
    assert index.ntotal == 300


def test_reconstruct():
    codes = random_codes(5)
    index = index_of(codes)
    copy = index.reconstruct(3)
    assert copy.tolist() == codes[3].tolist()
    copy[:] = 0
    np.testing.assert_array_equal(index.codes, codes)
    for missing in (-1, 5):
        with pytest.raises(IndexError, match=f"id {missing} is not in this index of 5 codes"):
            index.reconstruct(missing)
    index = IndexBinaryFlat(64)
    index.add_with_ids(codes, [9, 8, 9, -3, 2**40])
    assert index.ids.tolist() == [9, 8, 9, -3, 2**40]
    assert index.reconstruct(9).tolist() == codes[2].tolist()  # repeated: the last one
    assert index.reconstruct(2**40).tolist() == codes[4].tolist()
    with pytest.raises(IndexError, match="id 0 is not"):
        index.reconstruct(0)


def test_ids_are_checked():
    codes = random_codes(3)
    index = IndexBinaryFlat(64)
    for ids, error, message in [
        ([1, 2], ValueError, r"shape \(2,\); expected one id per code, \(3,\)"),
        ([1.0, 2.0, 3.0], TypeError, "ids is float64; expected integers"),
        ([1, -1, 3], ValueError, "id -1 is taken"),
        (np.array([1, 2, 2**63], np.uint64), ValueError, "ids go up to 9223372036854775808"),
    ]:
        with pytest.raises(error, match=message):
            index.add_with_ids(codes, ids)
    assert len(index) == 0
    index.add_with_ids(codes, np.array([1, 2, 3], np.uint8))
    with pytest.raises(ValueError, match="use add_with_ids"):
        index.add(codes)
    with pytest.raises(ValueError, match="numbers its 3 codes itself: use add"):
        index_of(codes).add_with_ids(codes, [1, 2, 3])


CODES = random_codes(4)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (CODES[:, :7], ValueError, r"query has 7 bytes per code \(56 bits\); "),
        (CODES[:, :1], ValueError, r"query has 1 byte per code \(8 bits\); "),
        (np.zeros((4, 64), np.uint8), ValueError, r"query has 64 bytes per code \(512 bits\); "),
        (CODES[0], ValueError, r"shape \[8\]; .* give a single code an axis, codes\[None, :\]"),
        (CODES[None], ValueError, r"shape \[1, 4, 8\]; expected \[n, bytes per code\]"),
        (CODES[:, :0], ValueError, r"shape \[4, 0\]; expected \[n, bytes per code\]"),
        (CODES.astype(np.float32), TypeError, "query is float32; .* hashfast.pack"),
        (torch.ones(4, 8, dtype=torch.bfloat16), TypeError, "query is bfloat16; .* hashfast.pack"),
        (CODES > 3, TypeError, "query is bool; .* hashfast.pack"),
        (torch.ones(4, 8, dtype=torch.int64), TypeError, "query is int64; .* hashfast.pack"),
        (CODES.view(np.int8), TypeError, "query is int8; .* hashfast.pack.* precision='ubinary'"),
        (torch.ones(4, 8).char(), TypeError, "query is int8; .* precision='ubinary'"),
        ([[1, 2]], TypeError, "query is a list; .* numpy array or torch tensor"),
    ],
)
def test_bad_codes(query, error, message):
    for run in (
        lambda: search(query, CODES, 1),
        lambda: range_search(query, CODES, 1),
        lambda: index_of(CODES).search(query, 1),
        lambda: index_of(CODES).range_search(query, 1),
    ):
        with pytest.raises(error, match=message):
            run()
    index = index_of(CODES)
    for add in (index.add, lambda codes: index.add_with_ids(codes, [0])):
        with pytest.raises((error, ValueError)):
            add(query)
    assert len(index) == 4


def test_wording_of_widths():
    index = index_of(CODES)
    for run, message in [
        (
            lambda: index.search(CODES[:, :7], 1),
            "query has 7 bytes per code (56 bits); this index holds 64-bit codes (8 bytes)",
        ),
        (
            lambda: index.add(CODES[:, :7]),
            "codes has 7 bytes per code (56 bits); this index holds 64-bit codes (8 bytes)",
        ),
        (
            lambda: search(CODES[:, :7], CODES, 1),
            "query has 7 bytes per code (56 bits); database has 8 bytes per code (64 bits)",
        ),
        (
            lambda: index.search(np.zeros((2, 64), np.uint8), 1),
            "query has 64 bytes per code (512 bits); this index holds 64-bit codes (8 bytes). "
            "If they hold one 0/1 byte per bit, pack them: hashfast.pack(values > 0)",
        ),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            run()
    with pytest.raises(TypeError, match="database is float64"):
        search(CODES, CODES.astype(float), 1)


def test_bad_numbers():
    index = index_of(CODES)
    for k in (0, -3):
        with pytest.raises(ValueError, match=f"k is {k}; expected at least 1"):
            search(CODES, CODES, k)
        with pytest.raises(ValueError, match=f"k is {k}; expected at least 1"):
            index.search(CODES, k)
    with pytest.raises(TypeError, match=r"k is 2\.5; expected an integer"):
        index.search(CODES, 2.5)
    with pytest.raises(ValueError, match="radius is -1; expected at least 0"):
        index.range_search(CODES, -1)
    with pytest.raises(TypeError, match=r"radius is 0\.5; expected an integer"):
        range_search(CODES, CODES, 0.5)
    with pytest.raises(ValueError, match="bits is 0; expected at least 1"):
        IndexBinaryFlat(0)
    assert index.search(CODES, np.int64(2))[0].shape == (4, 2)


# ---- files ---------------------------------------------------------------------------------


def examples():
    """Indexes of every kind of file: with and without ids, empty, odd numbers of bits."""
    plain = [index_of(random_codes(7)), index_of(random_codes(3, 1), 8), IndexBinaryFlat(128)]
    padded = index_of(hashfast.pack(np.random.default_rng(0).standard_normal((5, 13))), 13)
    with_ids, with_ids_padded = IndexBinaryFlat(64), IndexBinaryFlat(13)
    with_ids.add_with_ids(random_codes(4), [5, -9, 2**61, 5])
    with_ids_padded.add_with_ids(padded.codes, range(10, 15))
    return [*plain, padded, with_ids, with_ids_padded]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("number", range(len(examples())))
def test_file_round_trip(tmp_path, number, mmap):
    index, path = examples()[number], tmp_path / "codes.idx"
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


def test_adding_to_a_memory_mapped_index_leaves_the_file_alone(tmp_path):
    path = tmp_path / "codes.idx"
    for index in (index_of(CODES), IndexBinaryFlat(64)):
        index.save(path)
        before = path.read_bytes()
        mapped = load_index(path, mmap=True)
        mapped.add(CODES[:1])
        expected = np.concatenate([index.codes, CODES[:1]])
        assert_same(mapped.search(CODES, 1), brute_force(CODES, expected, 1))
        mapped.reset()
        mapped.add(CODES)
        assert path.read_bytes() == before


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


@settings(max_examples=150, deadline=None)
@given(
    number=st.integers(0, 5), edits=st.lists(st.tuples(st.integers(0, 70), st.binary(max_size=9)))
)
def test_any_damage_is_a_value_error_or_harmless(tmp_path_factory, number, edits):
    path = tmp_path_factory.getbasetemp() / "damaged.idx"
    index = examples()[number]
    index.save(path)
    raw = bytearray(path.read_bytes())
    for at, replacement in edits:
        raw[at : at + len(replacement)] = replacement
    path.write_bytes(raw)
    for mmap in (False, True):
        try:
            loaded = load_index(path, mmap=mmap)
        except ValueError:
            continue
        assert loaded.codes.shape == (loaded.ntotal, loaded.code_size)
        assert loaded.codes.nbytes < len(raw)
        loaded.codes.sum()


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
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "none.idx")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_old_file_whole(tmp_path, monkeypatch, call):
    path = tmp_path / "codes.idx"
    index_of(CODES).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        index_of(CODES[:1]).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["codes.idx"]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_saving_keeps_permissions_and_links(tmp_path):
    path, link = tmp_path / "codes.idx", tmp_path / "link.idx"
    index_of(CODES).save(path)
    path.chmod(0o600)
    link.symlink_to(path)
    index_of(CODES[:1]).save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(load_index(path)) == 1
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist"):
        index_of(CODES).save(tmp_path / "none" / "codes.idx")


# ---- faiss ---------------------------------------------------------------------------------


def test_files_equal_those_of_faiss(tmp_path, faiss):
    ours, theirs = tmp_path / "ours.idx", tmp_path / "theirs.idx"
    for index in examples():
        if index.d % 8:
            continue
        index.save(ours)
        faiss.write_index_binary(index.to_faiss(), os.fspath(theirs))
        assert ours.read_bytes() == theirs.read_bytes()
        for path in (ours, theirs):
            back = IndexBinaryFlat.from_faiss(faiss.read_index_binary(os.fspath(path)))
            for again in (back, load_index(path), load_index(path, mmap=True)):
                np.testing.assert_array_equal(again.codes, index.codes)
                np.testing.assert_array_equal(again.ids, index.ids)


def test_second_id_map_of_faiss(tmp_path, faiss):
    path = os.fspath(tmp_path / "map2.idx")
    theirs = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(64))
    theirs.add_with_ids(CODES, np.array([4, 2, 8, 6]))
    faiss.write_index_binary(theirs, path)
    for index in (load_index(path), IndexBinaryFlat.from_faiss(theirs)):
        assert index.ids.tolist() == [4, 2, 8, 6]
        assert index.reconstruct(8).tolist() == theirs.reconstruct(8).tolist()


def test_search_agrees_with_faiss(faiss):
    database, query = random_codes(500, values=4), random_codes(20, seed=1, values=4)
    index = index_of(database)
    distances, ids = index.search(query, 25)
    theirs, their_ids = index.to_faiss().search(query, 25)
    np.testing.assert_array_equal(distances, theirs)
    for i in range(20):  # faiss leaves ties at the k-th place to chance
        inside = distances[i] < distances[i, -1]
        assert set(ids[i, inside]) == set(their_ids[i, inside])
    limits, distances, ids = index.range_search(query, 9)
    their_limits, their_distances, their_ids = index.to_faiss().range_search(query, 10)
    np.testing.assert_array_equal(limits, their_limits.astype(np.int64))
    for i in range(20):
        part = slice(limits[i], limits[i + 1])
        expected = sorted(zip(their_distances[part], their_ids[part], strict=True))
        assert list(zip(distances[part], ids[part], strict=True)) == expected


def test_what_faiss_cannot_hold(tmp_path, faiss):
    index, path = index_of(hashfast.pack(np.ones((2, 13))), 13), tmp_path / "codes.idx"
    with pytest.raises(ValueError, match="faiss holds whole bytes, this index 13-bit codes"):
        index.to_faiss()
    index.save(path)
    with pytest.raises(RuntimeError, match="not recognized"):
        faiss.read_index_binary(os.fspath(path))
    for other in (faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 2), faiss.IndexFlatL2(8)):
        with pytest.raises(TypeError, match=f"index is {type(other).__name__}; expected faiss"):
            IndexBinaryFlat.from_faiss(other)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="faiss is not installed: pip install faiss-cpu"):
        index_of(CODES).to_faiss()
