"""IndexBinaryAuto: the results of a flat index by the way that was measured faster."""

import numpy as np
import pytest
import torch
from hamming_oracle import random_codes
from index_examples import make_tables_of_few_codes

import hashfast
from hashfast import IndexBinaryAuto, IndexBinaryFlat
from hashfast.index import auto
from hashfast.index.costs import HASH, SCAN, Costs, Kind, Plan
from hashfast.index.held import Held
from hashfast.index.multi_hash import Hashed

pytestmark = pytest.mark.usefixtures("one_thread")

CODES = random_codes(400, 2, 1)
QUERIES = random_codes(150, 2, 2)


@pytest.fixture(autouse=True)
def few_codes(monkeypatch):
    """Small indexes try their tables too."""
    make_tables_of_few_codes(monkeypatch)


def pair(codes=CODES, ids=None):
    """An index and the flat one that holds the same."""
    indexes = IndexBinaryAuto(16), IndexBinaryFlat(16)
    for index in indexes:
        if ids is None:
            index.add(codes)
        else:
            index.add_with_ids(codes, ids)
    return indexes


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def counted(monkeypatch):
    """Which of the two ways searched, in order."""
    calls = []

    def counting(name, run):
        def call(*arguments):
            calls.append(name)
            return run(*arguments)

        return call

    for name, way in ((SCAN, Held), (HASH, Hashed)):
        for method in ("nearest", "within"):
            monkeypatch.setattr(way, method, counting(name, getattr(way, method)))
    return calls


def known(index, scan, hash, queries=1, what="k", size=3, share=-1):
    """Make the index believe that it has measured these seconds."""
    names = Kind(queries, what, size, share, 1).by_method()
    for _ in range(3):
        for method, seconds in ((SCAN, scan), (HASH, hash)):
            index._held.known.costs.add(method, names[method], seconds)


@pytest.mark.parametrize("queries", [0, 1, 20, 150], ids=lambda n: f"q{n}")
@pytest.mark.parametrize("k", [1, 10, 399])
@pytest.mark.parametrize("ids", [None, np.arange(400)[::-1] * 3], ids=["rows", "ids"])
def test_searches_as_a_flat_index_while_it_measures_and_after(queries, k, ids):
    index, flat = pair(ids=ids)
    for _ in range(8):
        assert_same(index.search(QUERIES[:queries], k), flat.search(QUERIES[:queries], k))


@pytest.mark.parametrize("queries", [0, 1, 20, 150], ids=lambda n: f"q{n}")
@pytest.mark.parametrize(("radius", "strict"), [(0, False), (3, False), (3, True), (16, False)])
def test_range_search_is_the_flat_index_s(queries, radius, strict):
    index, flat = pair()
    for _ in range(8):
        assert_same(
            index.range_search(QUERIES[:queries], radius, strict=strict),
            flat.range_search(QUERIES[:queries], radius, strict=strict),
        )


def test_torch_queries_and_filters():
    index, flat = pair()
    allowed = np.arange(0, 400, 3)
    for queries in (QUERIES[:2], QUERIES):
        for _ in range(8):
            assert_same(index.search(queries, 4, allowed), flat.search(queries, 4, allowed))
            found = index.search(torch.from_numpy(queries), 4)
            assert all(isinstance(result, torch.Tensor) for result in found)
            assert_same([result.numpy() for result in found], flat.search(queries, 4))
            ranged = index.range_search(torch.from_numpy(queries), 4, allowed)
            assert_same([r.numpy() for r in ranged], flat.range_search(queries, 4, allowed))


@pytest.mark.parametrize(("scan", "hash", "expected"), [(2.0, 1.0, HASH), (1.0, 2.0, SCAN)])
def test_the_faster_way_searches(monkeypatch, scan, hash, expected):
    index, _ = pair()
    known(index, scan, hash)
    known(index, scan, hash, what="radius", size=5)
    calls = counted(monkeypatch)
    for _ in range(3):
        index.search(QUERIES[:1], 3)
        index.range_search(QUERIES[:1], 5)
    assert calls == 6 * [expected]
    assert index.explain(1, 3).method == index.explain(radius=5).method == expected


def test_both_are_tried_before_one_is_chosen(monkeypatch):
    index, _ = pair()
    calls = counted(monkeypatch)
    for _ in range(2):
        index.search(QUERIES[:1], 3)
    assert sorted(calls) == sorted([SCAN, HASH])


def test_a_large_batch_tries_both_at_once(monkeypatch):
    index, _ = pair()
    calls = counted(monkeypatch)
    index.search(QUERIES, 3)
    assert calls[:2] == [HASH, SCAN]
    assert len(calls) == 3


def test_kinds_of_searches_are_measured_apart():
    index, _ = pair()
    known(index, 2.0, 1.0)
    assert index.explain(1, 3).seconds
    for other in ({"queries": 64}, {"k": 100}, {"radius": 3}, {"allowed": 20}):
        wanted = {"k": 3} if "radius" not in other else {}
        assert not index.explain(**({"queries": 1} | wanted | other)).seconds


def test_measure_knows_at_once():
    index, flat = pair()
    plan = index.measure(QUERIES[:1], 3)
    assert plan == index.explain(1, 3)
    assert set(plan.seconds) == {SCAN, HASH}
    best = min(plan.seconds, key=plan.seconds.get)
    assert plan.method == best
    assert index.measure(QUERIES, 3).seconds
    ranged = index.measure(QUERIES[:2], radius=4, allowed=[1, 2, 3])
    assert ranged == index.explain(2, radius=4, allowed=3)
    assert_same(index.search(QUERIES[:1], 3), flat.search(QUERIES[:1], 3))


def test_measure_wants_queries():
    index, _ = pair()
    with pytest.raises(ValueError, match="query is empty; expected queries like those to come"):
        index.measure(QUERIES[:0])


def test_what_was_measured_is_forgotten_with_a_quarter_of_new_codes():
    index, flat = pair()
    known(index, 1.0, 2.0)
    for each in (index, flat):
        each.search(QUERIES[:1], 3)
        each.add(CODES[:100])
    assert index.explain(1, 3).method == SCAN
    for each in (index, flat):
        each.add(CODES[:1])
    assert not index.explain(1, 3).seconds
    for _ in range(8):
        assert_same(index.search(QUERIES[:1], 3), flat.search(QUERIES[:1], 3))


def test_codes_come_and_go_in_both():
    index, flat = pair()
    for step in range(6):
        for each in (index, flat):
            if step % 2:
                assert each.remove_ids(range(step, step + 20)) == 20
            else:
                each.add(QUERIES[10 * step : 10 * step + 30])
        for _ in range(3):
            assert_same(index.search(QUERIES[:2], 5), flat.search(QUERIES[:2], 5))
        assert index.ntotal == flat.ntotal
    np.testing.assert_array_equal(index.codes, flat.codes)
    np.testing.assert_array_equal(index.reconstruct(7), flat.reconstruct(7))
    index.reset()
    assert index.ntotal == 0
    assert index.search(QUERIES[:0], 1)[0].shape == (0, 1)


def test_an_error_leaves_both_as_they_were():
    index, _ = pair(ids=range(400))
    index.build()
    with pytest.raises(ValueError, match="use add_with_ids"):
        index.add(CODES)
    assert index.ntotal == 400


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("n", [0, 10, 400])
@pytest.mark.parametrize("with_ids", [False, True])
def test_files(tmp_path, mmap, n, with_ids):
    index, flat = pair(CODES[:n], range(5, 5 + n) if with_ids else None)
    index.save(tmp_path / "index")
    loaded = hashfast.load_index(tmp_path / "index", mmap=mmap)
    assert isinstance(loaded, IndexBinaryAuto)
    np.testing.assert_array_equal(loaded.codes, flat.codes)
    np.testing.assert_array_equal(loaded.ids, flat.ids)
    if n:
        for _ in range(8):
            assert_same(loaded.search(QUERIES[:3], 5), flat.search(QUERIES[:3], 5))
        extra = [1], [2]
        for each in (loaded, flat):
            if with_ids:
                each.add_with_ids(CODES[extra[0]], extra[1])
            else:
                each.add(CODES[extra[0]])
        assert_same(loaded.search(QUERIES[:3], 5), flat.search(QUERIES[:3], 5))


def test_nbytes_are_those_of_codes_and_tables():
    index, _ = pair()
    assert index.nbytes == CODES.nbytes + index._held.tables.nbytes
    index.build()
    tables = index._held.tables
    assert tables.entries == len(np.unique(CODES, axis=0))
    assert index.nbytes == CODES.nbytes + tables.nbytes > 2 * CODES.nbytes


def test_what_measure_finds_counts_from_then_on(monkeypatch):
    index, _ = pair()
    index.build()
    known(index, 1.0, 2.0)
    calls = counted(monkeypatch)
    index.search(QUERIES[:1], 3)
    # The scan takes 9 seconds now, the hash 1.
    clock = iter([0, 9, 9, 10, 10, 19, 19, 20, 20, 29, 29, 30])
    monkeypatch.setattr(auto.time, "perf_counter", lambda: next(clock))
    assert index.measure(QUERIES[:1], 3).method == HASH
    index.search(QUERIES[:1], 3)
    assert calls == [SCAN, *[SCAN, HASH] * 3, HASH]


def test_making_the_tables_is_not_timed(monkeypatch):
    index, _ = pair()
    made = []
    make = auto.make_tables
    monkeypatch.setattr(auto, "make_tables", lambda *a: (made.append(len(clocks)), make(*a))[1])
    clocks = []
    monkeypatch.setattr(auto.time, "perf_counter", lambda: clocks.append(0) or float(len(clocks)))
    index.search(QUERIES[:1], 3)
    monkeypatch.setattr(auto, "is_long", lambda tail, rows: tail > 0)
    index.add(CODES[:20])
    for _ in range(4):
        index.search(QUERIES[:1], 3)
    assert len(made) == 2
    assert all(before % 2 == 0 for before in made)  # never between two readings of one search


def test_a_search_under_way_writes_nothing_into_newer_measurements(monkeypatch):
    index, flat = pair()
    index.build()
    known(index, 2.0, 1.0)
    plan = Costs.plan

    def slow(costs, kinds):
        found = plan(costs, kinds)
        monkeypatch.setattr(Costs, "plan", plan)
        index.reset()
        index.add(CODES[:60])
        return found

    monkeypatch.setattr(Costs, "plan", slow)
    assert_same(index.search(QUERIES[:1], 3), flat.search(QUERIES[:1], 3))
    assert not index._held.known.chosen
    flat.reset()
    flat.add(CODES[:60])
    assert_same(index.search(QUERIES[:1], 3), flat.search(QUERIES[:1], 3))


def test_a_large_batch_sees_the_codes_of_one_moment(monkeypatch):
    index, flat = pair()
    search = auto.Both.search

    def removing(*arguments):
        found = search(*arguments)
        index.remove_ids(range(50))
        return found

    monkeypatch.setattr(auto.Both, "search", removing)
    mask = np.ones(400, bool)
    mask[::7] = False
    assert_same(index.search(QUERIES, 3, mask), flat.search(QUERIES, 3, mask))


def test_without_memory_for_tables_all_is_scanned(monkeypatch):
    def fails(*_):
        raise MemoryError

    index, flat = pair()
    monkeypatch.setattr(auto, "make_tables", fails)
    with pytest.warns(UserWarning, match="no memory for tables of 400 codes"):
        found = index.search(QUERIES[:1], 3)
    assert_same(found, flat.search(QUERIES[:1], 3))
    assert_same(index.search(QUERIES[:1], 3), flat.search(QUERIES[:1], 3))
    assert index.explain() == Plan(SCAN, {}, "there is no room for tables of 400 codes")


def test_shares_that_are_allowed_are_kinds_of_their_own():
    index, flat = pair()
    for allowed in (np.arange(400), np.arange(200), np.arange(3)):
        for _ in range(7):
            assert_same(index.search(QUERIES[:1], 2, allowed), flat.search(QUERIES[:1], 2, allowed))
    shares = {kind.share for kind in index._held.known.chosen}
    assert shares == {1, 2, 8}


def test_padding_warns_once_where_search_was_called():
    index, _ = pair(CODES[:60])
    for queries in (QUERIES[:1], QUERIES):
        with pytest.warns(UserWarning, match="k is 70 but there are 60 codes") as caught:
            index.search(queries, 70)
        assert [warning.filename for warning in caught] == [__file__]


def test_k_and_radius_exclude_each_other():
    index, _ = pair()
    for run in (index.explain, lambda **both: index.measure(QUERIES[:1], **both)):
        with pytest.raises(ValueError, match="k is 3 and radius 2: a search has one of the two"):
            run(k=3, radius=2)


def test_no_queries_are_explained():
    index, _ = pair()
    assert index.explain(0) == Plan(SCAN, {}, "there are no queries")


KINDS = {SCAN: "batch", HASH: "one"}


class TestCosts:
    def costs(self, scan, hash):
        costs = Costs()
        for seconds in scan:
            costs.add(SCAN, "batch", seconds)
        for seconds in hash:
            costs.add(HASH, "one", seconds)
        return costs

    def test_nothing_is_known_at_first(self):
        assert self.costs([], []).plan(KINDS) is None
        assert self.costs([1.0], []).plan(KINDS) is None

    def test_close_times_want_three_samples_each(self):
        assert self.costs([1, 1, 1], [2, 2]).plan(KINDS) is None
        assert self.costs([1, 1, 1], [2, 2, 2]).plan(KINDS).method == SCAN

    def test_clear_ones_want_two(self):
        assert self.costs([1.0, 1.0], [0.2]).plan(KINDS) is None
        plan = self.costs([1.0, 1.0], [0.2, 0.2]).plan(KINDS)
        assert plan.method == HASH
        assert plan.seconds == {SCAN: 1.0, HASH: 0.2}
        assert str(plan) == (
            "multi-index hash: measured 5.0 times faster (a query: scan 1000 ms, "
            "multi-index hash 200 ms)"
        )

    def test_the_least_of_the_last_three_counts(self):
        costs = self.costs([0.1, 5, 4, 6], [2])
        assert costs.seconds(SCAN, "batch") == 4
        assert costs.count(SCAN, "batch") == 3
