"""DSDH against its formula and a slow solution of its classifier and codes, bit by bit."""

import itertools

import pytest
import torch
from losses_by_hand import (
    BANK,
    BITS,
    CLASSES,
    FORMS,
    are_similar,
    batch,
    bce,
    dot,
    labelled,
    mean,
    sign,
)

from hashfast.losses import DSDH


def solved(outputs, rows, codes, mu=1.0, nu=1.0, eta=55.0, rounds=10):
    """(W, B) as lists: ridge regression and discrete coordinate descent, image by image."""
    codes = [list(row) for row in codes]
    bits = range(len(codes[0]))
    labels = torch.tensor(rows, dtype=torch.float64)
    for _ in range(rounds):
        b = torch.tensor(codes, dtype=torch.float64)
        gram = b.T @ b + nu / mu * torch.eye(len(bits), dtype=torch.float64)
        w = (torch.linalg.inv(gram) @ b.T @ labels).tolist()
        for k in bits:
            for image, u in enumerate(outputs):
                others = sum(codes[image][m] * dot(w[m], w[k]) for m in bits if m != k)
                codes[image][k] = sign(dot(rows[image], w[k]) + eta / mu * u[k] - others)
    return w, codes


def terms(outputs, rows, others, other_rows, w, codes):
    """likelihood, classification, classifier and quantisation of a batch against others."""
    wanted = [[dot(code, column) for column in zip(*w, strict=True)] for code in codes]
    return {
        "likelihood": mean(
            bce(dot(u, v) / 2, are_similar(a, b))
            for u, a in zip(outputs, rows, strict=True)
            for v, b in zip(others, other_rows, strict=True)
        ),
        "classification": mean(
            (y - p) ** 2
            for row, prediction in zip(rows, wanted, strict=True)
            for y, p in zip(row, prediction, strict=True)
        ),
        "classifier": mean(x**2 for row in w for x in row),
        "quantization": mean(
            (b - x) ** 2 if b else 0.0
            for code, u in zip(codes, outputs, strict=True)
            for b, x in zip(code, u, strict=True)
        ),
    }


WEIGHTS = [{}, {"mu": 0.5, "nu": 3.0, "eta": 0.2, "rounds": 2}]


def check(criterion, loss, expected):
    for name, value in expected.items():
        assert criterion.components[name].item() == pytest.approx(value, rel=1e-12), name
    similarity = (
        expected["likelihood"]
        + criterion.mu * expected["classification"]
        + criterion.nu * expected["classifier"]
    )
    assert criterion.components["similarity"].item() == pytest.approx(similarity, rel=1e-12)
    total = similarity + criterion.eta * expected["quantization"]
    assert loss.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_batch_as_the_training_set(form, weights):
    outputs, ids, hot = batch(7)
    labels, rows = labelled(form, ids, hot)
    criterion = DSDH(CLASSES, BITS, **weights).double()
    u = outputs.tolist()
    w, codes = solved(u, rows, [[sign(x) for x in row] for row in u], **weights)
    check(criterion, criterion(outputs, labels), terms(u, rows, u, rows, w, codes))
    assert torch.allclose(criterion.classifier, torch.tensor(w, dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_with_a_bank(form, weights):
    criterion = DSDH(CLASSES, BITS, bank_size=BANK, **weights).double()
    bank = [[0.0] * BITS for _ in range(BANK)]
    bank_rows = [[0.0] * CLASSES for _ in range(BANK)]
    w, codes = [[0.0] * CLASSES for _ in range(BITS)], [[0] * BITS for _ in range(BANK)]
    for epoch in range(3):
        criterion.start_epoch(epoch)
        # Nothing is known at first, half of the images then, all in the end.
        w, codes = solved(bank, bank_rows, codes, **weights)
        assert torch.allclose(criterion.classifier, torch.tensor(w, dtype=torch.float64))
        assert criterion.codes.tolist() == codes
        for step in range(2 if epoch else 1):
            outputs, ids, hot = batch(7, seed=10 * epoch + step)
            labels, rows = labelled(form, ids, hot)
            index = [2 * i + step for i in range(7)]
            loss = criterion(outputs, labels, index=torch.tensor(index))
            u = outputs.tolist()
            for i, at in enumerate(index):
                bank[at], bank_rows[at] = u[i], rows[i]
            mine = [codes[at] for at in index]
            check(criterion, loss, terms(u, rows, bank, bank_rows, w, mine))


@pytest.mark.parametrize("form", FORMS)
def test_each_round_lowers_the_objective(form):
    outputs, ids, hot = batch(BANK)
    labels, rows = labelled(form, ids, hot)
    wanted = torch.tensor(rows, dtype=torch.float64)
    values = []
    for rounds in range(1, 6):
        criterion = DSDH(CLASSES, BITS, bank_size=BANK, eta=0.1, rounds=rounds).double()
        criterion(outputs, labels, index=torch.arange(BANK))
        criterion.codes.copy_(torch.randn(BANK, BITS).sign())
        torch.manual_seed(0)
        criterion.solve()
        w, b = criterion.classifier, criterion.codes
        error = (wanted - b @ w).square().sum() + w.square().sum()
        values.append((error + 0.1 * (b - outputs).square().sum()).item())
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_codes_and_classifier_are_constants_of_a_step():
    outputs, ids, _ = batch()
    criterion = DSDH(CLASSES, BITS, bank_size=BANK).double()
    index = torch.arange(6)
    criterion(outputs, ids, index=index)
    criterion.start_epoch(1)
    classifier, codes = criterion.classifier.clone(), criterion.codes.clone()
    loss = criterion(outputs, ids, index=index)
    assert torch.equal(criterion.classifier, classifier)
    assert torch.equal(criterion.codes, codes)
    # The gradient is that of the likelihood and of the pull to the codes.
    pairs = (ids[:, None] == criterion.memory.ids).double()
    theta = outputs.detach() @ criterion.memory.outputs.T / 2
    expected = (theta.sigmoid() - pairs) @ criterion.memory.outputs / 2 / theta.numel()
    expected += 55 * 2 * (outputs.detach() - codes[index]) / outputs.numel()
    assert torch.allclose(torch.autograd.grad(loss, outputs)[0], expected)


@pytest.mark.parametrize("quantization", ["none", "hswd"])
def test_another_quantization_leaves_the_solution(quantization):
    outputs, ids, _ = batch()
    criterion = DSDH(CLASSES, BITS, quantization=quantization).double()
    criterion(outputs, ids)
    own = DSDH(CLASSES, BITS).double()
    own(outputs, ids)
    assert torch.equal(criterion.classifier, own.classifier)
    assert criterion.components["similarity"] == own.components["similarity"]


def test_eta_is_the_default_weight():
    assert DSDH(CLASSES, BITS).quantization_weight == 55
    assert DSDH(CLASSES, BITS, eta=3.0).quantization_weight == 3
    assert DSDH(CLASSES, BITS, quantization_weight=2.0).quantization_weight == 2


def test_half_types_and_autocast_do_not_reach_the_solution():
    outputs, ids, _ = batch(dtype=torch.float32)
    exact = DSDH(CLASSES, BITS, bank_size=BANK)
    exact(outputs, ids, index=torch.arange(6))
    exact.solve()
    half = DSDH(CLASSES, BITS, bank_size=BANK).half()
    half(outputs, ids, index=torch.arange(6))
    half.solve()
    assert torch.allclose(half.classifier.float(), exact.classifier, atol=1e-3)
    classifier = exact.classifier.clone()
    exact.codes.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact.solve()
    assert torch.equal(exact.classifier, classifier)


def test_wrong_choices():
    with pytest.raises(RuntimeError, match="without bank_size solves for each batch"):
        DSDH(CLASSES, BITS).solve()
    for options in ({"mu": 0}, {"nu": -1}, {"eta": float("nan")}, {"rounds": 0}):
        with pytest.raises(ValueError, match=r"must be positive and rounds=\d+ at least 1"):
            DSDH(CLASSES, BITS, **options)
    with pytest.raises(ValueError, match="bank_size is 0"):
        DSDH(CLASSES, BITS, bank_size=0)
