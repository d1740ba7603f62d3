"""Groups of near-duplicate codes against a literal search."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast.index import IndexBinaryFlat, duplicates, load_index
from hashfast.index.duplicates import near_duplicates


def groups_of(found):
    """[(row, distance), ...] of each group."""
    members = list(zip(found.rows.tolist(), found.distances.tolist(), strict=True))
    return [members[start:end] for start, end in pairwise(found.limits)]


def literal(codes, radius, first_new=0):
    """The same by walking from row to row over all allowed pairs."""
    bits = np.unpackbits(codes, axis=1).astype(int)
    distance = (bits[:, None] != bits).sum(2)
    linked = distance <= radius
    linked[:first_new, :first_new] = distance[:first_new, :first_new] == 0
    groups, seen = [], set()
    for start in range(len(codes)):
        group, waiting = set(), {start} - seen
        while waiting:
            row = waiting.pop()
            group.add(row)
            waiting |= set(np.flatnonzero(linked[row]).tolist()) - group
        seen |= group
        if len(group) > 1 and max(group) >= first_new:
            first = min(group)
            groups.append(
                sorted(((r, int(distance[first, r])) for r in group), key=lambda m: m[::-1])
            )
    return sorted(groups, key=lambda group: (-len(group), group[0][0]))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_groups_are_those_of_a_literal_search(data):
    n, width = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 11))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = np.bitwise_and.reduce(generator.integers(0, 256, (4, n, width), dtype=np.uint8))
    codes = codes[generator.integers(0, max(n, 1), n)]  # some repeat, most are near one another
    radius, first_new = data.draw(st.integers(0, 6 + width)), data.draw(st.integers(0, n))
    found = near_duplicates(codes, radius, first_new=first_new)
    expected = literal(codes, radius, first_new)
    assert groups_of(found) == expected
    assert found.distinct == len({code.tobytes() for code in codes})
    copies = [len(g) - len({codes[row].tobytes() for row, _ in g}) for g in expected]
    assert found.identical == sum(copies)


def code(value):
    return list(value.to_bytes(8, "big"))


def test_a_chain_joins_what_is_far_apart_and_tells_how_far():
    chain = [code((1 << 4 * step) - 1) for step in range(6)]  # 4 bits from one to the next
    codes = np.array([chain[3], code(2**64 - 1), *chain[:3], *chain[4:]], np.uint8)
    assert groups_of(near_duplicates(codes, 3)) == []
    expected = [[(0, 0), (4, 4), (5, 4), (3, 8), (6, 8), (2, 12)]]
    assert groups_of(near_duplicates(codes, 4)) == expected


def test_old_codes_are_compared_with_new_ones_only():
    a, near_a, b, far = code(0), code(1), code(0xFF << 32), code(2**64 - 1)
    codes = np.array([a, near_a, b, b, far, near_a], np.uint8)
    assert groups_of(near_duplicates(codes, 2, first_new=4)) == [[(0, 0), (1, 1), (5, 1)]]
    assert groups_of(near_duplicates(codes, 0, first_new=4)) == [[(1, 0), (5, 0)]]
    assert groups_of(near_duplicates(codes, 64, first_new=6)) == []
    assert len(groups_of(near_duplicates(codes, 2))) == 2


def test_many_copies_are_searched_as_one(monkeypatch):
    searched = []

    def watched(codes, radius, database=None):
        searched.append(len(codes) if database is None else 0)
        return pairs(codes, radius, database=database)

    pairs = duplicates.pairs
    monkeypatch.setattr(duplicates, "pairs", watched)
    codes = np.random.default_rng(0).integers(0, 256, (120_000, 8), dtype=np.uint8)
    codes[:100_000] = codes[0]  # 5e9 pairs at distance 0
    codes[100_000:103_000] = codes[103_000:106_000]
    codes[110_000] = codes[0] ^ np.uint8([1, 0, 0, 0, 0, 0, 0, 128])
    found = near_duplicates(codes, 2)
    assert sum(searched) == found.distinct
    groups = groups_of(found)
    assert [len(group) for group in groups] == [100_001, *[2] * 3000]
    assert groups[0][-1] == (110_000, 2)
    assert found.identical == 99_999 + 3000


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 150), st.integers(1, 9), st.integers(0, 2**32))
def test_sets_are_joined_over_blocks(n, edges, blocks, seed):
    generator = np.random.default_rng(seed)
    one, other = generator.integers(0, n, (2, edges))
    parents = np.arange(n)
    lowest = list(range(n))
    for block in np.array_split(np.arange(edges), blocks):
        duplicates._join(parents, one[block], other[block])
        for i, j in zip(one[block].tolist(), other[block].tolist(), strict=True):
            pair = sorted((lowest[i], lowest[j]))
            lowest = [pair[0] if root == pair[1] else root for root in lowest]
        assert duplicates._roots(parents.copy(), np.arange(n)).tolist() == lowest


def test_long_paths_are_joined():
    path = np.random.default_rng(0).permutation(200_000)
    for block in (1000, 200_000):
        parents = np.arange(len(path))
        for start in range(0, len(path) - 1, block):
            part = path[start : start + block + 1]
            duplicates._join(parents, part[:-1], part[1:])
        assert not duplicates._roots(parents, np.arange(len(path))).any()


def test_any_array_of_codes_will_do(tmp_path):
    codes = np.random.default_rng(0).integers(0, 2, (50, 3), dtype=np.uint8)
    expected = groups_of(near_duplicates(codes, 1))
    assert expected
    index = IndexBinaryFlat(24)
    index.add(codes)
    index.save(tmp_path / "codes.ibxf")
    unaligned = load_index(tmp_path / "codes.ibxf", mmap=True).codes
    wide = np.zeros((50, 6), np.uint8)
    wide[:, ::2] = codes
    for same in (torch.from_numpy(codes), unaligned, wide[:, ::2]):
        assert groups_of(near_duplicates(same, 1)) == expected


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_codes_have_no_groups(n):
    found = near_duplicates(np.zeros((n, 8), np.uint8), 4)
    assert (found.limits.tolist(), len(found.rows), found.distinct) == ([0], 0, n)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        ((np.zeros((2, 8)), 4), {}, TypeError, "codes is float64"),
        ((np.zeros(8, np.uint8), 4), {}, ValueError, "codes has shape"),
        ((np.zeros((2, 8), np.uint8), -1), {}, ValueError, "radius is -1"),
        ((np.zeros((2, 8), np.uint8), 1.5), {}, TypeError, "radius is 1.5"),
        ((np.zeros((2, 8), np.uint8), 1), {"first_new": -1}, ValueError, "first_new is -1"),
    ],
)
def test_bad_input(arguments, options, error, said):
    with pytest.raises(error, match=said):
        near_duplicates(*arguments, **options)


@pytest.mark.parametrize(("n", "old", "new"), [(40, 0, 40), (40, 15, 25), (16, 15, 1), (9, 9, 0)])
def test_slices_find_what_one_search_finds(n, old, new, monkeypatch):
    codes = np.random.default_rng(n).integers(0, 16, (n, 2), dtype=np.uint8)
    expected = literal(codes, 1, old)
    assert bool(expected) == bool(new)
    for rows in (1, 2, 7, 8, 64):
        monkeypatch.setattr(duplicates, "_ROWS", rows)
        assert groups_of(near_duplicates(codes, 1, first_new=old)) == expected


def test_progress_advances_though_nothing_is_found(monkeypatch):
    shown = []

    class Bar(duplicates.tqdm):
        def update(self, n=1):
            shown.append((n, self.total))
            super().update(n)

    monkeypatch.setattr(duplicates, "tqdm", Bar)
    monkeypatch.setattr(duplicates, "_ROWS", 1000)
    codes = np.random.default_rng(0).integers(0, 256, (5000, 8), dtype=np.uint8)
    assert not groups_of(near_duplicates(codes, 1, first_new=1000))
    steps = [done for done, _ in shown]
    assert len(steps) == 4
    assert min(steps) > 0
    assert sum(steps) == shown[0][1] == 4000 * 3999 // 2 + 4000 * 1000


def test_progress_reaches_the_end(capsys):
    codes = np.random.default_rng(0).integers(0, 256, (5000, 8), dtype=np.uint8)
    near_duplicates(codes, 10, first_new=1000, progress=True)
    assert "12.0M/12.0M" in capsys.readouterr().err
    near_duplicates(codes, 10)
    assert capsys.readouterr().err == ""
