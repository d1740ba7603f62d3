"""The networks that images are compared in: drawn by number, perturbed, from a pool."""

import pytest
import torch
from condense_runs import three_digits, tiny

from hashfast.condense.networks import Networks

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def networks(**changes):
    return Networks(tiny("iem", **changes).resolved(), three_digits(), CPU, with_loss=False)


def weights(networks, number, slot=0):
    """Copies of a network's parameters by name."""
    model = networks.load(number)[slot].model
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(first, second):
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


def sizes(moved, plain):
    """How far every filter of the backbone was moved, as shares of its norm."""
    return torch.cat(
        [
            (moved[name] - weight).flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
            for name, weight in plain.items()
            if name.startswith("backbone") and weight.dim() > 1
        ]
    )


def test_a_network_is_a_function_of_its_number():
    two = networks(networks_a_step=2, network_augmentation=False)
    drawn = [weights(two, number, slot) for number in (0, 1) for slot in (0, 1)]
    assert not any(same(drawn[i], drawn[j]) for i in range(4) for j in range(i))
    assert same(weights(two, 0), drawn[0])
    torch.manual_seed(5)  # torch's own generators have no part in it
    one = networks(network_augmentation=False)
    assert same(weights(one, 3), drawn[3])
    assert not same(weights(networks(network_augmentation=False, seed=1), 3), drawn[3])


def test_network_augmentation_moves_every_filter_by_the_same_share():
    augmented, plain = networks(), networks(network_augmentation=False)
    found = []
    for number in range(4):
        moved, start = weights(augmented, number), weights(plain, number)
        shares = sizes(moved, start)
        torch.testing.assert_close(shares, shares[:1].expand_as(shares), rtol=1e-3, atol=0)
        found.append(float(shares[0]))
        others = {k: v for k, v in start.items() if v.dim() < 2 or not k.startswith("backbone")}
        assert others
        assert same(others, moved)
    assert 0.0099 < min(found) < max(found) < 0.0901
    assert len({round(share, 4) for share in found}) == 4


def test_the_pool_stays_as_it_was_trained():
    """Every network is a perturbed one of the pool, however many were drawn before it."""
    drawing = networks(network_pool="pretrained", pool_size=2)
    first = weights(drawing, 0)
    plain = networks(network_pool="pretrained", pool_size=2, network_augmentation=False)
    trained = [weights(plain, number) for number in range(12)]
    kinds: list[dict] = []
    for start in trained:
        if not any(same(start, kind) for kind in kinds):
            kinds.append(start)
    assert len(kinds) == 2
    for number, start in enumerate(trained):
        assert 0.0099 < sizes(weights(drawing, number), start).mean() < 0.0901
    assert same(weights(drawing, 0), first)
    random = weights(networks(network_augmentation=False), 0)
    assert sizes(kinds[0], random).mean() > 0.1


def test_a_pool_is_kept_for_other_runs(monkeypatch, tmp_path):
    settings = {"network_pool": "pretrained", "pool_size": 1, "pool_folder": tmp_path}
    first = weights(networks(**settings), 0)

    def train(self, number):
        raise AssertionError("it is trained again")

    monkeypatch.setattr(Networks, "_train", train)
    assert same(weights(networks(**settings, ipc=3, networks=9), 0), first)
    for changes in ({"seed": 1}, {"hashing": "dpn"}, {"pool_epochs": 2}, {"width": 5}):
        with pytest.raises(AssertionError, match="trained again"):
            networks(**settings, **changes).load(0)
