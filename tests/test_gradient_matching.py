"""Gradient matching against closed forms, the paper's D1 + D2 and finite differences."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from losses_by_hand import BITS, CASES, CLASSES
from torch import nn

from hashfast.condense.distances import gradient_distance
from hashfast.condense.gradients import Views, gradients, match_gradients, matched_parameters
from hashfast.hashing import HashModel, ModelConfig
from hashfast.losses import CSQ, DBDH, DHD, DPN, HSWD, SWD, GreedyHash, OrthoHash, greedyhash

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 8


def images(n, seed, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)


def network(head="linear"):
    torch.manual_seed(0)
    config = ModelConfig("convnet3", BITS, head=head, image_shape=(3, SIZE, SIZE), width=2)
    return HashModel(config).double()


def batches(form="ids"):
    """Real and synthetic views, of different sizes."""
    ids = torch.tensor([0, 0, 1, 2])
    labels = ids if form == "ids" else F.one_hot(ids, CLASSES) | F.one_hot(2 * ids, CLASSES)
    return [
        Views(images(n, seed), labels[:n], images(n, seed + 10)) for n, seed in ((4, 1), (3, 2))
    ]


def leaf(views):
    """The same views, whose pixels want a gradient."""
    first, second = (x.clone().requires_grad_() for x in (views.images, views.second_images))
    return Views(first, views.labels, second)


# Gradients


class Flat(nn.Module):
    """u = W x of flattened images."""

    def __init__(self, pixels):
        super().__init__()
        self.layer = nn.Linear(pixels, BITS, bias=False, dtype=torch.float64)

    def forward(self, pictures):
        return self.layer(pictures.flatten(1))


def test_a_linear_network_matches_means():
    """Inside DPN's margin dL/dW = -t mean(x)^T for one class: D = bits |mean x - mean x'|^2."""
    model = Flat(12)
    nn.init.constant_(model.layer.weight, 0.01)
    labels = torch.full((4,), 3)
    real, pixels = images(4, 1, 2), images(3, 2, 2).requires_grad_()
    synthetic = Views(pixels, labels[:3])
    value = match_gradients(model, DPN(CLASSES, BITS), Views(real, labels), synthetic, metric="mse")
    difference = (pixels.mean(0) - real.mean(0)).detach()
    assert value.item() == pytest.approx(BITS * difference.square().sum().item(), rel=1e-12)
    value.backward()
    torch.testing.assert_close(pixels.grad, (2 * BITS / 3 * difference).expand(3, -1, -1, -1))


@pytest.mark.parametrize("metric", ["mse", "rows"])
def test_dhd_is_the_sum_of_the_two_distances_of_the_paper(metric):
    model, criterion = network("dhd"), DHD(CLASSES, BITS).double()
    real, synthetic = batches()

    def paper(views, create_graph):
        teacher, student = model(views.images), model(views.second_images)
        held = teacher.detach()
        distilled = (1 - F.cosine_similarity(student, held)).mean()
        sides = [(-((teacher + side) ** 2) / 2 / 0.5**2).exp() for side in (-1, 1)]
        target = (held.sign() + 1) / 2
        bits = F.binary_cross_entropy(sides[0], target)
        bits = bits + F.binary_cross_entropy(sides[1], 1 - target)
        cosines = F.normalize(teacher) @ F.normalize(criterion.proxies).T
        proxies = F.cross_entropy(cosines / 0.2, views.labels)
        kept = {"create_graph": create_graph, "retain_graph": True}
        encoder = torch.autograd.grad(
            0.1 * distilled + 0.1 * bits, list(model.parameters()), **kept
        )
        return encoder, torch.autograd.grad(proxies, [criterion.proxies], **kept)

    ours, theirs = leaf(synthetic), leaf(synthetic)
    value = match_gradients(model, criterion, real, ours, metric=metric)
    expected = sum(
        gradient_distance(a, b, metric)
        for a, b in zip(paper(real, False), paper(theirs, True), strict=True)
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-8)
    value.backward()
    expected.backward()
    for a, b in ((ours.images, theirs.images), (ours.second_images, theirs.second_images)):
        assert b.grad.abs().max() > 0
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("layers", ["all", "conv"])
def test_own_parameters_count_beside_those_of_the_network(layers):
    model, criterion = network(), GreedyHash(CLASSES, BITS).double()
    real, synthetic = batches()
    value = match_gradients(model, criterion, real, synthetic, metric="mse", layers=layers)
    criterion.requires_grad_(False)
    without = match_gradients(model, criterion, real, synthetic, metric="mse", layers=layers)
    weight = criterion.classifier.weight.requires_grad_()
    of_weight = [
        gradients(criterion(model(views.images), views.labels), [weight])
        for views in (real, synthetic)
    ]
    assert without > 0
    expected = without + gradient_distance(*of_weight, "mse")
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_cross_entropy_of_convolutions():
    """The public form: from the two parts, without a hashing loss."""
    model = network()
    weights = matched_parameters(model, "conv")
    assert [list(weight.shape) for weight in weights] == [[2, 3, 3, 3], [2, 2, 3, 3], [2, 2, 3, 3]]
    pixels = images(3, 2).requires_grad_()
    labels = torch.tensor([1, 1, 1, 1])
    real = gradients(F.cross_entropy(model(images(4, 1)), labels), weights)
    synthetic = gradients(F.cross_entropy(model(pixels), labels[:3]), weights, create_graph=True)
    assert not any(gradient.requires_grad for gradient in real)
    gradient_distance(real, synthetic, "l1").backward()
    assert pixels.grad.abs().max() > 0


def test_an_unused_parameter_has_zero_gradient():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    of_used, of_unused = gradients(used.square().sum(), [used, unused])
    assert of_used.tolist() == [2, 2]
    assert torch.equal(of_unused, torch.zeros(3, 2))


def test_draws_are_the_same_on_both_sides():
    model, (views, _) = network(), batches()
    for quantization in ("hswd", SWD(BITS, 5)):
        criterion = CSQ(CLASSES, BITS, quantization=quantization)
        assert match_gradients(model, criterion, views, views, metric="l1") < 1e-12
    torch.manual_seed(3)
    values = [match_gradients(model, criterion, *batches(), metric="l1") for _ in range(2)]
    assert values[0] != values[1]
    torch.manual_seed(3)
    assert match_gradients(model, criterion, *batches(), metric="l1") == values[0]


def test_only_losses_that_draw_move_the_generator():
    model = network()
    before = torch.get_rng_state()
    match_gradients(model, CSQ(CLASSES, BITS), *batches(), metric="mse")
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_and_their_gradients_are_left_alone():
    model, criterion = network("dhd"), DHD(CLASSES, BITS).double()
    real, synthetic = batches()
    synthetic = leaf(synthetic)
    match_gradients(model, criterion, leaf(real), synthetic, metric="mse").backward(
        inputs=[synthetic.images]
    )
    assert all(p.grad is None for p in (*model.parameters(), *criterion.parameters()))


def test_terms_add_up_to_the_loss():
    criterion = DHD(CLASSES, BITS, distill_weight=0.3, quantization_weight=0.2)
    outputs, student = (images(4, seed).flatten(1)[:, :BITS] - 0.5 for seed in (1, 2))
    labels = torch.tensor([0, 1, 2, 2])
    terms = criterion.terms(outputs, labels, u_student=student)
    parts = {"proxy": 1, "distillation": 0.3, "quantization": 0.2}
    assert list(terms) == list(parts)
    for name, weight in parts.items():
        assert terms[name].item() == weight * criterion.components[name].item()
    loss = criterion(outputs, labels, u_student=student)
    assert sum(terms.values()).item() == loss.item()
    assert list(CSQ(CLASSES, BITS).terms(outputs, labels)) == ["similarity", "quantization"]
    assert list(DPN(CLASSES, BITS).terms(outputs, labels)) == ["similarity"]


def test_wrong_matches():
    model, (real, synthetic) = network(), batches()
    csq = CSQ(CLASSES, BITS)
    with pytest.raises(ValueError, match="unknown layers 'linear'; choose 'all' or 'conv'"):
        match_gradients(model, csq, real, synthetic, metric="mse", layers="linear")
    with pytest.raises(ValueError, match="unknown metric 'l3'"):
        match_gradients(model, csq, real, synthetic, metric="l3")
    with pytest.raises(ValueError, match="Flat has no trainable parameters in layers='conv'"):
        matched_parameters(Flat(12), "conv")
    with pytest.raises(ValueError, match=r"DHD compares two views: give Views\(images, labels, s"):
        match_gradients(
            model, DHD(CLASSES, BITS), Views(*real[:2]), Views(*synthetic[:2]), metric="mse"
        )
    with pytest.raises(ValueError, match="this DBDH has a memory bank"):
        match_gradients(model, DBDH(CLASSES, BITS, bank_size=9), real, synthetic, metric="mse")


# Second derivatives

QUANTIZED = {
    "csq-hswd": partial(CSQ, CLASSES, BITS, quantization="hswd"),
    "csq-hswd-root": partial(CSQ, CLASSES, BITS, quantization=HSWD(BITS, root=True)),
    "csq-squashed": partial(CSQ, CLASSES, BITS, quantization="hswd", quantization_on="squashed"),
    "orthohash-swd": partial(OrthoHash, CLASSES, BITS, quantization=SWD(BITS, 7)),
    "dhd-hswd": partial(DHD, CLASSES, BITS, distill_weight=0.0, quantization="hswd"),
}
UNBANKED = {name: make for name, make in CASES.items() if "bank" not in name}


@pytest.mark.parametrize("form", ["ids", "multi-hot"])
@pytest.mark.parametrize(
    "make", [*UNBANKED.values(), *QUANTIZED.values()], ids=[*UNBANKED, *QUANTIZED]
)
def test_finite_differences(make, form, monkeypatch):
    torch.manual_seed(0)
    criterion = make().double().eval()
    model = network(criterion.head)
    real, synthetic = batches(form)
    hold_sign(monkeypatch)

    def distance(views):
        torch.manual_seed(1)
        return match_gradients(model, criterion, real, views, metric="mse")

    views = leaf(synthetic)
    distance(views).backward()
    moved = ["images", "second_images"]
    if isinstance(criterion, DHD) and criterion.distill_weight:
        moved.remove("images")  # the distillation holds the teacher fixed; a difference would not
    step, slope, sides = 1e-5, 0.0, [synthetic, synthetic]
    for seed, name in enumerate(moved):
        direction = images(3, 20 + seed) - 0.5
        gradient = getattr(views, name).grad
        if gradient is not None:
            slope += (gradient * direction).sum().item()
        sides = [
            side._replace(**{name: getattr(side, name) + sign * step * direction})
            for side, sign in zip(sides, (1, -1), strict=True)
        ]
    numeric = (distance(sides[0]) - distance(sides[1])).item() / (2 * step)
    assert slope == pytest.approx(numeric, rel=1e-5, abs=1e-9)
    assert slope != 0 or getattr(criterion, "ternary", False)


def hold_sign(monkeypatch):
    """GreedyHash's straight-through sign is u plus a constant: its value where first met."""
    offsets = {}

    def held(outputs):
        offset = offsets.setdefault(len(outputs), (outputs.sign() - outputs).detach())
        return outputs + offset

    monkeypatch.setattr(greedyhash, "sign_straight_through", held)
