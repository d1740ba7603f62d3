"""The seeded recipe of every class-balanced split."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast.data import split_rows

pytestmark = pytest.mark.filterwarnings("error")


def published_recipe(labels, query, train, seed):
    """The loop of DeepHash-pytorch's CIFAR-10 loader."""
    random = np.random.RandomState(seed)
    parts = [[], [], []]
    for label in range(labels.max() + 1):
        index = np.where(labels == label)[0]
        index = index[random.permutation(len(index))]
        cuts = np.split(index, [query, query + train])
        for part, cut in zip(parts, cuts, strict=True):
            part.extend(cut)
    return parts


def test_the_recipe_is_the_published_one():
    labels = np.random.default_rng(0).integers(0, 5, 400)
    query, train, rest = published_recipe(labels, 10, 20, seed=3)
    amounts = {"query": 10, "train": 20, "seed": 3}
    split = split_rows(labels, train_in_database=False, **amounts)
    assert split["query"].tolist() == query
    assert split["train"].tolist() == train
    assert split["database"].tolist() == rest
    split = split_rows(labels, train_in_database=True, **amounts)
    assert split["database"].tolist() == train + rest


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=60, max_size=120),
    st.one_of(st.floats(0.01, 0.99), st.just("test")),
    st.one_of(st.none(), st.floats(0.01, 0.5)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_splits_never_leak_queries(labels, query, train, train_in_database, seed):
    labels = np.array([*range(5), *range(5), *labels])
    test_rows = np.arange(10, 20)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    arguments = {
        "query": query,
        "train": train,
        "train_in_database": train_in_database,
        "test_rows": test_rows,
        "seed": seed,
    }
    try:
        split = split_rows(labels, **arguments)
    except ValueError as error:
        assert "leaves no" in str(error)  # noqa: PT017
        return
    again = split_rows(labels, **arguments)
    assert all(np.array_equal(split[part], again[part]) for part in split)
    queries, trained, database = (set(split[part].tolist()) for part in split)
    assert [len(rows) for rows in (queries, trained, database)] == [len(r) for r in split.values()]
    assert not queries & database
    assert not queries & trained
    if train is None:
        assert trained == database
    elif train_in_database:
        assert trained <= database
    else:
        assert not trained & database
    if query == "test":
        assert queries == set(test_rows.tolist())
    elif train is None:
        for label in range(5):
            rows = set(np.flatnonzero(labels == label).tolist())
            expected = min(max(1, round(query * len(rows))), len(rows) - 1)
            assert len(queries & rows) == expected
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": 9, "train": 4}, r"class 0 has 12 images; the split takes 9 query and 4"),
        ({"query": 6, "train": 6}, "leaves no database images"),
        ({"query": 0}, "query=0; expected images of each class"),
        ({"query": 1.5}, "query=1.5"),
        ({"train": -1}, "train=-1"),
        ({"query": "test"}, "test_rows"),
    ],
)
def test_impossible_splits_are_named(change, message):
    arguments = {"query": 2, "train": 2, "train_in_database": False} | change
    with pytest.raises(ValueError, match=message):
        split_rows(np.arange(24) % 2, **arguments)
