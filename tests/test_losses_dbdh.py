"""DBDH against its formula as loops: the clamp, the balance term, pairs."""

import pytest
import torch
from losses_by_hand import (
    BITS,
    CLASSES,
    FORMS,
    are_similar,
    batch,
    bce,
    dot,
    labelled,
    mean,
)

from hashfast.losses import DBDH, HSWD


def clamped(outputs):
    return [[min(max(u, -1.0), 1.0) for u in row] for row in outputs.tolist()]


def likelihood_loops(codes, rows):
    images = list(zip(codes, rows, strict=True))
    return mean(bce(dot(u, v) / 2, are_similar(a, b)) for u, a in images for v, b in images)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("balance", ["image", "bit"])
def test_formula(form, power, balance):
    outputs, ids, hot = batch()
    labels, rows = labelled(form, ids, hot)
    codes = clamped(outputs)
    assert codes != outputs.tolist()
    criterion = DBDH(CLASSES, BITS, power=power, balance=balance)
    averaged = codes if balance == "image" else zip(*codes, strict=True)
    term = mean(abs(mean(values)) ** power for values in averaged)
    loss = criterion(outputs, labels)
    likelihood = likelihood_loops(codes, rows)
    assert criterion.components["similarity"].item() == pytest.approx(likelihood, rel=1e-12)
    assert criterion.components["quantization"].item() == pytest.approx(term, rel=1e-12)
    assert loss.item() == pytest.approx(likelihood + 0.1 * term, rel=1e-12)


def test_defaults():
    criterion = DBDH(CLASSES, BITS)
    assert (criterion.power, criterion.balance, criterion.quantization_weight) == (2, "image", 0.1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("quantization", ["none", "hswd", "swd", HSWD(BITS, target="balanced")])
def test_another_quantization_leaves_out_clamp_and_balance(form, quantization):
    outputs, ids, hot = batch()
    labels, rows = labelled(form, ids, hot)
    criterion = DBDH(CLASSES, BITS, quantization=quantization)
    criterion(outputs, labels)
    expected = likelihood_loops(outputs.tolist(), rows)
    assert criterion.components["similarity"].item() == pytest.approx(expected, rel=1e-12)


def test_outputs_beyond_the_clamp_have_no_gradient():
    outputs, ids, _ = batch()
    DBDH(CLASSES, BITS)(outputs, ids).backward()
    beyond = outputs.detach().abs() > 1
    assert beyond.any()
    assert torch.equal(outputs.grad == 0, beyond)


def test_wrong_choices():
    with pytest.raises(ValueError, match="power is 3; expected 1 or 2"):
        DBDH(CLASSES, BITS, power=3)
    with pytest.raises(ValueError, match="unknown balance 'column'; choose 'image' or 'bit'"):
        DBDH(CLASSES, BITS, balance="column")
