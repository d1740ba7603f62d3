"""KL against its formula as a loop."""

import pytest
import torch
from distillation_by_hand import BITS, batch, divergence, softmax
from losses_by_hand import mean

from hashfast.losses.distillation.kl import KL

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("options", "temperature"), [({}, 4.0), ({"temperature": 0.7}, 0.7)])
def test_formula(options, temperature):
    student, teacher = batch()
    divergences = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        found, wanted = ([x / temperature for x in row] for row in (s, t))
        divergences.append(divergence(softmax(wanted), softmax(found)))
    expected = temperature**2 * mean(divergences)
    assert KL(BITS, **options)(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_it_draws_the_students_code_to_the_teachers_own():
    assert KL.aligns
    teacher = torch.tensor([[1.0, 1, 1, -1, -1, -1]])
    values = [KL(BITS)(teacher * torch.tensor(row), teacher).item() for row in (1, 0.5, -1)]
    assert values[0] == pytest.approx(0, abs=1e-7)
    assert values == sorted(values)


def test_wrong_options():
    with pytest.raises(ValueError, match="student has 6 bits, the teacher 8"):
        KL(BITS, 8)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"temperature is .*; it must be positive"):
            KL(BITS, temperature=temperature)
