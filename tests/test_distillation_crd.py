"""CRD against its formula as a loop; draws and memories, of every loss that has them."""

import copy

import pytest
import torch
from distillation_by_hand import (
    BITS,
    TRAINING,
    batch,
    called,
    cases,
    codes,
    embedded,
    labels_of_all,
    noise_contrast,
    prepared,
    unit,
)
from losses_by_hand import dot

from hashfast.losses.distillation.crd import CRD

pytestmark = pytest.mark.usefixtures("one_thread")

INDEX = torch.tensor([3, 20, 0, 7, 11])
with_memory = cases("crd", "crd-renewed", "crcd", "packd", "packd-embedded")


def moved(row, new, momentum):
    return unit([momentum * x + (1 - momentum) * y for x, y in zip(row, new, strict=True)])


@pytest.mark.parametrize("teacher_bits", [BITS, 9])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.3, "momentum": 0.1, "renew_z": True, "width": 4}]
)
def test_formula(teacher_bits, options):
    torch.manual_seed(0)
    criterion = CRD(BITS, teacher_bits, negatives=7, **options).double()
    criterion.prepare(codes(TRAINING, teacher_bits))
    temperature, momentum = options.get("temperature", 0.05), options.get("momentum", 0.5)
    memory_s, memory_t = criterion.memory_s.tolist(), criterion.memory_t.tolist()
    z_s = z_t = None
    for step, index in enumerate((INDEX, INDEX.flip(0) + 1, INDEX)):
        student, teacher = (x + step for x in batch(teacher_bits=teacher_bits))
        contrast = criterion.contrast(index)
        rows_s, rows_t = embedded(criterion.embed_s, student), embedded(criterion.embed_t, teacher)
        logits_s, logits_t = (
            [[dot(v, memory[k]) / temperature for k in picked] for v, picked in rows]
            for memory, rows in (
                (memory_t, list(zip(rows_s, contrast.tolist(), strict=True))),
                (memory_s, list(zip(rows_t, contrast.tolist(), strict=True))),
            )
        )
        if options.get("renew_z"):
            z_s = z_t = None
        loss_s, z_s = noise_contrast(logits_s, TRAINING, z_s)
        loss_t, z_t = noise_contrast(logits_t, TRAINING, z_t)
        loss = criterion.loss(student, teacher, index, contrast)
        assert loss.item() == pytest.approx(loss_s + loss_t, rel=1e-10)
        assert criterion.log_z.exp().tolist() == pytest.approx([z_s, z_t], rel=1e-10)
        for memory, rows in ((memory_s, rows_s), (memory_t, rows_t)):
            for i, row in zip(index.tolist(), rows, strict=True):
                memory[i] = moved(memory[i], row, momentum)
        assert torch.allclose(criterion.memory_s, torch.tensor(memory_s, dtype=torch.float64))
        assert torch.allclose(criterion.memory_t, torch.tensor(memory_t, dtype=torch.float64))


def test_a_renewed_z_is_a_constant_to_the_gradient():
    gradients = []
    for renew_z in (True, False):
        torch.manual_seed(0)
        criterion = CRD(BITS, negatives=7, renew_z=renew_z).double()
        criterion.prepare(codes(TRAINING, BITS))
        student, teacher = batch()
        contrast = criterion.contrast(INDEX)
        start = copy.deepcopy(criterion)
        start.loss(student, teacher, INDEX, contrast)
        criterion.log_z.copy_(start.log_z)  # what the renewed one comes to, too
        loss = criterion.loss(student, teacher, INDEX, contrast)
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert torch.equal(*gradients)


def test_defaults():
    criterion = CRD(BITS)
    assert (criterion.width, criterion.negatives) == (128, 500)
    assert (criterion.temperature, criterion.momentum, criterion.renew_z) == (0.05, 0.5, False)


def test_the_memories_start_at_random_rows_of_about_unit_norm():
    torch.manual_seed(0)
    criterion = CRD(BITS)
    criterion.prepare(codes(500, BITS))
    bound = (3 / 128) ** 0.5
    for memory in (criterion.memory_s, criterion.memory_t):
        assert memory.shape == (500, 128)
        assert 0.99 * bound < memory.abs().max() <= bound
        assert memory.square().sum(1).mean() == pytest.approx(1, rel=0.02)
    assert not torch.equal(criterion.memory_s, criterion.memory_t)


@cases("crd", "crcd")
def test_every_other_image_is_drawn_and_the_image_itself_comes_first(make):
    criterion = prepared(make)
    criterion.negatives = 2_000
    contrast = criterion.contrast(INDEX)
    assert torch.equal(contrast[:, 0], INDEX)
    for own, row in zip(INDEX.tolist(), contrast[:, 1:], strict=True):
        counts = row.bincount(minlength=TRAINING)
        assert counts[own] == 0
        others = counts[torch.arange(TRAINING) != own]
        assert others.min() > 40  # of 87 on average, by a standard deviation of 9
        assert others.max() < 135


@cases("crd", "crcd")
def test_both_embeddings_learn(make):
    criterion = prepared(make)
    student, teacher = batch()
    criterion(student, teacher, index=INDEX).backward()
    for parameter in (student, *criterion.parameters()):
        assert parameter.grad.abs().max() > 0
    assert {name.split(".")[0] for name, _ in criterion.named_parameters()} == {
        "embed_s",
        "embed_t",
    }


@with_memory
def test_a_call_before_prepare(make):
    student, teacher = batch()
    criterion = make(BITS).double()
    given = {
        "index": INDEX,
        "labels": INDEX,
        "student_aug": student.detach(),
        "teacher_aug": teacher,
    }
    with pytest.raises(ValueError, match=r"has no memory yet: call prepare\(teacher_codes"):
        criterion(student, teacher, **given)


@with_memory
@pytest.mark.parametrize("wrong", [-1, TRAINING])
def test_an_index_beyond_the_training_set(make, wrong):
    student, teacher = batch()
    index = INDEX.clone()
    index[2] = wrong
    given = {
        "index": index,
        "labels": INDEX % 4,
        "student_aug": student.detach(),
        "teacher_aug": teacher,
    }
    with pytest.raises(ValueError, match=f"index reaches from .* prepare was given {TRAINING}"):
        prepared(make)(student, teacher, **given)


@with_memory
def test_codes_that_prepare_cannot_take(make):
    criterion = make(BITS, 9)
    for shape in ((TRAINING, 8), (1, 9), (9,)):
        with pytest.raises(ValueError, match=r"expected \[N, 9\] with N"):
            criterion.prepare(torch.ones(shape), torch.zeros(shape[0], dtype=torch.int64))


@with_memory
def test_a_seed_makes_the_same_memories_and_draws(make):
    first, second = prepared(make), prepared(make)
    for a, b in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    given = (INDEX, INDEX % 4) if "labels" in first.needs else (INDEX,)
    draws = []
    for criterion in (first, second, second):
        if criterion is first or len(draws) == 1:
            torch.manual_seed(3)
        draws.append(criterion.contrast(*given))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


@with_memory
def test_a_run_resumes_where_it_was(make):
    def step(criterion, seed):
        student = codes(len(INDEX), BITS, seed=seed)
        given = {
            "index": (INDEX + seed) % TRAINING,
            "labels": (INDEX + seed) % 4,
            "student_aug": -student,
            "teacher_aug": student.flip(1),
        }
        torch.manual_seed(seed)
        return criterion(student, student.flip(0), **given).item()

    whole, begun = prepared(make), prepared(make)
    for seed in range(2):
        assert step(whole, seed) == step(begun, seed)
    torch.manual_seed(99)
    resumed = make(BITS).double()
    resumed.prepare(codes(TRAINING, BITS), torch.arange(TRAINING) % 4)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    for seed in range(2, 5):
        assert step(whole, seed) == step(resumed, seed)


@with_memory
def test_preparing_again_starts_anew(make):
    student, teacher = batch()
    used = prepared(make)
    called(used, student, teacher)
    torch.manual_seed(0)
    used.prepare(codes(TRAINING, BITS), labels_of_all())
    for name, value in prepared(make).named_buffers():
        assert getattr(used, name).isnan().equal(value.isnan())
        assert value.dtype != torch.bool or not getattr(used, name).any()


@with_memory
def test_wrong_options(make):
    for option, values in (
        ("width", (0,)),
        ("negatives", (0,)),
        ("temperature", (0.0, float("inf"))),
        ("momentum", (-0.1, 1.0, float("nan"))),
    ):
        for value in values:
            with pytest.raises(ValueError, match=f"{option}"):
                make(BITS, **{option: value})
