"""Small training runs that several test files share."""

import json
import sys
from dataclasses import replace
from functools import cache

from hashfast.data import Splits, load
from hashfast.hashing import TrainConfig, train

# `hashfast.hashing.train` is the function, which hides its module.
loop = sys.modules[train.__module__]

TINY = TrainConfig(
    method="orthohash",
    bits=8,
    width=4,
    epochs=4,
    batch_size=32,
    learning_rate=1e-2,
    device="cpu",
)
MOVING = ("seconds", "images_per_second")


@cache
def small_digits():
    """97 training images: three batches of 32, of which the last takes the one image left over."""
    digits = load("digits")
    return replace(
        digits,
        train=digits.train.subset(range(0, 500, 5)).subset(range(97)),
        query=digits.query.subset(range(0, 200, 4)),
        database=digits.database.subset(range(0, 1097, 4)),
    )


def run(config, out=None, splits=None, **options):
    return train(config, out, splits=splits, progress=False, **options)


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


def lines(out, without=MOVING):
    text = (out / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if key not in without} for row in rows]


def interrupt(patch, owner, name, call):
    """Ctrl-C at the `call`-th call (from 1) of a method."""
    real, calls = getattr(owner, name), []

    def method(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    patch.setattr(owner, name, method)


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def splits_of(dataset, num_classes, **options):
    return Splits(
        name="own",
        query=dataset.subset(range(0, len(dataset), 4)),
        train=dataset,
        database=dataset,
        num_classes=num_classes,
        topk=20,
        image_shape=dataset.image_shape,
        class_names=tuple(map(str, range(num_classes))),
        seed=0,
        **{"multi_label": False, **options},
    )
