"""The manners every distillation loss shares: values, gradients, precision, inputs."""

import copy
import re

import pytest
import torch
from distillation_by_hand import (
    BITS,
    CASES,
    EQUAL_BITS,
    TRAINING,
    batch,
    called,
    cases,
    cases_but,
    codes,
    every_case,
    labels_of_all,
    needed,
    prepared,
)
from torch import nn

from hashfast.losses.distillation import packd
from hashfast.losses.distillation._base import Distillation

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* is undefined for a batch of 1"),
]

RELATIONS = ("sp", "pkt", "rkd", "sskd-all")


@every_case
def test_an_empty_batch_gives_zero_attached_to_the_graph(make):
    criterion = prepared(make)
    before = copy.deepcopy(criterion.state_dict())
    student, teacher = batch(0)
    with pytest.warns(UserWarning, match="undefined for a batch of 0"):
        loss = called(criterion, student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.shape == (0, BITS)
    assert all(p.grad.abs().max() == 0 for p in criterion.parameters())
    for name, value in criterion.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


@every_case
def test_a_batch_of_one(make):
    for row in (batch(1)[0], batch(1)[0].sign(), torch.zeros(1, BITS, dtype=torch.float64)):
        student = row.detach().requires_grad_()
        criterion = prepared(make)
        loss = called(criterion, student, batch(1)[1])
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in criterion.parameters())


@every_case
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_equal_codes_of_the_student(make, value):
    student = torch.full((5, BITS), value, requires_grad=True)
    loss = called(prepared(make, dtype=torch.float32), student, batch(dtype=torch.float32)[1])
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@every_case
def test_equal_codes_of_the_teacher(make):
    student, _ = batch(dtype=torch.float32)
    for value in (0.0, 1.0):
        teacher = torch.full((5, BITS), value)
        called(prepared(make, dtype=torch.float32), student, teacher).backward()
        assert student.grad.isfinite().all()


@pytest.fixture
def plan_held(monkeypatch):
    """To the gradient, the transport plan of PACKD is a constant."""

    def plan(views, others, *_):
        weights = torch.arange(1.0, 1 + views.shape[1] * others.shape[1], dtype=views.dtype)
        return (weights / weights.sum()).view(1, views.shape[1], -1)

    monkeypatch.setattr(packd, "transport_plan", plan)


@pytest.mark.usefixtures("plan_held")
@cases_but("crd-renewed")  # so is its Z: see test_distillation_crd.py
def test_gradcheck(make):
    student, teacher = batch(4)
    start = prepared(make)

    def loss(student):
        return called(copy.deepcopy(start), student, teacher)

    called(start, student.detach(), teacher)  # Z is set, and PACKD's rows are there
    assert torch.autograd.gradcheck(loss, student)


@pytest.mark.usefixtures("plan_held")
@cases("crd", "crcd", "packd-embedded")
def test_gradcheck_of_the_embeddings(make):
    student, teacher = batch(4)
    start = prepared(make)
    called(start, student.detach(), teacher)

    def loss(weight):
        criterion = copy.deepcopy(start)
        del criterion.embed_s.weight
        criterion.embed_s.weight = weight
        return called(criterion, student.detach(), teacher)

    assert torch.autograd.gradcheck(loss, start.embed_s.weight.detach().requires_grad_())


@every_case
def test_no_gradient_reaches_the_teacher(make):
    criterion = prepared(make)
    student, teacher = batch()
    teacher.requires_grad_()
    given = needed(criterion, len(student))
    if "teacher_aug" in given:
        given["teacher_aug"].requires_grad_()
    criterion(student, teacher, **given).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None
    assert "teacher_aug" not in given or given["teacher_aug"].grad is None


@cases("sskd", "packd", "packd-embedded")
def test_the_gradient_reaches_the_students_further_views(make):
    criterion = prepared(make)
    student, teacher = batch()
    given = needed(criterion, len(student))
    given["student_aug"].requires_grad_()
    criterion(student, teacher, **given).backward()
    assert given["student_aug"].grad.abs().amax((0, 2)).min() > 0


@every_case
def test_a_missing_input_is_named(make):
    criterion = prepared(make)
    student, teacher = batch()
    given = needed(criterion, len(student))
    for name in criterion.needs:
        rest = {other: value for other, value in given.items() if other != name}
        with pytest.raises(ValueError, match=rf"needs {name}: .*{name}=\.\.\."):
            criterion(student, teacher, **rest)


@every_case
def test_inputs_that_are_not_needed_are_ignored(make):
    criterion = prepared(make)
    student, teacher = batch()
    expected = called(copy.deepcopy(criterion), student, teacher)
    given = {name: codes(1) for name in ("student_aug", "teacher_aug", "index", "labels")}
    torch.manual_seed(5)
    found = criterion(student, teacher, **{**given, **needed(criterion, len(student))})
    assert found.item() == expected.item()


@every_case
def test_inputs_that_do_not_fit(make):
    criterion = prepared(make)
    student, teacher = batch()
    given = needed(criterion, len(student))
    with pytest.raises(ValueError, match="4 rows of the teacher for 5"):
        criterion(student, teacher[:4], **given)
    with pytest.raises(ValueError, match=re.escape(f"expected [n, {BITS}]")):
        criterion(student[:, 1:], teacher, **given)
    with pytest.raises(TypeError, match="floating-point"):
        criterion(student.detach().long(), teacher, **given)
    for name, value in given.items():
        with pytest.raises(ValueError, match=f"{name} has 4 rows"):
            criterion(student, teacher, **{**given, name: value[:4]})
    for name in ("student_aug", "teacher_aug"):
        if name in given:
            with pytest.raises(ValueError, match=f"{name} is .*expected floating point"):
                criterion(student, teacher, **{**given, name: given[name][..., 1:]})
    if "index" in given:
        with pytest.raises(ValueError, match="expected int64"):
            criterion(student, teacher, **{**given, "index": given["index"].float()})


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_codes_are_computed_in_float32(make, dtype):
    criterion = prepared(make, dtype=torch.float32)
    student, teacher = batch(dtype=dtype)
    given = needed(criterion, len(student), dtype)
    exact = student.detach().float().requires_grad_()
    full = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    torch.manual_seed(5)
    expected = copy.deepcopy(criterion)(exact, teacher.float(), **full)
    torch.manual_seed(5)
    loss = copy.deepcopy(criterion)(student, teacher, **given)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    expected.backward()
    loss.backward()
    assert torch.equal(student.grad, exact.grad.to(dtype))


@every_case
def test_a_criterion_cast_to_a_half_type_computes_in_float32(make):
    student, teacher = batch(dtype=torch.float32)
    criterion = prepared(make, dtype=torch.bfloat16)
    rounded = copy.deepcopy(criterion).float()  # the same weights
    loss = called(criterion, student, teacher)
    assert loss.dtype == torch.float32
    # What is kept between calls (log Z) is rounded.
    assert loss.item() == pytest.approx(called(rounded, student, teacher).item(), rel=2e-2)


@every_case
def test_autocast_does_not_reach_inside(make):
    criterion = prepared(make, dtype=torch.float32)
    student, teacher = batch(dtype=torch.float32)
    expected = called(copy.deepcopy(criterion), student, teacher)
    gradient = torch.autograd.grad(expected, student)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = called(criterion, student, teacher)
    assert loss.item() == expected.item()
    assert torch.equal(torch.autograd.grad(loss, student)[0], gradient)


@every_case
def test_float64_stays_float64(make):
    student, teacher = batch()
    for dtype in (torch.float64, torch.float32):
        criterion = prepared(make, dtype=dtype)
        assert called(criterion, student, teacher).dtype == torch.float64
        assert called(criterion, student.float(), teacher).dtype == torch.float32


@every_case
def test_further_views_may_be_of_another_precision(make):
    student, teacher = batch()
    criterion = prepared(make)
    given = needed(criterion, len(student), torch.float32)
    assert criterion(student, teacher.float(), **given).dtype == torch.float64


@every_case
def test_memory_layout_does_not_matter(make):
    criterion = prepared(make)
    student, teacher = batch()
    expected = called(copy.deepcopy(criterion), student, teacher)
    given = needed(criterion, len(student))
    scattered = {name: torch.stack([v, v], -1)[..., 0] for name, v in given.items()}
    student, teacher = (x.detach().T.contiguous().T for x in (student, teacher))
    assert not student.is_contiguous()
    torch.manual_seed(5)
    found = criterion(student, teacher, **scattered)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@every_case
def test_two_batches_before_one_backward(make):
    together = prepared(make)
    student, teacher = batch()
    losses = [called(together, factor * student, teacher) for factor in (1, 0.5)]
    found = torch.autograd.grad(sum(losses), student)[0]
    separate, gradients = prepared(make), []
    for factor in (1, 0.5):
        loss = called(separate, factor * student, teacher)
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert torch.allclose(found, sum(gradients), rtol=1e-10, atol=1e-14)


@every_case
def test_what_it_holds_is_saved_and_copied(make):
    student, teacher = batch()
    saved = prepared(make)
    called(saved, student, teacher)
    torch.manual_seed(1)
    fresh = make(BITS).double()
    fresh.prepare(codes(TRAINING, BITS).sign(), labels_of_all())
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    copied = copy.deepcopy(saved)
    losses = [called(c, student, teacher).item() for c in (saved, fresh, copied)]
    assert losses[0] == losses[1] == losses[2]


@cases_but(*EQUAL_BITS)
def test_a_teacher_of_longer_codes(make):
    student, teacher = batch(teacher_bits=9)
    criterion = prepared(make, teacher_bits=9)
    called(criterion, student, teacher).backward()
    assert student.grad.abs().max() > 0


@cases(*EQUAL_BITS)
def test_a_teacher_of_longer_codes_is_refused(make):
    with pytest.raises(ValueError, match=r"must be as long|same number"):
        make(BITS, 9)


@cases(*RELATIONS)
def test_the_order_of_the_batch_does_not_matter(make):
    criterion = prepared(make)
    student, teacher = batch(6)
    given = needed(criterion, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    expected = criterion(student, teacher, **given)
    found = criterion(student[order], teacher[order], **{k: v[order] for k, v in given.items()})
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@cases("kl", "sp", "sp-released", "pkt", "rkd", "sskd", "sskd-all")
def test_the_teachers_own_codes_have_no_loss(make):
    criterion = prepared(make)
    student, teacher = batch()
    given = needed(criterion, len(student))
    if "student_aug" in given:
        given["student_aug"] = given["teacher_aug"]
    copied = teacher.clone().requires_grad_()
    loss = criterion(copied, teacher, **given)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert copied.grad.abs().max() < 1e-7
    assert criterion(student, teacher, **needed(criterion, len(student))).item() > 1e-6


@every_case
def test_descent_lowers_the_loss(make):
    criterion = prepared(make)
    student, teacher = (x.detach() for x in batch(8))
    student = nn.Parameter(student)
    optimiser = torch.optim.Adam([student, *criterion.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = called(criterion, student, teacher)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@every_case
def test_nan_is_not_hidden(make):
    student, teacher = batch()
    student = student.detach().clone()
    student[2] = torch.nan
    assert called(prepared(make), student, teacher).isnan()


@pytest.mark.parametrize("name", CASES)
def test_what_a_method_says_of_itself(name):
    criterion = CASES[name](BITS)
    assert isinstance(criterion, Distillation)
    assert criterion.aligns == name.startswith(("kl", "brcd"))
    assert set(criterion.needs) <= {"student_aug", "teacher_aug", "index", "labels"}
    assert f"bits={BITS}, teacher_bits={BITS}" in repr(criterion)
    with pytest.raises(ValueError, match="bits is 0"):
        CASES[name](0)
