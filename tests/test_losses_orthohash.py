"""OrthoHash against its formula as loops."""

import math

import pytest
import torch
from losses_by_hand import (
    BITS,
    CLASSES,
    batch,
    bce,
    cosine,
    cross_entropy,
    mean,
    one_hot,
    shares,
    sign,
)

from hashfast.losses import OrthoHash


def ortho_logits(criterion, outputs, hot):
    logits = []
    for v, y in zip(outputs, hot, strict=True):
        row = []
        for label, code in zip(y, criterion.codebook.tolist(), strict=True):
            similarity = cosine(v, code)
            if criterion.margin == "cos":
                row.append(criterion.scale * (similarity - criterion.margin_size * label))
            else:
                angle = math.acos(min(max(similarity, -0.99999), 0.99999))
                row.append(criterion.scale * math.cos(angle + criterion.margin_size * label))
        logits.append(row)
    return logits


def ortho_loops(criterion, outputs, hot):
    logits = ortho_logits(criterion, outputs, hot)
    if criterion.multi_label == "label_smoothing":
        return mean(cross_entropy(row, shares(y)) for row, y in zip(logits, hot, strict=True))
    total = weights = 0.0
    for row, y in zip(logits, hot, strict=True):
        for x, t in zip(row, y, strict=True):
            weight = 1.0
            found = 1 / (1 + math.exp(-x)) >= 0.7
            if criterion.multi_label == "imbalance" and not t and not found:
                weight = 1 / CLASSES
            total += weight * bce(x, t)
            weights += weight
    return total / (weights + (1e-7 if criterion.multi_label == "imbalance" else 0))


@pytest.mark.parametrize("margin", ["cos", "arc"])
@pytest.mark.parametrize("multi_label", ["label_smoothing", "bce", "imbalance"])
@pytest.mark.parametrize("sizes", [{}, {"scale": 5.0, "margin_size": 0.4}])
def test_formula(margin, multi_label, sizes):
    outputs, _, hot = batch(n=9)
    hot[2] = 0
    criterion = OrthoHash(CLASSES, BITS, margin=margin, multi_label=multi_label, **sizes)
    expected = ortho_loops(criterion, outputs.tolist(), hot.tolist())
    assert criterion(outputs, hot).item() == pytest.approx(expected, rel=1e-12)


def test_default_scale_and_margin():
    criterion = OrthoHash(CLASSES, BITS)
    assert (criterion.scale, criterion.margin_size) == (8, 0.2)


@pytest.mark.parametrize("margin", ["cos", "arc"])
def test_ids_take_cross_entropy_whatever_multi_label_says(margin):
    outputs, ids, _ = batch()
    criterion = OrthoHash(CLASSES, BITS, margin=margin, multi_label="bce")
    criterion.multi_label = "label_smoothing"
    expected = ortho_loops(criterion, outputs.tolist(), one_hot(ids).tolist())
    criterion.multi_label = "bce"
    assert criterion(outputs, ids).item() == pytest.approx(expected, rel=1e-12)


def test_imbalance_spares_the_negatives_not_found():
    criterion = OrthoHash(2, 2, codebook=torch.tensor([[1, 1], [1, -1]]), multi_label="imbalance")
    rows = [[2.0, 2.0], [0.0, -3.0]]  # of a class neither has: found, and not found
    outputs = torch.tensor(rows, dtype=torch.float64)
    logits = [[8 * cosine(u, code) for code in ([1, 1], [1, -1])] for u in rows]
    found = [[1 / (1 + math.exp(-x)) >= 0.7 for x in row] for row in logits]
    assert found == [[True, False], [False, True]]
    weighed = [
        (1 if hit else 1 / 2, bce(x, 0))
        for row, hits in zip(logits, found, strict=True)
        for x, hit in zip(row, hits, strict=True)
    ]
    expected = sum(w * x for w, x in weighed) / sum(w for w, _ in weighed)
    assert criterion(outputs, torch.zeros(2, 2)).item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("quan", ["cs", "l1", "l2"])
def test_own_quantization(quan):
    outputs, ids, _ = batch()
    criterion = OrthoHash(CLASSES, BITS, quan=quan, quan_weight=0.3)
    loss = criterion(outputs, ids)
    terms = {
        "cs": lambda v: 1 - cosine(v, [sign(x) for x in v]),
        "l1": lambda v: mean(abs(x - sign(x)) for x in v),
        "l2": lambda v: mean((x - sign(x)) ** 2 for x in v),
    }
    found = criterion.components["quantization"]
    assert found.item() == pytest.approx(mean(map(terms[quan], outputs.tolist())), rel=1e-12)
    assert loss.item() == (criterion.components["similarity"] + 0.3 * found).item()
    assert OrthoHash(CLASSES, BITS, quan=quan).quantization_weight == 0.1


def test_a_zero_row_has_no_direction():
    outputs, ids, _ = batch()
    outputs = outputs.detach().clone()
    outputs[1] = 0
    outputs.requires_grad_()
    loss = OrthoHash(CLASSES, BITS, quan="cs")(outputs, ids)
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1].abs().max() == 0
