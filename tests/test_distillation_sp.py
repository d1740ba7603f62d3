"""SP against its two formulas as loops."""

import pytest
import torch
from distillation_by_hand import BITS, Largest, batch, minus, unit
from losses_by_hand import dot

from hashfast.losses.distillation.sp import SP

pytestmark = pytest.mark.usefixtures("one_thread")


def squared(a, b):
    return dot(minus(a, b), minus(a, b))


@pytest.mark.parametrize("teacher_bits", [BITS, 9])
def test_formula(teacher_bits):
    student, teacher = (x.tolist() for x in batch(teacher_bits=teacher_bits))
    n = len(student)
    total = 0.0
    for i in range(n):
        found = unit([dot(student[i], student[j]) for j in range(n)])
        wanted = unit([dot(teacher[i], teacher[j]) for j in range(n)])
        total += squared(found, wanted)
    loss = SP(BITS, teacher_bits)(*batch(teacher_bits=teacher_bits))
    assert loss.item() == pytest.approx(total / n**2, rel=1e-12)


def test_released_formula():
    student, teacher = (x.tolist() for x in batch())
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for a in range(BITS):
            found, wanted = unit([s[a] * x for x in s]), unit([t[a] * x for x in t])
            total += squared(found, wanted) / BITS**2
    loss = SP(BITS, variant="released")(*batch())
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_the_released_form_is_blind_to_the_sign_of_a_code():
    student, teacher = batch()
    flipped = student * torch.tensor([1.0, -1, 1, -1, 1])[:, None]
    for variant, same in (("released", True), ("paper", False)):
        values = [SP(BITS, variant=variant)(x, teacher).item() for x in (student, flipped)]
        assert (values[0] == pytest.approx(values[1], rel=1e-12)) is same


def test_the_released_form_holds_no_product_of_bits():
    student, teacher = torch.randn(4, 64, requires_grad=True), torch.randn(4, 64)
    with Largest() as seen:
        SP(64, variant="released")(student, teacher).backward()
    assert seen.elements == 4 * 64


def test_a_bit_that_is_zero_gets_a_gradient_of_the_size_of_the_others():
    teacher = torch.tensor([[1.0, -1, 1]])
    student = torch.tensor([[0.0, 1, 2]], requires_grad=True)
    loss = SP(3, variant="released")(student, teacher)
    loss.backward()
    # Rows: 0 against t / |t|, then sign(s_a) s / |s| against sign(t_a) t / |t|, a = 2, 3.
    cosine = 1 / (5**0.5 * 3**0.5)
    assert loss.item() == pytest.approx((1 + (2 + 2 * cosine) + (2 - 2 * cosine)) / 9, rel=1e-6)
    assert student.grad.abs().max() < 1


def test_wrong_options():
    with pytest.raises(ValueError, match="choose 'paper' or 'released'"):
        SP(BITS, variant="bits")
    with pytest.raises(ValueError, match="student has 6, the teacher 8"):
        SP(BITS, 8, variant="released")
