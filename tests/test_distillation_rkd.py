"""RKD against its formula as loops, equal codes, and what it holds in memory."""

import math

import pytest
import torch
from distillation_by_hand import BITS, Largest, batch, minus, norm, smooth_l1, unit
from losses_by_hand import dot, mean

from hashfast.losses.distillation import rkd
from hashfast.losses.distillation.rkd import RKD

pytestmark = pytest.mark.usefixtures("one_thread")


def distances(rows):
    found = [
        [0.0 if i == j else max(norm(minus(a, b)), 1e-6) for j, b in enumerate(rows)]
        for i, a in enumerate(rows)
    ]
    average = mean(x for row in found for x in row if x > 0)
    return [x / average for row in found for x in row]


def angles(rows):
    def direction(i, j):
        difference = minus(rows[j], rows[i])
        return unit(difference) if any(difference) else difference

    every = range(len(rows))
    return [dot(direction(i, j), direction(i, k)) for i in every for j in every for k in every]


def terms(student, teacher):
    rows = student.tolist(), teacher.tolist()
    return [
        mean(smooth_l1(s - t) for s, t in zip(*map(of, rows), strict=True))
        for of in (distances, angles)
    ]


@pytest.mark.parametrize("teacher_bits", [BITS, 9])
@pytest.mark.parametrize("weights", [(25.0, 50.0), (3.0, 0.0), (0.0, 2.0)])
def test_formula(teacher_bits, weights):
    student, teacher = batch(6, teacher_bits)
    expected = dot(weights, terms(student, teacher))
    found = RKD(BITS, teacher_bits, distance_weight=weights[0], angle_weight=weights[1])
    assert found(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    if weights == (25.0, 50.0):
        assert RKD(BITS, teacher_bits)(student, teacher).item() == pytest.approx(expected)


def pair_of_equals():
    student, teacher = (x.detach().sign() for x in batch(6))
    student[4] = student[1]
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_equal_codes_have_a_small_distance_and_no_direction(variant):
    student, teacher = pair_of_equals()
    expected = dot((25, 50), terms(student, teacher))
    loss = RKD(BITS, variant=variant)(student, teacher)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    largest = student.grad.abs().amax(1)
    assert largest[[0, 2, 3, 5]].max() < 1
    if variant == "paper":
        assert largest.max() < 1
    else:
        assert largest[[1, 4]].min() > 1e9  # 1e12 times the slope of the angles


def test_the_variants_differ_for_equal_codes_alone():
    student, teacher = batch(6)
    gradients = [
        torch.autograd.grad(RKD(BITS, variant=variant)(student, teacher), student)[0]
        for variant in ("paper", "released")
    ]
    assert torch.allclose(*gradients, rtol=1e-12, atol=0)


@pytest.mark.parametrize("held", [1, 49, 100, 200])
def test_parts_add_up(held, monkeypatch):
    student, teacher = batch(7)
    whole = RKD(BITS)(student, teacher)
    gradient = torch.autograd.grad(whole, student)[0]
    monkeypatch.setattr(rkd, "_ANGLES", held)
    parts = RKD(BITS)(student, teacher)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(parts, student)[0], gradient, rtol=1e-10, atol=1e-14)


def test_the_angles_are_never_held_together(monkeypatch):
    n, held = 24, 1200  # two corners of 576 angles
    monkeypatch.setattr(rkd, "_ANGLES", held)
    student, teacher = batch(n)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with Largest() as seen:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = RKD(BITS)(student, teacher)
        loss.backward()
    assert seen.elements <= held
    assert sum(kept) < n**3


def test_near_codes_in_float32():
    rows = torch.randn(4, BITS) + 100
    rows[1] = rows[0] + 1e-3 * torch.randn(BITS)
    teacher = torch.randn(4, BITS)
    losses = [RKD(BITS)(rows.to(d), teacher.to(d)).item() for d in (torch.float32, torch.float64)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_one_row_has_no_pairs():
    student, teacher = batch(1)
    with pytest.warns(UserWarning, match="RKD is undefined for a batch of 1"):
        loss = RKD(BITS)(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_wrong_options():
    with pytest.raises(ValueError, match="choose 'paper' or 'released'"):
        RKD(BITS, variant="zoo")
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be 0 or positive"):
            RKD(BITS, distance_weight=weight)
        with pytest.raises(ValueError, match="must be 0 or positive"):
            RKD(BITS, angle_weight=weight)
