"""NT-Xent, InfoNCE and the masked loss against literal loops over pairs."""

import math

import pytest
import torch

from hashfast.losses.contrastive import InfoNCE, MaskedContrastive, NTXent

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = {
    "ntxent": NTXent(0.3),
    "infonce": InfoNCE(0.3),
    "masked": MaskedContrastive(0.3),
    "symmetric": MaskedContrastive(0.3, symmetric=True),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def rows(*sizes, bits=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, bits, dtype=torch.float64, generator=generator) for n in sizes]


def cosine(a, b):
    norms = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / norms if norms else 0.0


def literal(anchors, positives, negatives_of, temperature):
    """Mean over anchors of -log of the positive's share; negatives_of(i): the rows."""
    total = 0.0
    for i, (anchor, positive) in enumerate(zip(anchors, positives, strict=True)):
        own = math.exp(cosine(anchor, positive) / temperature)
        others = sum(math.exp(cosine(anchor, r) / temperature) for r in negatives_of(i))
        total -= math.log(own / (own + others))
    return total / len(anchors)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.3, 0.02])
def test_ntxent_is_the_literal_loop(size, temperature):
    first, second = rows(size, size)
    first[0] = 0
    both = torch.cat([first, second])

    def negatives(i):
        return [both[r] for r in range(2 * size) if r not in (i, (i + size) % (2 * size))]

    expected = literal(both, torch.cat([second, first]), negatives, temperature)
    assert NTXent(temperature)(first, second).item() == pytest.approx(expected, rel=1e-12)
    same = MaskedContrastive(temperature, symmetric=True)(first, second)
    assert same.item() == pytest.approx(expected, rel=1e-12)


def test_infonce_is_the_literal_loop():
    queries, positives, queue = rows(5, 5, 9)
    criterion = InfoNCE(0.2)
    expected = literal(queries, positives, lambda i: [*positives[:i], *positives[i + 1 :]], 0.2)
    assert criterion(queries, positives).item() == pytest.approx(expected, rel=1e-12)
    assert MaskedContrastive(0.2)(queries, positives).item() == pytest.approx(expected, rel=1e-12)
    expected = literal(queries, positives, lambda _: queue, 0.2)
    assert criterion(queries, positives, queue).item() == pytest.approx(expected, rel=1e-12)
    assert criterion(queries, positives, queue[:0]).item() == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_masked_is_the_literal_loop(symmetric):
    size = 8
    anchors, keys = rows(size, size)
    groups = torch.tensor([0, 1, 2, 0, 1, 2, 7, 7])
    excluded = torch.tensor([[-1, 4], [0, 99], [5, 5], [-1, -7], [6, 0], [-1, 1], [2, 3], [0, -1]])
    left = torch.cat([anchors, keys]) if symmetric else anchors
    positives = torch.cat([keys, anchors]) if symmetric else keys
    right = left if symmetric else keys

    def negatives(i):
        i = i % size
        kept = []
        for r in range(len(right)):
            same = groups[i] == groups[r % size]
            if not same and r % size != i and r % size not in excluded[i].tolist():
                kept.append(right[r])
        return kept

    got = MaskedContrastive(0.3, symmetric)(anchors, keys, groups, excluded)
    assert got.item() == pytest.approx(literal(left, positives, negatives, 0.3), rel=1e-12)


def test_row_without_negatives_counts_zero():
    anchors, keys = (x.requires_grad_() for x in rows(3, 3))
    loss = MaskedContrastive(0.3)(anchors, keys, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert anchors.grad.eq(0).all()
    assert keys.grad.eq(0).all()


@every_loss
def test_first_and_second_derivatives(name):
    pair = [x.requires_grad_() for x in rows(4, 4, bits=3)]
    assert torch.autograd.gradcheck(LOSSES[name], pair)
    assert torch.autograd.gradgradcheck(LOSSES[name], pair)


@every_loss
def test_zero_rows_get_zero_gradient(name):
    first, second = rows(4, 4)
    first[1], second[2] = 0, 0
    pair = [first.requires_grad_(), second.requires_grad_()]
    grads = torch.autograd.grad(LOSSES[name](*pair), pair)
    assert grads[0][1].eq(0).all()
    assert grads[1][2].eq(0).all()
    assert all(g.isfinite().all() for g in grads)


@every_loss
def test_empty_batch_gives_zero_in_the_graph(name):
    first, second = (x.float().requires_grad_() for x in rows(0, 0))
    loss = LOSSES[name](first, second)
    loss.backward()
    assert loss == 0
    assert first.grad.shape == second.grad.shape == (0, 6)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(name, dtype):
    halves = [x.to(dtype) for x in rows(9, 9, bits=40)]
    expected = LOSSES[name](*(x.double() for x in halves)).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](*halves)
        wide = LOSSES[name](*(x.float() for x in halves))
    assert loss.dtype == wide.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert wide.item() == pytest.approx(expected, rel=1e-5)


@every_loss
def test_compiles_into_one_graph(name):
    pair = [x.requires_grad_() for x in rows(6, 6)]
    compiled = torch.compile(LOSSES[name], backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(LOSSES[name](*pair), pair)
    for got, plain in zip(torch.autograd.grad(compiled(*pair), pair), expected, strict=True):
        torch.testing.assert_close(got, plain)


def test_wrong_input_is_named():
    first, second, other = rows(3, 3, 4)
    for criterion in LOSSES.values():
        with pytest.raises(ValueError, match=r"are \[3, 6\] and .* \[4, 6\]; expected \[M, b\]"):
            criterion(first, other)
        with pytest.raises(TypeError, match=r"torch\.int64; expected a floating-point"):
            criterion(first.long(), second)
    with pytest.raises(ValueError, match=r"expected int64 \[3, E\]"):
        MaskedContrastive(0.3)(first, second, excluded=torch.zeros(4, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"anchor_groups are \(2,\); expected \[3\]"):
        MaskedContrastive(0.3)(first, second, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature is 0; it must be positive"):
        NTXent(0)
