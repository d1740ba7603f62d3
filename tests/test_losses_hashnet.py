"""HashNet against its formulas as loops: its variants and the continuation."""

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
    bce,
    dot,
    labelled,
)

from hashfast.losses import HSWD, HashNet


def squashed(outputs, scale=1.0):
    return [[math.tanh(scale * u) for u in row] for row in outputs.tolist()]


def paper_loops(codes, rows, alpha=0.1):
    pairs = [(i, j) for i in range(len(codes)) for j in range(len(codes))]
    similar = [are_similar(rows[i], rows[j]) for i, j in pairs]
    losses = [
        bce(alpha * dot(codes[i], codes[j]), s) for (i, j), s in zip(pairs, similar, strict=True)
    ]
    return balanced(zip(losses, similar, strict=True))


def halves(codes, rows):
    """(inner product, similar) of the pairs of the first with the second half."""
    half = len(codes) // 2
    return [
        (dot(codes[i], codes[j]), are_similar(rows[i], rows[j]))
        for i in range(half)
        for j in range(half, len(codes))
    ]


def official_loops(codes, rows, alpha, positive_weight):
    total = weights = 0.0
    for product, s in halves(codes, rows):
        d = alpha * product
        weight = positive_weight if s else 1
        total += weight * (d * (1 - s) if d > 15 else bce(d, s))
        weights += weight
    return total / weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"alpha": 0.7}])
def test_paper(form, options):
    outputs, ids, hot = batch()
    labels, rows = labelled(form, ids, hot)
    loss = HashNet(CLASSES, BITS, **options)(outputs, labels)
    assert loss.item() == pytest.approx(paper_loops(squashed(outputs), rows, **options), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_official(form, n, weight):
    outputs, ids, hot = batch(n)
    labels, rows = labelled(form, ids, hot)
    criterion = HashNet(CLASSES, BITS, variant="official", positive_weight=weight)
    expected = official_loops(squashed(outputs), rows, 10 / BITS, weight)
    assert criterion(outputs, labels).item() == pytest.approx(expected, rel=1e-12)


def test_official_beyond_its_threshold():
    outputs, ids, hot = batch()
    _, rows = labelled("ids", ids, hot)
    products = [9 * product for product, _ in halves(squashed(outputs), rows)]
    assert max(products) > 15 > min(products)
    criterion = HashNet(CLASSES, BITS, variant="official", alpha=9.0)
    expected = official_loops(squashed(outputs), rows, 9, 1)
    assert criterion(outputs, ids).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_updated(form):
    outputs, ids, hot = batch(7)
    labels, rows = labelled(form, ids, hot)
    expected = balanced((bce(d, s), s) for d, s in halves(squashed(outputs), rows))
    found = HashNet(CLASSES, BITS, variant="updated")(outputs, labels)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 1, 2]])
def test_a_kind_of_pairs_that_is_absent_adds_nothing(form, classes):
    outputs, _, _ = batch(3)
    labels, rows = labelled(form, *[torch.tensor(classes)] * 2)
    if form == "multi-hot":
        labels = torch.eye(CLASSES)[classes]
        rows = labels.tolist()
    expected = paper_loops(squashed(outputs), rows)
    assert HashNet(CLASSES, BITS)(outputs, labels).item() == pytest.approx(expected, rel=1e-12)


# Continuation


@pytest.mark.parametrize(
    ("epoch", "square"), [(0, 1), (19, 1), (20, 2), (39, 2), (40, 3), (199, 10)]
)
def test_scale_grows_every_20_epochs(epoch, square):
    outputs, ids, hot = batch()
    criterion = HashNet(CLASSES, BITS).double()
    criterion.start_epoch(epoch)
    expected = paper_loops(squashed(outputs, math.sqrt(square)), labelled("ids", ids, hot)[1])
    assert criterion(outputs, ids).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variant", ["official", "updated"])
def test_scale_grows_every_200_steps(variant):
    outputs, ids, hot = batch()
    criterion = HashNet(CLASSES, BITS, variant=variant)
    _, rows = labelled("ids", ids, hot)
    for step in range(601):
        loss = criterion(outputs.detach(), ids)
        if step in (0, 199, 200, 399, 400, 600):
            codes = squashed(outputs, math.sqrt(1 + 0.005 * (step // 200 * 200)))
            if variant == "official":
                expected = official_loops(codes, rows, 10 / BITS, 1)
            else:
                expected = balanced((bce(d, s), s) for d, s in halves(codes, rows))
            assert loss.item() == pytest.approx(expected, rel=1e-12), step
    criterion.start_epoch(100)  # this schedule counts steps
    assert criterion.scale.item() == 2
    assert criterion.steps.item() == 601


def test_evaluation_counts_no_step():
    outputs, ids, _ = batch()
    criterion = HashNet(CLASSES, BITS, variant="official")
    criterion.eval()(outputs, ids)
    assert criterion.steps.item() == 0
    criterion.train()(outputs, ids)
    assert criterion.steps.item() == 1


@pytest.mark.parametrize("variant", ["paper", "official", "updated"])
@pytest.mark.parametrize("quantization", ["hswd", "swd", "none", HSWD(BITS, target="balanced")])
def test_another_quantization_leaves_the_scale_at_1(variant, quantization):
    outputs, ids, _ = batch()
    criterion = HashNet(CLASSES, BITS, variant=variant, quantization=quantization)
    criterion(outputs, ids)
    first = criterion.components["similarity"].item()
    criterion.steps.fill_(1000)
    criterion.start_epoch(100)
    criterion(outputs, ids)
    assert criterion.components["similarity"].item() == first
    assert criterion.scale.item() == 1


def test_the_schedule_is_saved():
    outputs, ids, _ = batch()
    paper, official = HashNet(CLASSES, BITS), HashNet(CLASSES, BITS, variant="official")
    paper.start_epoch(60)
    official.steps.fill_(500)
    for criterion in (paper, official):
        fresh = HashNet(CLASSES, BITS, variant=criterion.variant)
        fresh.load_state_dict(criterion.state_dict())
        assert fresh(outputs, ids).item() == criterion(outputs, ids).item()


@pytest.mark.parametrize("variant", ["official", "updated"])
def test_one_row_has_no_pairs(variant):
    outputs, ids, _ = batch(1)
    criterion = HashNet(CLASSES, BITS, variant=variant)
    with pytest.warns(UserWarning, match="HashNet is undefined for a batch of 1"):
        loss = criterion(outputs, ids)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().max() == 0


def test_wrong_choices():
    for options, message in (
        ({"variant": "zoo"}, "unknown variant 'zoo'; choose one of paper, official, updated"),
        ({"variant": "updated", "bank_size": 9}, "compares two half batches and has no bank"),
        ({"positive_weight": 0.0}, "positive_weight is 0.0"),
        ({"bank_size": 0}, "bank_size is 0; expected the number of training images"),
        ({"quantization_weight": 1.0}, "nothing to weigh"),
    ):
        with pytest.raises(ValueError, match=message):
            HashNet(CLASSES, BITS, **options)
