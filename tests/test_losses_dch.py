"""DCH against its formulas as loops, and its behaviour where codes are equal."""

import math

import pytest
import torch
from losses_by_hand import (
    BITS,
    CLASSES,
    FORMS,
    are_similar,
    balanced,
    batch,
    cosine,
    labelled,
    mean,
)

from hashfast.losses import DCH

VARIANTS = ["paper", "zoo", "official", "official-cosine"]


def distance(a, b, variant):
    if variant == "official":
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) + 0.001
    similarity = cosine(a, b)
    if variant == "official-cosine":
        return BITS / 2 * (1 - similarity + 1e-6)
    if variant == "zoo":
        similarity = min(similarity, 0.99)
    return BITS / 2 * max(1 - similarity, 1e-6)


def cauchy_loops(outputs, rows, variant, gamma):
    n = len(outputs)
    pairs = [(i, j) for i in range(n) for j in range(n) if variant == "zoo" or i != j]
    losses = []
    for i, j in pairs:
        d, s = distance(outputs[i], outputs[j], variant), are_similar(rows[i], rows[j])
        # w (s log(d / gamma) + log(1 + gamma / d)), as printed
        losses.append((s * math.log(d / gamma) + math.log(1 + gamma / d), s))
    if not variant.startswith("official"):
        return balanced(losses)
    similar = sum(are_similar(a, b) for a in rows for b in rows)
    return mean(loss * (n * n / similar if s else 1) for loss, s in losses)


def quantization_loops(outputs, variant, gamma):
    if variant.startswith("official"):
        return mean((abs(x) - 1) ** 2 for row in outputs for x in row)
    ones = [1.0] * BITS
    return mean(
        math.log(1 + distance([abs(x) for x in row], ones, variant) / gamma) for row in outputs
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"gamma": 3.0, "quantization_weight": 0.7}])
def test_formula(form, variant, options):
    outputs, ids, hot = batch(7)
    labels, rows = labelled(form, ids, hot)
    criterion = DCH(CLASSES, BITS, variant=variant, **options)
    gamma, weight = options.get("gamma", 20.0), options.get("quantization_weight", 0.1)
    similarity = cauchy_loops(outputs.tolist(), rows, variant, gamma)
    quantization = quantization_loops(outputs.tolist(), variant, gamma)
    loss = criterion(outputs, labels)
    assert criterion.components["similarity"].item() == pytest.approx(similarity, rel=1e-12)
    assert criterion.components["quantization"].item() == pytest.approx(quantization, rel=1e-12)
    assert loss.item() == pytest.approx(similarity + weight * quantization, rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 1, 2]])
def test_a_kind_of_pairs_that_is_absent_adds_nothing(variant, classes):
    outputs, _, _ = batch(3)
    rows = torch.eye(CLASSES)[classes].tolist()
    expected = cauchy_loops(outputs.tolist(), rows, variant, 20.0)
    criterion = DCH(CLASSES, BITS, variant=variant, quantization="none")
    assert criterion(outputs, torch.tensor(classes)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [torch.ones(BITS), torch.randn(BITS), torch.zeros(BITS)])
def test_equal_codes_are_finite(variant, dtype, row):
    outputs = row.to(dtype).repeat(4, 1).requires_grad_()
    criterion = DCH(CLASSES, BITS, variant=variant)
    loss = criterion(outputs, torch.tensor([0, 0, 1, 2]))
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize(("variant", "floor"), [("paper", 1e-6), ("zoo", 0.01)])
def test_how_near_codes_can_come(variant, floor):
    outputs = torch.ones(2, BITS, dtype=torch.float64)
    criterion = DCH(CLASSES, BITS, variant=variant, quantization="none")
    d = BITS / 2 * floor
    apart = criterion(outputs, torch.tensor([0, 1])).item()
    alone = math.log(1 + d / 20) if variant == "zoo" else 0.0  # an image and itself
    assert apart == pytest.approx(alone + math.log(1 + 20 / d), rel=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_near_codes_of_different_classes_are_pushed_apart(variant):
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(BITS, generator=generator)
    outputs = torch.stack([row, row + 0.7 * torch.randn(BITS, generator=generator)])
    outputs.requires_grad_()
    criterion = DCH(CLASSES, BITS, variant=variant, quantization="none")
    criterion(outputs, torch.tensor([0, 1])).backward()
    step = 0.01 * outputs.grad / outputs.grad.norm()
    before, after = (
        torch.nn.functional.cosine_similarity(*u, dim=0) for u in (outputs, outputs - step)
    )
    assert after < before


@pytest.mark.parametrize("variant", ["paper", "official", "official-cosine"])
def test_one_row_has_no_pairs(variant):
    outputs, ids, _ = batch(1)
    criterion = DCH(CLASSES, BITS, variant=variant)
    with pytest.warns(UserWarning, match="pairwise term of DCH is undefined for a batch of 1"):
        loss = criterion(outputs, ids)
    loss.backward()
    assert criterion.components["similarity"].item() == 0
    assert outputs.grad.abs().max() > 0  # of the quantisation


def test_wrong_choices():
    with pytest.raises(ValueError, match="choose one of paper, zoo, official, official-cosine"):
        DCH(CLASSES, BITS, variant="l2")
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"gamma is .*; it must be positive"):
            DCH(CLASSES, BITS, gamma=gamma)
