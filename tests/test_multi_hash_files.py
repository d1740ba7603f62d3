"""Files of multi-index hashing: what is read back, what damaged ones do, and killed processes.

`python tests/test_multi_hash_files.py damage FOLDER` loads damaged files and searches what loads;
`... save FOLDER` is killed at every step of a save. Tests run both in processes of their own, so
that a crash is a failure.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hamming_oracle import assert_same, brute_force, random_codes
from index_examples import codes_of_kind, index_of, queries_for

from hashfast import IndexBinaryFlat, IndexBinaryMultiHash, load_index

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("one_thread")]


MOST_MEMORY = 12 << 30


def example(n=300, bits=64, ids=False, tail=20, **options):
    """An index with equal codes, some of them behind the tables."""
    codes = codes_of_kind("many duplicates", n, bits, np.random.default_rng(0))
    if not ids:
        index = index_of(codes[tail:], bits, kind=IndexBinaryMultiHash, **options)
        index.add(codes[:tail])
        return index
    ids = np.arange(n) * 5 - 70
    index = index_of(codes[tail:], bits, ids[tail:], IndexBinaryMultiHash, **options)
    index.add_with_ids(codes[:tail], ids[:tail])
    return index


EXAMPLES = {
    "plain": {},
    "ids": {"ids": True},
    "13 bits": {"bits": 13, "ids": True},
    "positions": {"copies": False, "tables": 5},
    "no groups": {"collapse": False},
    "256 bits": {"bits": 256, "tables": 20},
    "tail only": {"tail": 300},
    "tables only": {"tail": 0},
    "empty": {"n": 0, "tail": 0},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_read_back(tmp_path, name):
    index, path = example(**EXAMPLES[name]), tmp_path / "codes.idx"
    index.save(path)
    raw = path.read_bytes()
    queries = queries_for(index.codes, index.d, 9, np.random.default_rng(1))
    for mmap in (False, True):
        again = load_index(path, mmap=mmap)
        assert type(again) is IndexBinaryMultiHash
        assert repr(again) == repr(index)
        assert (again.widths, again.distinct) == (index.widths, index.distinct)
        np.testing.assert_array_equal(again.codes, index.codes)
        assert again.ids.tolist() == index.ids.tolist()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "k is")
            assert_same(again.search(queries, 25), index.search(queries, 25))
        assert_same(again.range_search(queries, 20), index.range_search(queries, 20))
        again.save(path)  # over the very file that is mapped
        assert path.read_bytes() == raw
        assert os.listdir(tmp_path) == ["codes.idx"]


def test_a_mapped_index_grows_in_memory_and_leaves_the_file_alone(tmp_path):
    path = tmp_path / "codes.idx"
    for ids in (False, True):
        index = example(ids=ids)
        index.save(path)
        raw, codes = path.read_bytes(), np.concatenate([index.codes, random_codes(40)])
        mapped = load_index(path, mmap=True)
        if ids:
            mapped.add_with_ids(codes[300:], range(10_000, 10_040))
        else:
            mapped.add(codes[300:])
        for _ in range(2):
            distances = mapped.search(codes[290:310], 9)[0]
            np.testing.assert_array_equal(distances, brute_force(codes[290:310], codes, 9)[0])
            mapped.build()
        assert mapped.remove_ids(mapped.ids[:7]) == 7
        np.testing.assert_array_equal(mapped.codes, codes[7:])
        mapped.reset()
        assert path.read_bytes() == raw


def test_files_do_not_depend_on_the_steps_of_adding(tmp_path):
    codes = random_codes(500, values=3)
    one, two = IndexBinaryMultiHash(64), IndexBinaryMultiHash(64)
    one.add(codes)
    for start in range(0, 500, 125):
        two.add(codes[start : start + 125])
        two.search(codes[:1], 1)
    for number, index in enumerate((one, two)):
        index.build()
        index.save(tmp_path / str(number))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_the_layout_is_that_of_safetensors(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "codes.idx"
    example(ids=True).save(path)
    arrays = load_file(path)
    assert sum(array.nbytes for array in arrays.values()) > 300 * 8
    assert any(array.size % 300 == 0 for array in arrays.values())


# ---- damage ----------------------------------------------------------------------------------


def parts_of(raw):
    """The header as a dictionary, and the arrays behind it."""
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def with_header(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


NUMBERS = [-(2**63), -1, 0, 1, 2, 31, 32, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**64, 1e9]
OTHERS = [None, True, "", "7", [], [1], {}, 0.5, [[1]], {"a": 1}]


def replaced(value, path=()):
    """Every way to replace one leaf of JSON, or to leave out or repeat one entry of it."""
    if isinstance(value, dict):
        for key in value:
            yield {one: other for one, other in value.items() if one != key}
            yield {f"{one}x" if one == key else one: other for one, other in value.items()}
            for changed in replaced(value[key]):
                yield value | {key: changed}
    elif isinstance(value, list):
        yield value[:-1]
        yield [*value, *value[-1:]]
        yield value[::-1]
        for at in range(len(value)):
            for changed in replaced(value[at]):
                yield [*value[:at], changed, *value[at + 1 :]]
    elif isinstance(value, str) and value[:1] in ("{", "["):  # JSON within JSON
        for changed in replaced(json.loads(value)):
            yield json.dumps(changed)
    if isinstance(value, int | str) and not isinstance(value, bool):
        number = int(value) if str(value).isdigit() else None
        if number is not None:
            near = [number + 1, number - 1, 2 * number, number // 2, number + 8, number - 8]
            yield from [type(value)(other) for other in [*near, *NUMBERS]]
    yield from OTHERS


def damaged(raw):
    """(what, bytes) of files that lie."""
    header, body = parts_of(raw)
    for changed in replaced(header):
        yield "header", with_header(changed, body)
    more = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    yield "header", with_header(header | {"more": more}, body)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        size = {"U8": 1, "U32": 4, "I64": 8, "U64": 8, "I32": 4}[entry["dtype"]]
        places = {first, first + size, (first + last) // 2 // size * size, last - size}
        for place in sorted(place for place in places if first <= place < last):
            for value in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**31 + 5, 299, 300, 301):
                number = (value % 2 ** (8 * size)).to_bytes(size, "little")
                yield name, with_header(header, body[:place] + number + body[place + size :])
        random = np.random.default_rng(len(name)).bytes(last - first)
        for replacement in (bytes(last - first), b"\xff" * (last - first), random):
            yield name, with_header(header, body[:first] + replacement + body[last:])
        middle = np.frombuffer(body[first:last], f"u{size}")[::-1].tobytes()
        yield name, with_header(header, body[:first] + middle + body[last:])


def foreign(raw):
    header, body = parts_of(raw)
    text = json.dumps(header).encode()
    yield from [b"", b"\x89PNG\r\n", b"PK\x03\x04", bytes(8), bytes(80), b"\xff" * 8, b"\xff" * 99]
    yield from [raw[:size] for size in range(32)]
    yield from [raw[: len(raw) * part // 37] for part in range(37)]
    yield from [raw[:-1], raw[:-8], raw + b"1", raw + raw]
    near = len(text) - 1, len(text) + 1, len(raw)
    for length in (0, 1, *near, 2**31, 2**40, 2**63 - 1, 2**64 - 1):
        yield length.to_bytes(8, "little") + text + body
    for other in (b"{}", b"[]", b"null", b"7", b'"text"', b"{", b"\xff\xfe{}", b'{"a":' * 100_000):
        yield with_header(other, body)
    yield with_header({"__metadata__": {"format": "pt"}}, b"")
    yield with_header({"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"12")


def load_damaged_files(folder):
    """Foreign files are a ValueError; files that lie one too, or an index that answers."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # sizes may lie
    path, names = folder / "damaged.idx", set()
    for turn, options in enumerate(EXAMPLES.values()):
        raw = whole(folder, options)
        lies = [*damaged(raw)][turn :: len(EXAMPLES)]  # others of each: all together take long
        for what, spoiled in [("foreign", file) for file in foreign(raw)] + lies:
            if spoiled == raw:
                continue
            names.add(what)
            path.write_bytes(spoiled)
            for mmap in (False, True):
                index = opened(path, mmap)
                assert index is None or what != "foreign", (options, spoiled[:200])
                if index is not None:
                    ask(index, (options, what, spoiled))
            path.unlink()  # a mapped file must not be overwritten in place
    assert {"foreign", "header", "tail", "ids", "0.limits", "0.values", "group_rows"} <= names


def opened(path, mmap):
    try:
        return load_index(path, mmap=mmap)
    except ValueError as error:
        if path.name not in str(error):
            raise AssertionError("the file is not named") from error
        return None


def ask(index, what):
    """Nothing but ValueError comes of any call."""
    query = np.zeros((3, index.code_size), np.uint8)
    query[1:2] = 0x80
    for call in (
        lambda: index.search(query, 1),
        lambda: index.search(query, 400),
        lambda: index.range_search(query, 20),
        lambda: index.codes.sum(),
        lambda: index.ids.sum(),
        lambda: index.reconstruct_n(int(index.ids[:1].sum()), 1 if len(index) else 0),
        lambda: index.remove_ids(index.ids[:1]),
        lambda: index.build(),
    ):
        try:
            call()
        except ValueError:
            continue
        except Exception as error:
            raise AssertionError(what) from error


def whole(folder, options):
    example(**options).save(folder / "whole.idx")
    return (folder / "whole.idx").read_bytes()


def run(folder, job):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, job, os.fspath(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]


def test_any_damage_is_a_value_error_or_an_index_that_answers(tmp_path):
    run(tmp_path, "damage")


def test_a_foreign_file_is_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "codes.idx"
    IndexBinaryFlat(64).save(path)
    assert type(load_index(path)) is IndexBinaryFlat
    raw = whole(tmp_path, {})
    path.write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=r"codes\.idx .* bytes, but its header asks for"):
        load_index(path)
    path.write_bytes(raw + b"12345")
    with pytest.raises(ValueError, match=r"codes\.idx .* bytes, but its header asks for"):
        load_index(path)


# ---- killed processes ------------------------------------------------------------------------


def kill_savers(folder):
    """Children save a larger index over a smaller one, killed at every step and at any moment."""
    path, done = folder / "codes.idx", folder / "done.idx"
    small, large = example(300), example(60_000)
    start = time.perf_counter()
    large.save(done)
    took = time.perf_counter() - start
    small.save(path)
    old, new = path.read_bytes(), done.read_bytes()
    for call, after, expected in (
        ("fsync", False, old),
        ("replace", False, old),
        ("replace", True, new),
    ):
        killed(lambda call=call, after=after: save_and_die(large, path, call, after))
        assert path.read_bytes() == expected
        small.save(path)
    for turn in range(24):
        small.save(path)
        killed(lambda: save_again_and_again((large, small), path), took * turn / 8)
        assert path.read_bytes() in (old, new)
        index = load_index(path)
        codes = example(len(index)).codes
        assert_same(index.search(codes[-3:], 3), brute_force(codes[-3:], codes, 3))


def save_and_die(index, path, call, after):
    """Save until this call of the system, or until it has been done."""
    real = getattr(os, call)

    def die(*args):
        if after:
            real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, die)
    index.save(path)


def save_again_and_again(indexes, path):
    while True:
        for index in indexes:
            index.save(path)


def killed(work, after=None):
    """Run work in a fork, killed after so many seconds unless it kills itself."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_process_killed_while_it_saves_leaves_the_old_index_readable(tmp_path):
    run(tmp_path, "save")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # processes are forked
    {"damage": load_damaged_files, "save": kill_savers}[sys.argv[1]](Path(sys.argv[2]))
