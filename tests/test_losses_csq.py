"""CSQ against its formula as loops, and its centres."""

import math

import pytest
import torch
from losses_by_hand import BITS, CLASSES, FORMS, are_similar, batch, bce, dot, labelled, mean

from hashfast.losses import CSQ


def csq_centre(criterion, hot_row):
    code = []
    for bit in range(BITS):
        votes = sum(y * c[bit] for y, c in zip(hot_row, criterion.centres.tolist(), strict=True))
        code.append(criterion.tie_break[bit].item() if votes == 0 else math.copysign(1, votes))
    return code


def csq_loops(criterion, outputs, hot):
    centre = quan = 0.0
    n = len(outputs)
    for u_row, y in zip(outputs, hot, strict=True):
        for u, c in zip(u_row, csq_centre(criterion, y), strict=True):
            v, target = math.tanh(u), (c + 1) / 2
            p = (v + 1) / 2
            centre -= target * math.log(p) + (1 - target) * math.log(1 - p)
            quan += (abs(v) - 1) ** 2
    return centre / (n * BITS), quan / (n * BITS)


@pytest.mark.parametrize("form", FORMS)
def test_paper(form):
    outputs, ids, hot = batch()
    criterion = CSQ(CLASSES, BITS)
    labels, rows = labelled(form, ids, hot)
    centre, quan = csq_loops(criterion, outputs.tolist(), rows)
    loss = criterion(outputs, labels)
    assert loss.item() == pytest.approx(centre + 1e-4 * quan, rel=1e-12)
    assert criterion.components["similarity"].item() == pytest.approx(centre, rel=1e-12)
    assert criterion.components["quantization"].item() == pytest.approx(quan, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_official(form):
    outputs, ids, hot = batch(n=7)
    criterion = CSQ(CLASSES, BITS, variant="official")
    labels, rows = labelled(form, ids, hot)
    centre, quan = csq_loops(criterion, outputs.tolist(), rows)
    codes = outputs.tanh().tolist()
    pairwise = mean(  # the first half of 7 rows against the other 4
        bce(10 / BITS * dot(codes[i], codes[j]), are_similar(rows[i], rows[j]))
        for i in range(3)
        for j in range(3, 7)
    )
    loss = criterion(outputs, labels)
    assert loss.item() == pytest.approx(centre + 0.2 * pairwise + 0.05 * quan, rel=1e-12)
    assert criterion.components["centre"].item() == pytest.approx(centre, rel=1e-12)
    assert criterion.components["pairwise"].item() == pytest.approx(pairwise, rel=1e-12)


def test_a_single_row_has_no_pairs():
    criterion = CSQ(CLASSES, BITS, variant="official")
    with pytest.warns(UserWarning, match="pairwise term of CSQ is undefined for a batch of 1"):
        criterion(torch.randn(1, BITS), torch.tensor([0]))
    assert criterion.components["pairwise"].item() == 0


def test_ties_and_rows_without_a_class_take_the_fixed_code():
    criterion = CSQ(2, 4, centres=torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1]]))
    target = criterion.target(torch.tensor([[1, 1], [0, 0], [0, 1]]))
    tie = criterion.tie_break.tolist()
    assert target.tolist() == [[1, tie[1], tie[2], -1], tie, [1, -1, 1, -1]]


def test_saturated_outputs_stay_finite():
    outputs = torch.full((2, BITS), 300.0, requires_grad=True)
    CSQ(CLASSES, BITS)(outputs, torch.tensor([0, 1])).backward()
    assert outputs.grad.isfinite().all()
    assert outputs.grad.count_nonzero() > 0  # wrong bits are still pulled back


def test_own_weight():
    assert CSQ(CLASSES, BITS).quantization_weight == 1e-4
    assert CSQ(CLASSES, BITS, variant="official").quantization_weight == 0.05
    assert CSQ(CLASSES, BITS, quantization_weight=0.5).quantization_weight == 0.5
