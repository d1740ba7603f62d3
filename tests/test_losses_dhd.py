"""DHD against its formulas as loops: proxies, self-distillation, binary cross-entropy of bits."""

import math

import pytest
import torch
from losses_by_hand import (
    BITS,
    CLASSES,
    FORMS,
    batch,
    cosine,
    cross_entropy,
    labelled,
    mean,
    shares,
    sign,
)

from hashfast.losses import DHD


def views(n=6, dtype=torch.float64):
    outputs, ids, hot = batch(n, dtype=dtype)
    teacher = outputs.detach().tanh().requires_grad_()
    student = batch(n, seed=1, dtype=dtype)[0].detach().tanh().requires_grad_()
    return teacher, student, ids, hot


def dhd_loops(teacher, student, rows, proxies, tau=0.2, sigma=0.5):
    proxy = mean(
        cross_entropy([cosine(h, p) / tau for p in proxies], shares(row))
        for h, row in zip(teacher, rows, strict=True)
    )
    distillation = mean(1 - cosine(a, b) for a, b in zip(student, teacher, strict=True))
    bits = []
    for h in (x for row in teacher for x in row):
        positive, negative = (math.exp(-(((h - side) / sigma) ** 2) / 2) for side in (1, -1))
        t = (sign(h) + 1) / 2
        bits.append(
            -t * math.log(positive)
            - (1 - t) * math.log(1 - positive)
            - (1 - t) * math.log(negative)
            - t * math.log(1 - negative)
        )
    return proxy, distillation, mean(bits)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [{}, {"tau": 0.6, "distill_weight": 0.4, "sigma": 0.9, "quantization_weight": 0.3}],
)
def test_formula(form, options):
    teacher, student, ids, hot = views()
    labels, rows = labelled(form, ids, hot)
    criterion = DHD(CLASSES, BITS, **options)
    loss = criterion(teacher, labels, u_student=student)
    widths = {name: options[name] for name in ("tau", "sigma") if name in options}
    proxies = criterion.proxies.tolist()
    expected = dhd_loops(teacher.tolist(), student.tolist(), rows, proxies, **widths)
    names = ("proxy", "distillation", "quantization")
    for name, value in zip(names, expected, strict=True):
        assert criterion.components[name].item() == pytest.approx(value, rel=1e-12), name
    weights = 1, options.get("distill_weight", 0.1), options.get("quantization_weight", 0.1)
    total = sum(w * x for w, x in zip(weights, expected, strict=True))
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_labels_count_by_their_share():
    teacher, student, _, _ = views(3)
    hot = torch.tensor([[1.0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]])
    criterion = DHD(CLASSES, BITS)
    each = []
    for label in (0, 1, 3):
        criterion(teacher[:1], torch.tensor([label]), u_student=student[:1])
        each.append(criterion.components["proxy"].item())
    criterion(teacher[:1], hot[:1], u_student=student[:1])
    assert criterion.components["proxy"].item() == pytest.approx(mean(each), rel=1e-12)
    criterion(teacher[1:2], hot[1:2], u_student=student[1:2])
    assert criterion.components["proxy"].item() == 0
    for dtype in (torch.bool, torch.int64, torch.float16):
        whole = criterion(teacher, hot.to(dtype), u_student=student)
        assert whole.item() == criterion(teacher, hot, u_student=student).item()


def test_the_teacher_is_held_fixed_and_the_student_follows():
    teacher, student, ids, _ = views()
    bare = DHD(CLASSES, BITS, distill_weight=0.0)
    whole = DHD(CLASSES, BITS, distill_weight=2.0)
    whole.load_state_dict(bare.state_dict())
    ours = torch.autograd.grad(whole(teacher, ids, u_student=student), (teacher, student))
    without = torch.autograd.grad(bare(teacher, ids, u_student=student), teacher)
    assert torch.allclose(ours[0], without[0], rtol=1e-12)

    def distilled(student):
        return whole(teacher.detach(), ids, u_student=student)

    assert torch.autograd.gradcheck(distilled, student)
    assert ours[1].abs().max() > 0


def test_proxies_learn():
    teacher, student, ids, _ = views()
    criterion = DHD(CLASSES, BITS).double()
    proxies = criterion.proxies.detach().clone().requires_grad_()

    def loss(proxies):
        return torch.func.functional_call(
            criterion, {"proxies": proxies}, (teacher.detach(), ids), {"u_student": student}
        )

    assert torch.autograd.gradcheck(loss, proxies)
    bound = math.sqrt(6 / (CLASSES + BITS))  # Xavier
    assert bound / 2 < criterion.proxies.abs().max() <= bound


def test_saturated_and_zero_outputs_are_finite():
    for value in (0.0, 1.0, -1.0):
        teacher = torch.full((2, BITS), value, requires_grad=True)
        student = torch.full((2, BITS), -value, requires_grad=True)
        loss = DHD(CLASSES, BITS)(teacher, torch.tensor([0, 1]), u_student=student)
        loss.backward()
        assert loss.isfinite()
        assert teacher.grad.isfinite().all()
        assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (None, r"DHD needs u_student: call criterion\(outputs, labels, u_student=...\)"),
        (torch.zeros(5, BITS), r"u_student is torch.float32 \[5, 8\], .* second view of the same"),
        (torch.zeros(6, 4), r"u_student is torch.float32 \[6, 4\]"),
        (torch.zeros(6, BITS, dtype=torch.int64), "u_student is torch.int64"),
        (torch.zeros(6, BITS, device="meta"), "u_student is on meta, .* move u_student"),
    ],
)
def test_the_student_view_is_checked(student, message):
    teacher, _, ids, _ = views()
    with pytest.raises(ValueError, match=message):
        DHD(CLASSES, BITS)(teacher, ids, u_student=student)


def test_wrong_choices():
    for options in ({"tau": 0}, {"sigma": -1.0}, {"tau": float("nan")}):
        with pytest.raises(ValueError, match="must both be positive"):
            DHD(CLASSES, BITS, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_views_are_computed_in_float32(dtype):
    teacher, student, ids, _ = views(dtype=dtype)
    criterion = DHD(CLASSES, BITS)
    exact = criterion(teacher.float(), ids, u_student=student.float())
    assert criterion(teacher, ids, u_student=student).item() == exact.item()
