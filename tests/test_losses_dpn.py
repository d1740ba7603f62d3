"""DPN against its formulas as loops: reductions, targets and their update, the ternary measure."""

import pytest
import torch
from losses_by_hand import BITS, CLASSES, FORMS, batch, labelled, mean, sign

from hashfast.losses import DPN
from hashfast.losses.centres import bernoulli_codebook


def hinges(u, target, margin):
    return [max(0.0, margin - x * t) for x, t in zip(u, target, strict=True)]


def sum_loops(outputs, rows, targets, margin):
    """Summed over the bits and the classes of a row, averaged over images."""
    return mean(
        sum(sum(hinges(u, t, margin)) for y, t in zip(row, targets, strict=True) if y)
        for u, row in zip(outputs, rows, strict=True)
    )


def majority(row, criterion):
    votes = [
        sum(y * t[bit] for y, t in zip(row, criterion.targets.tolist(), strict=True))
        for bit in range(BITS)
    ]
    tie = criterion.tie_break.tolist()
    return [sign(v) or tie[bit] for bit, v in enumerate(votes)]


def mean_loops(outputs, rows, criterion):
    return mean(
        mean(hinges(u, majority(row, criterion), criterion.margin))
        for u, row in zip(outputs, rows, strict=True)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_sum(form, margin):
    outputs, ids, hot = batch()
    hot[1] = 0  # a row without a class adds 0
    labels, rows = labelled(form, ids, hot)
    criterion = DPN(CLASSES, BITS, margin=margin)
    expected = sum_loops(outputs.tolist(), rows, criterion.targets.tolist(), margin)
    loss = criterion(outputs, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert list(criterion.components) == ["similarity", "loss"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_mean(form, margin):
    outputs, ids, hot = batch()
    hot[1] = 0
    labels, rows = labelled(form, ids, hot)
    criterion = DPN(CLASSES, BITS, margin=margin, reduction="mean")
    expected = mean_loops(outputs.tolist(), rows, criterion)
    assert criterion(outputs, labels).item() == pytest.approx(expected, rel=1e-12)


def test_ties_and_rows_without_a_class_take_the_fixed_code():
    criterion = DPN(2, 4, targets=torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1]]))
    target = criterion.target(torch.tensor([[1, 1], [0, 0], [0, 1]]))
    tie = criterion.tie_break.tolist()
    assert target.tolist() == [[1, tie[1], tie[2], -1], tie, [1, -1, 1, -1]]
    assert criterion.target(torch.tensor([1])).tolist() == [[1, -1, 1, -1]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_ternary_measures_without_gradient(form, reduction):
    outputs, ids, hot = batch()
    labels, rows = labelled(form, ids, hot)
    criterion = DPN(CLASSES, BITS, margin=0.5, reduction=reduction, ternary=True)
    ternary = [[sign(x) if abs(x) > 0.5 else 0 for x in u] for u in outputs.tolist()]
    assert {x for row in ternary for x in row} == {-1, 0, 1}
    if reduction == "sum":
        expected = sum_loops(ternary, rows, criterion.targets.tolist(), 0.5)
    else:
        expected = mean_loops(ternary, rows, criterion)
    loss = criterion(outputs, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert outputs.grad.abs().max() == 0


def test_default_targets_are_balanced_and_apart():
    targets = DPN(10, 16).targets.int()
    assert targets.sum(1).eq(0).all()
    assert (targets @ targets.T - 16 * torch.eye(10, dtype=torch.int32)).max() <= 4
    assert torch.equal(DPN(10, 16, seed=3).targets, DPN(10, 16, seed=3).targets)
    assert not torch.equal(DPN(10, 16, seed=3).targets, DPN(10, 16, seed=4).targets)


# update_targets


def updated(criterion, outputs, rows, keep):
    targets = []
    for label, old in enumerate(criterion.targets.tolist()):
        codes = [[sign(x) for x in u] for u, row in zip(outputs, rows, strict=True) if row[label]]
        codes.sort(key=lambda code: mean(hinges(code, old, criterion.margin)))
        codes = codes[: max(1, int(keep * len(codes)))]
        targets.append([sign(sum(bits)) for bits in zip(*codes, strict=True)] if codes else old)
    return targets


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_update_targets(form, keep, dtype):
    outputs, ids, hot = batch(40, dtype=dtype)
    ids[ids == 3], hot[:, 3] = 1, 0  # class 3 has no images
    labels, rows = labelled(form, ids, hot)
    criterion = DPN(CLASSES, BITS)
    before = criterion.targets.tolist()
    expected = updated(criterion, outputs.tolist(), rows, keep)
    criterion.update_targets(outputs, labels, keep)
    assert criterion.targets.tolist() == expected
    assert expected != before
    assert expected[3] == before[3]
    assert criterion.targets.dtype == torch.int8


def test_tied_bits_become_zero_and_pull_nowhere():
    criterion = DPN(2, 3, targets=torch.tensor([[1, 1, 1], [-1, -1, -1]]))
    outputs = torch.tensor([[1.0, 2.0, -1.0], [3.0, -2.0, -1.0]], requires_grad=True)
    ids, hot = torch.tensor([0, 0]), torch.tensor([[1.0, 0.0]] * 2)
    criterion.update_targets(outputs, ids)
    assert criterion.targets.tolist() == [[1, 0, -1], [-1, -1, -1]]
    for labels in (ids, hot):
        # Only the margin of the tied bit is left.
        loss = criterion(outputs, labels)
        assert loss.item() == 1
        assert torch.autograd.grad(loss, outputs)[0].abs().max() == 0
    assert criterion.target(hot)[0, 1] == criterion.tie_break[1]


def test_update_of_many_classes():
    criterion = DPN(5_000, 32, targets=bernoulli_codebook(5_000, 32))
    ids = torch.arange(0, 5_000, 2)
    outputs = torch.randn(len(ids), 32)
    kept = criterion.targets[1::2].clone()
    criterion.update_targets(outputs, ids)
    assert torch.equal(criterion.targets[ids], outputs.sign().to(torch.int8))
    assert torch.equal(criterion.targets[1::2], kept)


def test_wrong_choices():
    outputs, ids, _ = batch()
    criterion = DPN(CLASSES, BITS)
    for keep in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"keep is .*; expected a share of the images"):
            criterion.update_targets(outputs, ids, keep)
    for wrong, message in (
        ((outputs[:, :4], ids), r"expected \[n, 8\]"),
        ((outputs, ids[:3]), "3 labels for 6 outputs"),
        ((outputs, ids + 3), "num_classes=5 expects ids 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            criterion.update_targets(*wrong)
    with pytest.raises(ValueError, match="unknown reduction 'max'; choose 'sum' or 'mean'"):
        DPN(CLASSES, BITS, reduction="max")
    for margin in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"margin is .*; it must be positive"):
            DPN(CLASSES, BITS, margin=margin)
