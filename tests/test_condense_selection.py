"""Selections: known answers of herding, draws by the seed, rows of every class."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_runs import small_digits, splits_of

from hashfast.condense import CondenseConfig, condense, selection
from hashfast.condense.real import RealImages
from hashfast.condense.selection import Herding, Random, herd
from hashfast.data import ArrayDataset

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def images_of(vectors):
    """Images [n, 3, 1, 1] whose pixels are the vectors."""
    return torch.tensor(vectors, dtype=torch.uint8).view(len(vectors), 3, 1, 1)


def real_images(vectors, labels):
    dataset = ArrayDataset(images_of(vectors), torch.tensor(labels))
    return RealImages(splits_of(dataset, max(labels) + 1), CPU)


class Pixels:
    """Stands for the networks: features are the pixels."""

    def load(self, number):
        assert number == 0
        return [SimpleNamespace(features=lambda images: images.flatten(1))]


def make(method, **settings):
    config = CondenseConfig(method=method, device="cpu", **settings).resolved()
    return {"random": Random, "herding": Herding}[method](config, 2)


def test_herding_by_hand():
    # The mean is (2/3, 1/3). (1, 0) is nearest to it, the first of the two; with (0, 1) the mean
    # of the picks is (1/2, 1/2), off by 1/18, with the other (1, 0) it is off by 2/9.
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert herd(features, 3).tolist() == [0, 2, 1]
    assert herd(features, 1).tolist() == [0]
    assert herd(features, 0).tolist() == []


def test_herding_is_not_the_nearest_rows():
    # The mean points to 0 degrees, so that the nearest rows are -10, 20, 30 and -40, in this order.
    # After -10 and 20, 30 would turn the mean of the picks to about 13 degrees and -40 to -10.
    degrees = torch.tensor([-40.0, -10, 30, 20]).deg2rad()
    assert herd(torch.stack([degrees.cos(), degrees.sin()], 1), 4).tolist() == [1, 3, 0, 2]


def by_trying_all(features, count):
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean, picks = features.mean(0), []
    for _ in range(count):
        free = [i for i in range(len(features)) if i not in picks]
        off = [np.linalg.norm(mean - features[[*picks, i]].mean(0)) for i in free]
        picks.append(free[int(np.argmin(off))])
    return picks


# Of two rows both are equally near.
@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(1, 5))
def test_herding_is_what_trying_all_rows_finds(seed, n, width):
    features = np.random.default_rng(seed).normal(size=(n, width + 1))
    assert herd(torch.from_numpy(features), n).tolist() == by_trying_all(features, n)


def test_herding_looks_at_directions_alone():
    features = torch.randn(30, 4)
    scaled = features * torch.rand(30, 1).add(0.1)
    assert herd(features, 10).equal(herd(scaled, 10))
    assert herd(features.T.contiguous().T, 10).equal(herd(features, 10))


def test_herding_takes_features_of_zeros_and_half_precision():
    features = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    # The mean is (1/4, 1/4, 1/4): 0 is off by 3/16, a unit vector by 11/16.
    assert herd(features, 4).tolist()[0] == 0
    assert sorted(herd(features, 4).tolist()) == [0, 1, 2, 3]
    assert herd(features.bfloat16(), 4).equal(herd(features, 4))
    with pytest.raises(ValueError, match="5 rows are asked for and there are 4"):
        herd(features, 5)


def test_herding_selects_in_every_class(monkeypatch):
    vectors = [[0, 200, 0], [100, 0, 0], [0, 100, 0], [50, 0, 0], [0, 50, 0], [0, 0, 9]]
    real = real_images(vectors, [1, 0, 1, 0, 0, 1])
    chosen = make("herding", ipc=2).select(real, Pixels())
    # Class 0 holds rows 1, 3, 4 and class 1 rows 0, 2, 5: each is the case by hand.
    assert chosen.tolist() == [1, 4, 0, 5]
    monkeypatch.setattr(selection, "_CHUNK", 2)
    assert make("herding", ipc=2).select(real, Pixels()).equal(chosen)


def test_random_draws_by_the_seed_without_repeats():
    labels = [0, 1] * 20
    real = real_images([[i, 0, 0] for i in range(40)], labels)
    one, again, other = (
        make("random", ipc=5, seed=seed).select(real, None).tolist() for seed in (3, 3, 4)
    )
    assert one == again != other
    assert len(set(one)) == 10
    assert [labels[row] for row in one] == [0] * 5 + [1] * 5
    everything = make("random", ipc=20).select(real, None).tolist()
    assert sorted(everything) == list(range(40))


def test_random_draws_every_image_equally_often():
    real = real_images([[i, 0, 0] for i in range(6)], [0] * 5 + [1])
    counts = torch.zeros(6)
    for seed in range(500):
        counts[make("random", ipc=1, seed=seed).select(real, None)] += 1
    assert counts[5] == 500
    # 100 each, with a standard deviation of 9.
    assert (counts[:5] - 100).abs().max() < 45


@pytest.mark.parametrize("method", ["random", "herding"])
def test_a_class_with_too_few_images_is_named(method):
    real = real_images([[i, 1, 0] for i in range(7)], [0, 0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=f"class 1 has 3 images and ipc is 4: {method}.*most 3"):
        make(method, ipc=4).select(real, Pixels())
    with pytest.raises(ValueError, match="factor is 2"):
        make(method, ipc=1, factor=2).select(real, Pixels())


@pytest.mark.parametrize("method", ["random", "herding"])
def test_selections_are_condensed_sets(method):
    splits = small_digits()
    config = CondenseConfig(method=method, ipc=3, width=4, pool_epochs=1, device="cpu", seed=1)
    condensed = condense(config, splits=splits, progress=False).condensed
    assert condensed.labels.tolist() == [c for c in range(10) for _ in range(3)]
    kept = condensed.dataset().images.flatten(1)
    same = (kept[:, None] == splits.train.images.flatten(1)).all(2)
    rows = same.int().argmax(1)
    assert same.any(1).all()
    assert splits.train.labels[rows].equal(condensed.labels)
    assert len(set(rows.tolist())) == 30


def test_herding_takes_pretrained_networks_if_not_told_otherwise():
    assert CondenseConfig(method="herding").resolved().network_pool == "pretrained"
    kept = {}
    for pool in (None, "random"):
        config = CondenseConfig(
            method="herding", ipc=3, network_pool=pool, width=4, pool_epochs=1, device="cpu"
        )
        kept[pool] = condense(config, splits=small_digits(), progress=False).condensed.images
    assert not kept[None].equal(kept["random"])
