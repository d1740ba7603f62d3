"""Arrays that are computed once: kept whole or not at all, by all that they depend on."""

import gc
import warnings

import numpy as np
import pytest
import torch

from hashfast._cache import ArrayCache

SHAPE = 5, 2
VALUES = np.arange(10, dtype=np.float32).reshape(SHAPE)


class Chunks:
    """Yields the values in chunks of two rows, and counts how often it is asked to."""

    def __init__(self, values=VALUES, stop=None):
        self.values, self.stop, self.calls = values, stop, 0

    def __call__(self):
        self.calls += 1
        for start in range(0, len(self.values), 2):
            if start == self.stop:
                raise KeyboardInterrupt
            yield self.values[start : start + 2]


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_array_is_computed_once_and_kept_for_others(tmp_path):
    chunks = Chunks()
    folder = tmp_path / "made" / "when needed"
    first = ArrayCache(folder).get("name", {"a": 1, "b": [2]}, SHAPE, "<f4", chunks)
    again = ArrayCache(folder).get("name", {"b": [2], "a": 1}, SHAPE, "<f4", chunks)
    assert chunks.calls == 1
    for array in (first, again):
        assert array.dtype == np.float32
        assert np.array_equal(array, VALUES)
    (file,) = kept(folder)
    assert file.startswith("name-")
    assert file.endswith(".npy")
    assert np.array_equal(np.load(folder / file), VALUES)


def test_other_settings_and_names_are_other_arrays(tmp_path):
    cache, chunks = ArrayCache(tmp_path), Chunks()
    for number, (name, settings) in enumerate(
        [("name", {"a": 1}), ("name", {"a": 2}), ("name", {"b": 1}), ("other", {"a": 1})], 1
    ):
        cache.get(name, settings, SHAPE, "<f4", chunks)
        assert chunks.calls == number
        assert len(kept(tmp_path)) == number


def test_it_is_mapped_and_what_is_changed_in_it_stays_out_of_the_file(tmp_path):
    cache, chunks = ArrayCache(tmp_path), Chunks()
    array = cache.get("name", {}, SHAPE, "<f4", chunks)
    assert isinstance(array, np.memmap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(array).fill_(7)
    assert np.array_equal(cache.get("name", {}, SHAPE, "<f4", chunks), VALUES)
    assert chunks.calls == 1


def test_chunks_of_any_layout_and_type(tmp_path):
    values = np.arange(10).reshape(2, 5).T  # int64, not contiguous
    array = ArrayCache(tmp_path).get("name", {}, SHAPE, "|u1", Chunks(values))
    assert array.dtype == np.uint8
    assert array.tolist() == values.tolist()
    nothing = np.full(SHAPE, np.nan, np.float32)
    assert np.isnan(ArrayCache(tmp_path).get("nan", {}, SHAPE, "<f4", Chunks(nothing))).all()


@pytest.mark.parametrize("stop", [0, 2, 4])
def test_an_interruption_leaves_nothing(tmp_path, stop):
    cache = ArrayCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.get("name", {}, SHAPE, "<f4", Chunks(stop=stop))
    assert kept(tmp_path) == []
    assert np.array_equal(cache.get("name", {}, SHAPE, "<f4", Chunks()), VALUES)


def test_without_a_folder_arrays_live_as_long_as_the_cache():
    cache, chunks = ArrayCache(None), Chunks()
    folder = cache.folder
    first = cache.get("name", {}, SHAPE, "<f4", chunks)
    cache.get("name", {}, SHAPE, "<f4", chunks)
    assert chunks.calls == 1
    ArrayCache(None).get("name", {}, SHAPE, "<f4", chunks)
    assert chunks.calls == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del cache
        gc.collect()
    assert not folder.exists()
    assert np.array_equal(first, VALUES)  # what was handed out is still whole
