"""One seeded recipe that draws every class-balanced split."""

from __future__ import annotations

from typing import Literal

import numpy as np

Share = int | float
"""Images of each class: an int counts them, a float in (0, 1) is a share of the class."""


def split_rows(
    labels: np.ndarray,
    *,
    query: Share | Literal["test"],
    train: Share | None,
    train_in_database: bool,
    test_rows: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Rows of ``query``, ``train`` and ``database``, int64, drawn from int class ids ``[n]``.

    Class by class, in id order, one permutation of the class's images is drawn: the first
    ``query`` of them are queries, the next ``train`` are training images, the rest are database.
    ``train_in_database`` puts the training images into the database too, ahead of the rest;
    ``train=None`` trains on the whole database. ``query="test"`` takes ``test_rows`` (the official
    test set) as queries and draws the training images from the others. A share is rounded and
    leaves at least one image of a class to the database; a class of one image gives no query.

    With the integer recipe the rows equal those of DeepHash-pytorch's CIFAR-10 loader after
    ``numpy.random.seed(seed)``. The generator is the call's own: no global seed is read or moved.
    Raises ValueError when a class has too few images or an amount makes no sense.
    """
    if train is not None:
        _check_share("train", train)
    pool = np.arange(len(labels))
    if isinstance(query, str):
        if query != "test" or test_rows is None:
            raise ValueError(
                f"query={query!r}; expected an amount, or 'test' and test_rows, the rows of the "
                "official test set"
            )
        pool = np.setdiff1d(pool, test_rows)
    else:
        _check_share("query", query)
    # RandomState, not default_rng: NumPy fixes its stream for good (NEP 19), so a split that was
    # published with a seed can be drawn again by any later version.
    random = np.random.RandomState(seed)
    drawn: dict[str, list[np.ndarray]] = {"query": [], "train": [], "rest": []}
    for label in np.unique(labels):
        rows = random.permutation(pool[labels[pool] == label])
        queries = 0 if isinstance(query, str) else _amount(query, len(rows), len(rows) - 1)
        trained = 0 if train is None else _amount(train, len(rows), len(rows) - queries)
        if queries + trained > len(rows):
            raise ValueError(
                f"class {label} has {len(rows)} images; the split takes {queries} query and "
                f"{trained} training images of each class"
            )
        drawn["query"].append(rows[:queries])
        drawn["train"].append(rows[queries : queries + trained])
        drawn["rest"].append(rows[queries + trained :])
    parts = {name: np.concatenate(rows) for name, rows in drawn.items()}
    if test_rows is not None and isinstance(query, str):
        parts["query"] = np.asarray(test_rows)
        database = pool if train_in_database else np.setdiff1d(pool, parts["train"])
    elif train_in_database:
        database = np.concatenate((parts["train"], parts["rest"]))
    else:
        database = parts["rest"]
    split = {
        "query": parts["query"],
        "train": database if train is None else parts["train"],
        "database": database,
    }
    for name, rows in split.items():
        if len(rows) == 0:
            raise ValueError(
                f"the split leaves no {name} images: {len(labels)} images in "
                f"{len(np.unique(labels))} classes, query={query}, train={train}"
            )
    return split


def _check_share(name: str, share: Share) -> None:
    valid = 0 < share < 1 if isinstance(share, float) else share >= 1
    if not valid:
        raise ValueError(
            f"{name}={share}; expected images of each class: an int of at least 1, or a share "
            "between 0 and 1"
        )


def _amount(share: Share, size: int, most: int) -> int:
    if isinstance(share, float):
        return min(max(1, round(share * size)), most)
    return share
