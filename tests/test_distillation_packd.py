"""PACKD against its formula as a loop, its negatives, its memory."""

import math

import pytest
import torch
from distillation_by_hand import (
    BITS,
    CLASSES,
    TRAINING,
    batch,
    codes,
    embedded,
    labels_of_all,
    minus,
    unit,
)
from losses_by_hand import are_similar, dot, mean, one_hot

from hashfast.losses.distillation.packd import PACKD, transport_plan

pytestmark = pytest.mark.usefixtures("one_thread")

INDEX = torch.tensor([3, 20, 0, 7, 11])


def made(teacher_bits=BITS, **options):
    torch.manual_seed(0)
    criterion = PACKD(BITS, teacher_bits, negatives=6, **options).double()
    criterion.prepare(codes(TRAINING, teacher_bits), labels_of_all())
    return criterion


def costs(views, others):
    return [[dot(minus(a, b), minus(a, b)) for b in others] for a in views]


def plans(batch_of_costs, eps, tolerance):
    """Sinkhorn's iterations on scalings exp(u / eps), for all images of the batch together."""
    kernels = [[[math.exp(-c / eps) for c in row] for row in cost] for cost in batch_of_costs]
    m = len(kernels[0])
    mass = 1 / m + 1e-8
    scalings = [([1.0] * m, [1.0] * m) for _ in kernels]
    for _ in range(100):
        changes = []
        for number, (kernel, (u, v)) in enumerate(zip(kernels, scalings, strict=True)):
            new_u = [mass / dot(row, v) for row in kernel]
            new_v = [mass / dot(column, new_u) for column in zip(*kernel, strict=True)]
            scalings[number] = new_u, new_v
            changes.append(sum(abs(eps * math.log(a / b)) for a, b in zip(new_u, u, strict=True)))
        if mean(changes) < tolerance:
            break
    return [
        [[u[a] * kernel[a][b] * v[b] for b in range(m)] for a in range(m)]
        for kernel, (u, v) in zip(kernels, scalings, strict=True)
    ]


def views_of(criterion, seed, views, teacher_bits):
    student, teacher = (x + seed for x in batch(teacher_bits=teacher_bits))
    aug_s = codes(len(INDEX), views, BITS, seed=3 + seed)
    aug_t = codes(len(INDEX), views, teacher_bits, seed=4 + seed)
    return student, teacher, aug_s, aug_t


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("teacher_bits", [BITS, 9])
@pytest.mark.parametrize(
    "options", [{}, {"width": 4, "temperature": 0.3, "momentum": 0.2, "plan_tolerance": 1e-6}]
)
def test_formula(views, teacher_bits, options):
    criterion = made(teacher_bits, num_views=views, **options)
    temperature, momentum = options.get("temperature", 0.07), options.get("momentum", 0.5)
    tolerance = options.get("plan_tolerance", 0.1)
    memory, seen = criterion.memory.tolist(), set()
    for step, index in enumerate((INDEX, INDEX.flip(0) + 1, INDEX)):
        given = views_of(criterion, step, views, teacher_bits)
        student, teacher, aug_s, aug_t = given
        contrast = criterion.contrast(index, index % CLASSES)
        images = []
        for i in range(len(index)):
            rows_s = embedded(criterion.embed_s, torch.cat([student[i : i + 1], aug_s[i]]))
            rows_t = torch.cat([teacher[i : i + 1], aug_t[i]])
            rows_t = (
                embedded(criterion.embed_t, rows_t)
                if options
                else [unit(row) for row in rows_t.tolist()]
            )
            images.append((rows_s, rows_t))
        for i, (_, rows_t) in zip(index.tolist(), images, strict=True):
            kept = momentum if i in seen else 0.0
            row = zip(memory[i], rows_t[0], strict=True)
            memory[i] = unit([kept * x + (1 - kept) * y for x, y in row])
            seen.add(i)
        losses = []
        transported = plans([costs(*rows) for rows in images], 0.1, tolerance)
        for (rows_s, rows_t), plan, picked in zip(
            images, transported, contrast.tolist(), strict=True
        ):
            positive = sum(
                p * dot(a, b)
                for a, weights in zip(rows_s, plan, strict=True)
                for b, p in zip(rows_t, weights, strict=True)
            )
            negative = [dot(a, memory[k]) for a in rows_s for k in picked]
            total = sum(math.exp(x / temperature) for x in (positive, *negative))
            losses.append(-math.log(math.exp(positive / temperature) / total))
        loss = criterion.loss(*given, index, contrast)
        assert loss.item() == pytest.approx(mean(losses), rel=1e-9)
        assert torch.allclose(criterion.memory, torch.tensor(memory, dtype=torch.float64))


def test_defaults():
    criterion = PACKD(64)
    assert (criterion.num_views, criterion.views, criterion.negatives) == (1, "mixed", 500)
    assert (criterion.temperature, criterion.momentum) == (0.07, 0.5)
    assert (criterion.plan_eps, criterion.plan_tolerance) == (0.1, 0.1)


@pytest.mark.parametrize(("teacher_bits", "width"), [(64, 64), (128, 128), (256, 128)])
def test_short_codes_of_the_teacher_are_not_embedded(teacher_bits, width):
    criterion = PACKD(64, teacher_bits)
    assert criterion.width == criterion.embed_s.out_features == width
    assert (criterion.embed_t is None) == (teacher_bits <= 128)


def test_a_plan_matches_what_is_near():
    views = torch.eye(3, dtype=torch.float64)[None]
    plan = transport_plan(views, views[:, [2, 0, 1]], 0.1, 0.0)
    expected = torch.eye(3)[[2, 0, 1]].T[None] / 3
    assert torch.allclose(plan, expected.double(), atol=1e-6)
    assert torch.allclose(
        transport_plan(views, views, 1e4, 0.0), torch.full((1, 3, 3), 1 / 9).double(), atol=1e-4
    )


def test_the_plan_is_a_constant():
    criterion = made(num_views=2)
    student, teacher, aug_s, aug_t = views_of(criterion, 0, 2, BITS)
    contrast = criterion.contrast(INDEX, INDEX % CLASSES)
    loss = criterion.loss(student, teacher, aug_s, aug_t, INDEX, contrast)
    found = torch.autograd.grad(loss, student)[0]
    with torch.no_grad():
        plan = transport_plan(
            *(
                torch.nn.functional.normalize(rows, dim=2)
                for rows in (
                    criterion.embed_s(torch.cat([student[:, None], aug_s], 1)),
                    torch.cat([teacher[:, None], aug_t], 1),
                )
            ),
            0.1,
            0.1,
        )
    views = torch.nn.functional.normalize(
        criterion.embed_s(torch.cat([student[:, None], aug_s], 1)), dim=2
    )
    others = torch.nn.functional.normalize(torch.cat([teacher[:, None], aug_t], 1), dim=2)
    positive = torch.einsum("nab,nad,nbd->n", plan, views, others) / 0.07
    negative = torch.einsum("nad,nkd->nak", views, criterion.memory[contrast]).flatten(1) / 0.07
    by_hand = (torch.cat([positive[:, None], negative], 1).logsumexp(1) - positive).mean()
    assert torch.allclose(torch.autograd.grad(by_hand, student)[0], found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["ids", "multi-hot"])
def test_negatives_are_all_the_images_of_other_classes(form):
    ids = torch.randint(CLASSES, (TRAINING,))
    labels = ids if form == "ids" else (one_hot(ids) + one_hot((ids + 1) % CLASSES))
    rows = one_hot(ids).tolist() if form == "ids" else labels.tolist()
    criterion = PACKD(BITS, negatives=1_000)
    criterion.prepare(codes(TRAINING, BITS), labels)
    contrast = criterion.contrast(INDEX, labels[INDEX])
    assert contrast.shape == (len(INDEX), 1_000)
    for own, picked in zip(INDEX.tolist(), contrast, strict=True):
        others = {k for k in range(TRAINING) if not are_similar(rows[own], rows[k])}
        counts = picked.bincount(minlength=TRAINING)
        assert set(counts.nonzero().flatten().tolist()) == others
        assert counts.max() < 2 * 1_000 / len(others)


def test_an_image_of_the_only_class_is_compared_with_all_others():
    criterion = PACKD(BITS, negatives=500)
    criterion.prepare(codes(TRAINING, BITS), torch.zeros(TRAINING, dtype=torch.int64))
    for own, picked in zip(INDEX.tolist(), criterion.contrast(INDEX, 0 * INDEX), strict=True):
        assert set(picked.tolist()) == set(range(TRAINING)) - {own}


def test_labels_that_prepare_or_a_call_cannot_take():
    criterion = PACKD(BITS)
    for labels in (None, torch.zeros(TRAINING - 1), torch.zeros(TRAINING, 2, 2)):
        with pytest.raises(ValueError, match=r"PACKD needs labels: call prepare\(teacher_codes"):
            criterion.prepare(codes(TRAINING, BITS), labels)
    with pytest.raises(ValueError, match=r"prepare was given \[24\]: use one form"):
        made().contrast(INDEX, one_hot(INDEX % CLASSES))


def test_wrong_options_and_views():
    with pytest.raises(ValueError, match="num_views is 0"):
        PACKD(BITS, num_views=0)
    for options in ({"plan_eps": 0.0}, {"plan_eps": math.nan}, {"plan_tolerance": -1.0}):
        with pytest.raises(ValueError, match="plan_eps"):
            PACKD(BITS, **options)
    criterion = made()
    student, teacher, aug_s, aug_t = views_of(criterion, 0, 2, BITS)
    with pytest.raises(ValueError, match="2 views of each image, teacher_aug 1"):
        criterion(
            student,
            teacher,
            student_aug=aug_s,
            teacher_aug=aug_t[:, :1],
            index=INDEX,
            labels=INDEX % CLASSES,
        )
