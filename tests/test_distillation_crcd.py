"""CRCD against its formula as a loop of differences, near rows, and what it holds in memory."""

import pytest
import torch
from distillation_by_hand import (
    BITS,
    TRAINING,
    Largest,
    batch,
    codes,
    embedded,
    minus,
    noise_contrast,
    norm,
)
from losses_by_hand import cosine

from hashfast.losses.distillation.crcd import CRCD

pytestmark = pytest.mark.usefixtures("one_thread")

INDEX = torch.tensor([3, 20, 0, 7, 11])


def made(teacher_bits=BITS, **options):
    torch.manual_seed(0)
    criterion = CRCD(BITS, teacher_bits, negatives=7, **options).double()
    criterion.prepare(codes(TRAINING, teacher_bits))
    return criterion


def logits(rows, memory, index, contrast, temperature):
    """A row for each image and anchor."""
    found = []
    for v, picked in zip(rows, contrast.tolist(), strict=True):
        for j in index.tolist():
            relation = minus(v, memory[j], 1e-6)
            others = [minus(memory[k], memory[j], 1e-6) for k in picked]
            found.append([cosine(relation, other) / temperature for other in others])
    return found


@pytest.mark.parametrize("teacher_bits", [BITS, 9])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "width": 4}])
def test_formula(teacher_bits, options):
    criterion = made(teacher_bits, **options)
    temperature = options.get("temperature", 0.05)
    z_s = z_t = None
    for index in (INDEX, INDEX.flip(0) + 1):
        student, teacher = batch(teacher_bits=teacher_bits)
        contrast = criterion.contrast(index)
        contrast[1, 3] = index[4]  # a negative that is another image's anchor
        rows_s, rows_t = embedded(criterion.embed_s, student), embedded(criterion.embed_t, teacher)
        found_s, found_t = (
            logits(rows, memory.tolist(), index, contrast, temperature)
            for rows, memory in ((rows_s, criterion.memory_t), (rows_t, criterion.memory_s))
        )
        loss_s, z_s = noise_contrast(found_s, TRAINING, z_s)
        loss_t, z_t = noise_contrast(found_t, TRAINING, z_t)
        loss = criterion.loss(student, teacher, index, contrast)
        assert loss.item() == pytest.approx(loss_s + loss_t, rel=1e-10)
        assert criterion.log_z.exp().tolist() == pytest.approx([z_s, z_t], rel=1e-10)


def test_the_memories_start_at_unit_norm():
    criterion = made()
    for memory in (criterion.memory_s, criterion.memory_t):
        assert [norm(row) for row in memory.tolist()] == pytest.approx([1] * TRAINING)


def test_rows_that_nearly_meet_in_float32():
    """Images of one code have rows that come together; their difference still has a direction."""
    criterion = made().float()
    step = 1e-4 * torch.randn(criterion.width)
    criterion.memory_t[20] = criterion.memory_t[3] + step
    criterion.memory_s[20] = criterion.memory_s[3]
    contrast = criterion.contrast(INDEX)
    contrast[:, 1] = 20
    student, teacher = (x.detach().float().requires_grad_() for x in batch())
    rows_s, rows_t = embedded(criterion.embed_s, student), embedded(criterion.embed_t, teacher)
    found = [
        noise_contrast(logits(rows, memory.tolist(), INDEX, contrast, 0.05), TRAINING)[0]
        for rows, memory in ((rows_s, criterion.memory_t), (rows_t, criterion.memory_s))
    ]
    loss = criterion.loss(student, teacher, INDEX, contrast)
    loss.backward()
    assert loss.item() == pytest.approx(sum(found), rel=1e-5)
    assert student.grad.isfinite().all()


def test_no_difference_of_rows_is_formed():
    n, negatives, width = 16, 40, 32
    torch.manual_seed(0)
    criterion = CRCD(BITS, width=width, negatives=negatives)
    criterion.prepare(codes(TRAINING, BITS))
    student, teacher = batch(n, dtype=torch.float32)
    with Largest() as seen:
        criterion(student, teacher, index=torch.arange(n)).backward()
    assert seen.elements <= max(n, width) * n * (negatives + 1)
