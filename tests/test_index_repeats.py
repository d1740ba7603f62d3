"""hashfast index: galleries that overlap are joined without repeats, and nothing else is lost."""

import numpy as np
import pytest
from cli_calls import answer, call

from hashfast.index import Gallery

CODES = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A gallery "g" of three pictures and a mere row number, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Gallery.of(CODES, 32, ["a.png", "b.png", "c.png", "7"], np.arange(4)).save("g")
    return tmp_path


def test_an_item_is_joined_once(folder, capsys):
    Gallery.of(CODES[:2], 32, [str(folder / "a.png"), "new.png"], np.arange(2)).save("more")
    status, out, err = call(capsys, "index", "g", "more", "g", "--out", "joined")
    assert (status, err) == (0, "")
    assert out == "6 codes of 32 bits in joined; 4 left out, as they repeat an item with its code\n"
    joined = Gallery.load("joined")
    assert joined.items == ["a.png", "b.png", "c.png", "7", "new.png", "7"]  # any may have a row 7
    assert joined.labels.tolist() == [0, 1, 2, 3, 1, 3]
    np.testing.assert_array_equal(joined.index.codes, CODES[[0, 1, 2, 3, 1, 3]])
    found = answer(capsys, "index", "g", "joined", "--out", "joined", "--overwrite")
    assert (found["codes"], found["repeats"]) == (7, 3)


def test_another_code_or_label_is_kept_and_warned_of(capsys):
    codes = np.concatenate([CODES[:1], ~CODES[1:2], CODES[2:3]])
    Gallery.of(codes, 32, ["a.png", "b.png", "c.png"], np.array([0, 1, 9])).save("changed")
    status, out, err = call(capsys, "index", "g", "changed", "changed", "--out", "joined")
    assert status == 0
    assert "6 codes of 32 bits in joined; 4 left out" in out
    assert "warning: 2 items have more than one code or label" in err
    joined = Gallery.load("joined")
    assert joined.items == ["a.png", "b.png", "c.png", "7", "b.png", "c.png"]
    assert joined.labels.tolist() == [0, 1, 2, 3, 1, 9]
    np.testing.assert_array_equal(joined.index.codes, np.concatenate([CODES, codes[1:]]))
