"""PKT against its formula as a loop, and codes that are opposite."""

import math

import pytest
import torch
from distillation_by_hand import BITS, batch, norm
from losses_by_hand import dot, mean

from hashfast.losses.distillation.pkt import PKT

pytestmark = pytest.mark.usefixtures("one_thread")


def shares(rows):
    rows = [[x / (norm(row) + 1e-7) for x in row] for row in rows]
    similar = [[(1 + dot(a, b)) / 2 for b in rows] for a in rows]
    return [[x / sum(row) for x in row] for row in similar]


@pytest.mark.parametrize("teacher_bits", [BITS, 9])
def test_formula(teacher_bits):
    student, teacher = batch(teacher_bits=teacher_bits)
    expected = mean(
        p * math.log((p + 1e-7) / (q + 1e-7))
        for wanted, found in zip(shares(teacher.tolist()), shares(student.tolist()), strict=True)
        for p, q in zip(wanted, found, strict=True)
    )
    loss = PKT(BITS, teacher_bits)(student, teacher)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_opposite_codes_are_finite_in_float32():
    rows = 3 * torch.randn(300, 500)
    for row in rows:  # a cosine of some of these pairs rounds to less than -1
        student = torch.stack([row, -row]).requires_grad_()
        loss = PKT(500)(student, torch.stack([row, row.flip(0)]))
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_a_code_of_zeros_is_as_far_from_all():
    teacher = torch.eye(3)
    student = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], requires_grad=True)
    loss = PKT(3)(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
