"""SSKD against its formula as a loop, and which views count."""

import pytest
import torch
from distillation_by_hand import BITS, batch, codes, divergence, softmax
from losses_by_hand import cosine, mean

from hashfast.losses.distillation.sskd import SSKD

pytestmark = pytest.mark.usefixtures("one_thread")


def expected(student, teacher, student_aug, teacher_aug, ratio, temperature):
    rows = []
    for own, (views_s, views_t) in enumerate(zip(student_aug, teacher_aug, strict=True)):
        for view_s, view_t in zip(views_s, views_t, strict=True):
            found = [cosine(view_s, x) for x in student]
            wanted = [cosine(view_t, x) for x in teacher]
            rank = sum(x > wanted[own] for x in wanted)
            found, wanted = (softmax([x / temperature for x in row]) for row in (found, wanted))
            rows.append((rank, divergence(wanted, found)))
    wrong = sorted((row for row in rows if row[0]), key=lambda row: row[0])
    kept = [row for row in rows if not row[0]] + wrong[: int(ratio * len(wrong))]
    return temperature**2 * mean(loss for _, loss in kept), len(wrong)


@pytest.mark.parametrize("ratio", [0.0, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("teacher_bits", [BITS, 9])
def test_formula(ratio, temperature, teacher_bits):
    student, teacher = batch(7, teacher_bits)
    student_aug = codes(7, 3, BITS, seed=3)
    # Views that are near enough their originals for some to be found.
    teacher_aug = teacher[:, None] + 1.5 * codes(7, 3, teacher_bits, seed=4)
    rows = (x.tolist() for x in (student, teacher, student_aug, teacher_aug))
    value, wrong = expected(*rows, ratio, temperature)
    assert 4 < wrong < 21
    criterion = SSKD(BITS, teacher_bits, temperature=temperature, ratio_ss=ratio)
    loss = criterion(student, teacher, student_aug=student_aug, teacher_aug=teacher_aug)
    assert loss.item() == pytest.approx(value, rel=1e-12)


def test_defaults():
    criterion = SSKD(BITS)
    assert (criterion.temperature, criterion.ratio_ss) == (0.5, 0.75)
    assert (criterion.views, criterion.num_views) == ("rotated", 3)


def test_an_original_that_another_equals_is_not_outranked():
    teacher = torch.tensor([[1.0, 1], [1, 1], [1, -1]])
    views = torch.tensor([[1.0, 1], [1, 1], [1, 1]])[:, None]  # the last is taken for another
    student = torch.tensor([[1.0, 1], [-1, 1], [1, -1]], requires_grad=True)
    given = {"student_aug": student.detach()[:, None], "teacher_aug": views}
    values = []
    for ratio in (0.0, 1.0):
        loss = SSKD(2, ratio_ss=ratio)(student, teacher, **given)
        values.append(loss.item())
    rows = (student.tolist(), teacher.tolist(), *(x.tolist() for x in given.values()))
    for ratio, value in zip((0.0, 1.0), values, strict=True):
        wanted, wrong = expected(*rows, ratio, 0.5)
        assert wrong == 1
        assert value == pytest.approx(wanted, rel=1e-6)


def test_no_view_counts():
    teacher = torch.tensor([[1.0, 1], [1, -1]])
    student = torch.randn(2, 2, requires_grad=True)
    given = {"student_aug": torch.randn(2, 1, 2), "teacher_aug": teacher.flip(0)[:, None]}
    loss = SSKD(2, ratio_ss=0.0)(student, teacher, **given)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_wrong_options_and_views():
    for temperature in (0.0, float("nan")):
        with pytest.raises(ValueError, match="it must be positive"):
            SSKD(BITS, temperature=temperature)
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a share from 0 to 1"):
            SSKD(BITS, ratio_ss=ratio)
    student, teacher = batch(3)
    with pytest.raises(ValueError, match="3 views of each image, teacher_aug 2"):
        SSKD(BITS)(student, teacher, student_aug=codes(3, 3, BITS), teacher_aug=codes(3, 2, BITS))
