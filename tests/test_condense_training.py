"""The training of networks between two steps of gradient matching."""

import pytest
import torch
from condense_runs import three_digits, tiny

from hashfast.condense import METHODS
from hashfast.condense.augmentation import Augmentation
from hashfast.condense.networks import Networks
from hashfast.condense.real import RealImages
from hashfast.condense.step import Step
from hashfast.condense.training import NetworkTraining, _cutmix

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_takes_one_box_of_another_image(seed):
    """Image i is i everywhere, so that pixels tell where they come from."""
    images = torch.arange(5.0)[:, None, None, None].expand(5, 2, 6, 9)
    mixed, other, share = _cutmix(images, torch.Generator().manual_seed(seed))
    assert sorted(other.tolist()) == list(range(5))
    moved = (other != torch.arange(5)).nonzero().squeeze(1)
    for i in moved.tolist():
        cut = mixed[i, 0] == other[i]
        assert torch.equal(cut, mixed[i, 1] == other[i])
        assert torch.equal(mixed[i, 0][~cut], torch.full_like(mixed[i, 0][~cut], i))
        assert share == pytest.approx(1 - float(cut.float().mean()))
        rows, columns = cut.any(1), cut.any(0)
        assert torch.equal(cut, rows[:, None] & columns)
        assert int(rows.int().diff().abs().sum()) <= 2  # in one piece
    assert torch.equal(images, torch.arange(5.0)[:, None, None, None].expand(5, 2, 6, 9))


def test_cutmix_leaves_two_thirds_on_average():
    """Sides of sqrt(U) at a uniform place, cut at the border: 1 - E[(sqrt(U) - U / 4)^2]."""
    image = torch.zeros(2, 1, 40, 40)
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([_cutmix(image, generator)[2] for _ in range(1000)])
    assert abs(float(shares.mean()) - (1 - (1 / 2 - 1 / 5 + 1 / 48))) < 0.03


def trained(method="idc", epochs=1, place=(0, 0), images=10, training=None, **options):
    """(training, networks, weights that moved, batches the model saw and in which mode)."""
    config = tiny(method, network_epochs=epochs, network_batch=4, augment="none").resolved()
    networks = Networks(config, three_digits(), CPU, with_loss=True).load(0)
    model, seen = networks[0].model, []
    before = networks[0].state()
    model.register_forward_hook(lambda m, args, _: seen.append((len(args[0]), m.training)))
    training = training or NetworkTraining(config, Augmentation(config, model.mean, model.std))
    pixels = torch.rand(images, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    training.train(networks, pixels, torch.arange(images) % 3, place, **options)
    after = networks[0].state()
    return training, networks, [k for k in after if not torch.equal(after[k], before[k])], seen


def test_all_epochs_are_trained_in_training_mode():
    _, networks, moved, seen = trained(epochs=3)
    assert seen == [(size, True) for size in (4, 4, 2)] * 3
    assert any(name.startswith("model.backbone") for name in moved)
    assert any(name.startswith("model.head") for name in moved)
    assert not networks[0].model.training
    assert not networks[0].criterion.training


def test_the_parameters_of_the_loss_are_trained_too():
    config = tiny("dsa", hashing="greedyhash", augment="none").resolved()
    networks = Networks(config, three_digits(), CPU, with_loss=True).load(0)
    model, before = networks[0].model, networks[0].criterion.classifier.weight.detach().clone()
    training = NetworkTraining(config, Augmentation(config, model.mean, model.std))
    training.train(networks, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), (0, 0))
    assert not torch.equal(networks[0].criterion.classifier.weight, before)


def test_the_optimizer_starts_anew_with_new_networks():
    training, *_ = trained()
    first = training.optimizers
    trained(training=training, place=(0, 1))
    assert training.optimizers is first
    trained(training=training, place=(1, 0))
    assert training.optimizers is not first


def test_mixed_images_have_both_labels(monkeypatch):
    """The loss is share * loss(own labels) + (1 - share) * loss(those of the others)."""
    calls = []

    def step(self, network, optimizer, images, parts, generator):
        calls.append((images, parts))

    monkeypatch.setattr(NetworkTraining, "_step", step)
    trained(cutmix=True)
    assert len(calls) == 3
    for images, ((own, share), (others, rest)) in calls:
        assert share + rest == 1
        assert sorted(own.tolist()) == sorted(others.tolist())
        assert len(own) == len(images)
    assert any(not torch.equal(own, others) for _, ((own, _), (others, _)) in calls)
    calls.clear()
    trained()
    assert all([weight for _, weight in parts] == [1.0] for _, parts in calls)


@pytest.mark.parametrize("method", ["dsa", "idc"])
def test_what_networks_train_on(method, monkeypatch):
    """DSA: the images as they are now; IDC: some real ones, mixed, others after every step."""
    calls = []
    monkeypatch.setattr(
        NetworkTraining, "train", lambda self, *args, **options: calls.append((args, options))
    )
    config = tiny(method, network_images=7).resolved()
    splits = three_digits()
    real = RealImages(splits, CPU)
    learner = METHODS[method](config, 3)
    networks = Networks(config, splits, CPU, with_loss=True)
    loaded = networks.load(0)
    step = Step(config, learner, real, loaded[0].model.mean, loaded[0].model.std)
    images = torch.rand(6, 1, 8, 8)
    for inner in (0, 1):
        learner.between_steps(step, loaded, images, (0, inner))
    (first, options), (second, _) = calls
    if method == "dsa":
        assert torch.equal(first[1], images)
        assert first[2].tolist() == [0, 0, 1, 1, 2, 2]
        assert not options.get("cutmix")
    else:
        assert first[1].shape == (7, 1, 8, 8)
        assert not torch.equal(first[1], second[1])
        for pixels, label in zip(first[1], first[2], strict=True):
            rows = (real.unit(torch.arange(len(real.labels))) == pixels).flatten(1).all(1)
            assert label in real.labels[rows]
        assert options["cutmix"]
