"""The condensation loop: what a step computes, and what a run does."""

import json
from dataclasses import replace

import pytest
import torch
from condense_runs import TINY, digits, splits_of, three_digits, tiny

from hashfast.condense import METHODS, CondenseConfig, condense
from hashfast.condense.base import batched_step, images_optimizer
from hashfast.condense.networks import Networks
from hashfast.condense.real import RealImages
from hashfast.condense.start import first_images
from hashfast.condense.step import Step
from hashfast.data import UnreadableImage, load
from hashfast.data.formation import decode
from hashfast.hashing import DivergedError

pytestmark = pytest.mark.usefixtures("one_thread")
LEARNERS = [name for name in METHODS if name not in ("random", "herding")]


def prepared(config, splits=None):
    """(images float64, method, networks, step) of a run, in double precision."""
    splits = digits() if splits is None else splits
    config = config.resolved()
    real = RealImages(splits, torch.device("cpu"))
    method = METHODS[config.method](config, splits.num_classes)
    networks = Networks(config, splits, torch.device("cpu"), method.with_loss)
    for network in networks.slots:
        network.model.double()
    model = networks.slots[0].model
    images = first_images(config, real).double().requires_grad_()
    return images, method, networks, Step(config, method, real, model.mean, model.std)


def class_loop_loss(config, network, real, images, label):
    """Distance of one class's mean features, as the public codes write it."""
    of_class = slice(label * config.ipc, (label + 1) * config.ipc)
    decoded, _ = decode(images[of_class], config.factor)
    theirs = network.features(real.images[real.rows[label]].double() / 255).mean(0)
    return (theirs - network.features(decoded).mean(0)).square().sum()


@pytest.mark.parametrize("method", ["dm", "iem"])
def test_a_step_is_the_sum_over_a_class_loop(method):
    config = tiny(method, augment="none", real_batch=0).resolved()
    images, _, networks, step = prepared(config)
    loss = step(images, networks.load(0), (0, 0))
    network = networks.slots[0]
    expected = sum(class_loop_loss(config, network, step.real, images, c) for c in range(10))
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(images.grad, torch.autograd.grad(expected, images)[0])


def test_batched_steps_are_those_of_a_loop_over_classes():
    """With one network, at the points where a class's gradient is taken (kernels.md)."""
    config = tiny("iem", augment="none", real_batch=0, learning_rate=0.02).resolved()
    images, method, networks, step = prepared(config)
    (network,) = networks.load(0)
    ours, optimizer = images, images_optimizer(images, method, 10)
    theirs = images.detach().clone().requires_grad_()
    loop = torch.optim.SGD([theirs], lr=config.learning_rate, momentum=config.momentum)
    for turn in range(4):
        for label in range(10):
            rows = slice(label * config.ipc, (label + 1) * config.ipc)
            torch.testing.assert_close(theirs[rows], ours[rows], rtol=0, atol=1e-12)
            loop.zero_grad()
            class_loop_loss(config, network, step.real, theirs, label).backward()
            loop.step()
        step(ours, [network], (0, turn))
        optimizer.step()
    assert not torch.equal(ours, first_images(config, step.real).double())


def test_batched_step_at_ten_classes_is_the_published_conversion():
    assert batched_step(0.005, 0.5, 10) == pytest.approx((0.005 * 1.998046875, 0.5**10))
    assert batched_step(0.3, 0.0, 7) == (0.3, 0.0)


def test_idc_scales_its_learning_rate_by_images_a_class_and_their_size():
    def rate(ipc, **changes):
        config = tiny("idc", ipc=ipc, momentum=0.0, learning_rate=0.02, **changes).resolved()
        images = torch.zeros(1, 1, 8, 8, requires_grad=True)
        optimizer = images_optimizer(images, METHODS["idc"](config, 3), 3)
        return optimizer.param_groups[0]["lr"]

    assert rate(50) == pytest.approx(0.1)
    assert rate(1) == pytest.approx(0.002)
    assert rate(50, scale_learning_rate=False) == 0.02
    assert rate(10, learning_rate_size=32) == pytest.approx(0.02 / 16)


@pytest.mark.parametrize("method", ["dm", "iem", "idc"])  # dsa counts rows without gradient 1
def test_real_and_synthetic_images_share_the_augmentation_of_their_class(method):
    """Where the synthetic images are all real images of their class, every draw compares equal."""
    images = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = [0, 0, 0, 1, 1, 1]
    config = tiny(method, ipc=3, factor=1, real_batch=0, init="noise", network_augmentation=False)
    splits = splits_of(images, labels, 2)
    _, _, networks, step = prepared(config, splits)
    same = (images.double() / 255).requires_grad_()
    for number in range(4):
        loss = step(same, networks.load(number), (number, 0))
        assert abs(float(loss)) < 1e-9
    moved = (1 - images.double() / 255).requires_grad_()
    assert float(step(moved, networks.load(0), (0, 0))) > 1e-6


@pytest.mark.parametrize("method", LEARNERS)
def test_images_move_stay_in_range_and_repeat(method):
    splits = three_digits()
    first, second, other = (
        condense(tiny(method, seed=seed), splits=splits, progress=False) for seed in (0, 0, 1)
    )
    images = first.condensed.images
    start = first_images(tiny(method).resolved(), RealImages(splits, torch.device("cpu")))
    assert not torch.equal(images, start)
    assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(images, second.condensed.images)
    assert not torch.equal(images, other.condensed.images)
    assert first.condensed.labels.tolist() == [c for c in range(3) for _ in range(2)]
    assert first.seconds > 0


def test_learning_lowers_the_loss_in_networks_it_has_not_seen():
    splits, lines = digits(), []
    config = tiny("dm", width=8, networks=60, learning_rate=1.0, augment="none", real_batch=0)
    result = condense(
        config,
        splits=splits,
        progress=False,
        evaluate=lambda found: lines.append(found) or {},
        evaluate_every=30,
    )
    assert [line["networks"] for line in result.history] == [30, 60]
    assert torch.equal(lines[-1].images, result.condensed.images)
    start, _, networks, step = prepared(config, splits)
    before, after = (
        sum(float(step(images, networks.load(n), (n, 0))) for n in range(100, 105))
        for images in (start, result.condensed.images.double().requires_grad_())
    )
    assert after < 0.75 * before


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", LEARNERS)
def test_a_resumed_run_gives_the_same_images(method, tmp_path, monkeypatch):
    monkeypatch.setattr("hashfast.condense.loop.CHECKPOINT_SECONDS", 0.0)
    splits, config = three_digits(), tiny(method, networks=3)
    whole = condense(config, splits=splits, progress=False)

    def stop(_):
        if stop.calls:
            raise Stop
        stop.calls += 1
        return {}

    stop.calls = 0
    with pytest.raises(Stop):
        condense(config, tmp_path, splits=splits, progress=False, evaluate=stop, evaluate_every=1)
    with pytest.raises(FileExistsError, match="network 1 of 3: continue it with resume"):
        condense(config, tmp_path, splits=splits, progress=False)
    with pytest.raises(ValueError, match="ipc 2 -> 3"):
        condense(tiny(method, networks=3, ipc=3), tmp_path, splits=splits, resume=True)
    resumed = condense(config, tmp_path, splits=splits, resume=True, progress=False)
    assert torch.equal(resumed.condensed.images, whole.condensed.images)
    again = condense(config, tmp_path, splits=splits, resume=True, progress=False)
    assert torch.equal(again.condensed.images, whole.condensed.images)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["networks"] == 3


def test_every_step_draws_anew():
    """Real images, and the decoded ones where a class has more than a step takes."""
    config = tiny("iem", augment="none", synthetic_batch=3)
    images, _, networks, step = prepared(config)
    loaded = networks.load(0)
    (first, labels), (second, _) = (step.decoded(images, (0, inner)) for inner in (0, 1))
    assert labels.tolist() == [c for c in range(10) for _ in range(3)]
    assert not torch.equal(first, second)
    whole, _ = decode(images, 2, num_classes=10)
    for i, chosen in enumerate(first):  # different ones, of their class
        of_class = whole[i // 3 * 8 : i // 3 * 8 + 8]
        assert (of_class == chosen).flatten(1).all(1).sum() == 1
    assert len(first.flatten(1).unique(dim=0)) == 30
    step.config = replace(step.config, synthetic_batch=0)
    losses = {float(step(images, loaded, (number, inner))) for number in (0, 1) for inner in (0, 1)}
    assert len(losses) == 4
    assert float(step(images, loaded, (1, 0))) in losses


def test_a_selection_is_not_replaced_by_another(tmp_path):
    def run(**settings):
        config = tiny("random", **{"hashing_options": ("gamma=10",), "hashing": "dch", **settings})
        return condense(config, tmp_path, splits=splits, resume=True, progress=False)

    splits = three_digits()
    first = run()
    with pytest.raises(ValueError, match=r"other settings: ipc 2 -> 3; seed 0 -> 1"):
        run(ipc=3, seed=1)
    assert torch.equal(run(workers=1).condensed.images, first.condensed.images)
    splits = replace(splits, fingerprint="another split")
    with pytest.raises(ValueError, match="other settings: data fingerprint"):
        run()


def test_several_networks_a_step_are_averaged():
    config = tiny("dm", networks_a_step=2, augment="none", real_batch=0)
    images, _, networks, step = prepared(config)
    both = networks.load(0)
    loss = step(images, both, (0, 0))
    alone = [
        sum(class_loop_loss(config.resolved(), network, step.real, images, c) for c in range(10))
        for network in both
    ]
    assert alone[0] != alone[1]
    torch.testing.assert_close(loss, (sum(alone) / 2).detach())


def test_real_features_are_shared_by_a_networks_steps(monkeypatch):
    calls = []
    cls = METHODS["iem"]
    original = cls.real_side
    monkeypatch.setattr(cls, "real_side", lambda *args: calls.append(1) or original(*args))
    for real_draws, expected in (("step", 6), ("network", 2)):
        calls.clear()
        config = tiny("iem", inner_steps=3, real_draws=real_draws)
        condense(config, splits=digits(), progress=False)
        assert len(calls) == expected


def test_bf16_moves_the_images_alike():
    runs = [
        condense(tiny("iem", amp=amp), splits=digits(), progress=False).condensed.images
        for amp in ("no", "bf16")
    ]
    assert not torch.equal(*runs)
    torch.testing.assert_close(*runs, rtol=0, atol=0.05)


@pytest.mark.parametrize("shape", [(1, 6, 9), (3, 7, 5)])
@pytest.mark.parametrize("method", ["dm", "iem"])
def test_condenses_grey_and_colour_images_of_any_square_size(method, shape):
    channels, size, _ = shape
    images = torch.randint(0, 256, (12, channels, 8 + size % 2, 8 + size % 2))
    result = condense(tiny(method), splits=splits_of(images, [0, 1] * 6, 2), progress=False)
    assert result.condensed.images.shape == (4, *images.shape[1:])


def test_images_that_are_not_square_are_refused():
    images = torch.zeros(4, 1, 8, 10)
    with pytest.raises(ValueError, match="8x10; models take square ones"):
        condense(tiny("dm"), splits=splits_of(images, [0, 1, 0, 1], 2), progress=False)


def test_a_class_with_fewer_images_than_are_stored_repeats_them():
    images = torch.arange(3 * 64).remainder(256).view(3, 1, 8, 8)
    splits = splits_of(images, [0, 0, 1], 2)
    real = RealImages(splits, torch.device("cpu"))
    start = first_images(tiny("dm", ipc=3).resolved(), real)
    expected = images[[0, 1, 2]].float() / 255
    assert {tuple(i.flatten().tolist()) for i in start[:3]} <= {
        tuple(i.flatten().tolist()) for i in expected[:2]
    }
    assert torch.equal(start[3:], expected[2].expand(3, 1, 8, 8))
    condense(tiny("iem", ipc=3), splits=splits, progress=False)


def test_bad_data_is_named():
    images = torch.zeros(4, 1, 8, 8)
    with pytest.raises(ValueError, match="has no images of class 1, class 3"):
        condense(tiny("dm"), splits=splits_of(images, [0, 2, 0, 2], 4), progress=False)
    with pytest.raises(ValueError, match=r"factor is 9; images of 8 x 8"):
        condense(tiny("iem", factor=9), splits=digits(), progress=False)
    several = torch.tensor([[1, 1], [0, 1], [1, 0], [1, 1]])
    with pytest.raises(ValueError, match="several labels an image"):
        condense(tiny("dm"), splits=splits_of(images, several, 2), progress=False)


def test_pictures_of_which_none_is_readable_are_named(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            (tmp_path / label / f"{i}.png").write_bytes(b"no picture")
    splits = load("folder", tmp_path, image_size=8)
    with pytest.raises(UnreadableImage, match=r"no training picture is readable, the first: .*png"):
        RealImages(splits, torch.device("cpu"))


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch, tmp_path):
    def losses(self, network, real_side, synthetic):
        yield synthetic.images.sum() * float("nan")

    monkeypatch.setattr(METHODS["dm"], "losses", losses)
    with pytest.raises(DivergedError, match="loss is nan with network 2 of 2 and learning rate"):
        condense(tiny("dm", networks=2), tmp_path, splits=three_digits(), progress=False)
    assert not list(tmp_path.glob("condensed*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mtt"}, "unknown method 'mtt'; known: random, herding, dm"),
        ({"ipc": 0}, "ipc is 0; it must be at least 1"),
        ({"factor": 0}, "factor is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be positive"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"formation": "triple"}, "formation is 'triple'; expected one of single, multi, bound"),
        ({"perturbation": (0.2, 0.1)}, "the smaller first"),
        ({"strategy": "flip_zoom"}, "strategy is 'flip_zoom'"),
        ({"hashing": "sift"}, "unknown method 'sift'"),
        ({"real_batch": -1}, "real_batch is -1"),
        ({"pool_epochs": 0}, "pool_epochs is 0; it must be at least 1"),
        ({"network_images": 0}, "network_images is 0"),
        ({"network_pool": "trained"}, "network_pool is 'trained'; expected one of random, pre"),
        ({"augment": "dhd"}, "augment is 'dhd'; expected one of none, dsa, idc"),
        ({"metric": "l2"}, "metric is 'l2'; expected one of rows, cos"),
        ({"perturbation_directions": 3}, "perturbation_directions is 3; expected one of 1, 2"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        CondenseConfig(**{**TINY, **changes})
