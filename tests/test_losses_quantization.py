"""HSWD and SWD: formulas as loops, known answers, gradients."""

import math

import pytest
import torch
from losses_by_hand import BITS, batch

from hashfast import ops
from hashfast.losses import HSWD, SWD, quantization
from hashfast.losses import sliced_wasserstein as sliced


def hswd_loops(columns, negatives):
    total = []
    for column, k in zip(columns, negatives, strict=True):
        target = [-1.0] * k + [1.0] * (len(column) - k)
        total += [(u - b) ** 2 for u, b in zip(sorted(column), target, strict=True)]
    return sum(total) / len(total)


def test_hswd_random_formula():
    outputs, _, _ = batch(n=11)
    torch.manual_seed(5)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64)
    target = ops.binary_wasserstein(outputs, seed=seed)[1]
    torch.manual_seed(5)
    found = HSWD(BITS)(outputs)
    expected = hswd_loops(outputs.T.tolist(), (target < 0).sum(0).tolist())
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_hswd_random_target_is_a_fair_coin():
    torch.manual_seed(0)
    # All +1: distance 4 k / n with k ~ Binomial(n, 1/2). All 0: 1 whatever the target.
    assert HSWD(4096)(torch.ones(10, 4096)).item() == pytest.approx(2, abs=0.04)
    assert HSWD(4096)(torch.zeros(10, 4096)).item() == 1


def test_hswd_balanced_known_answers():
    columns = torch.stack([torch.tensor([1.0, -1, -1, 1, 1, -1])[torch.randperm(6)] for _ in "ab"])
    on_target = columns.T.contiguous()
    distance = HSWD(2, target="balanced")
    assert distance(on_target).item() == 0
    assert distance(on_target + 0.25).item() == 0.0625
    assert HSWD(2, target="balanced", root=True)(on_target + 0.25).item() == 0.25


def test_hswd_balanced_odd_batch_pulls_the_median_to_zero():
    outputs = torch.tensor([[3.0], [0.5], [-2.0]], requires_grad=True)
    loss = HSWD(1, target="balanced")(outputs)
    loss.backward()
    assert loss.item() == (4 + 0.25 + 1) / 3
    assert torch.allclose(outputs.grad[:, 0], torch.tensor([2 * 2, 2 * 0.5, -2.0]) / 3)


@pytest.mark.parametrize("make", [HSWD, SWD])
def test_rooted_form(make):
    outputs, _, _ = batch()
    torch.manual_seed(1)
    squared = make(BITS)(outputs)
    torch.manual_seed(1)
    assert make(BITS, root=True)(outputs).item() == pytest.approx(math.sqrt(squared.item()))


def test_rooted_form_has_zero_gradient_at_zero():
    outputs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    loss = HSWD(2, target="balanced", root=True)(outputs)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().max() == 0


def test_sliced_wasserstein_formula():
    generator = torch.Generator().manual_seed(0)
    outputs, target, directions = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (5, 5, 4)
    )

    def projected(rows, axis):
        return sorted(sum(a * b for a, b in zip(row, axis, strict=True)) for row in rows)

    total = []
    for axis in directions.tolist():
        pairs = zip(
            projected(outputs.tolist(), axis), projected(target.tolist(), axis), strict=True
        )
        total += [(a - b) ** 2 for a, b in pairs]
    found = sliced(outputs, target, directions)
    assert found.item() == pytest.approx(sum(total) / len(total), rel=1e-12)


def test_swd_known_answers():
    # In one dimension every direction is +-1, so SWD is HSWD: all 0 gives 1.
    assert SWD(1, num_projections=3)(torch.zeros(6, 1)).item() == 1
    # On average a squared projection of a code on a unit vector is its squared norm / bits = 1.
    torch.manual_seed(0)
    assert SWD(32)(torch.zeros(64, 32)).item() == pytest.approx(1, abs=0.02)


def test_swd_in_chunks_is_the_same(monkeypatch):
    values, gradients = [], []
    for limit in (2**22, 6 * 7):
        monkeypatch.setattr(quantization, "_PROJECTED_VALUES", limit)
        outputs, _, _ = batch()
        torch.manual_seed(3)
        loss = SWD(BITS, num_projections=40)(outputs)
        loss.backward()
        values.append(loss.item())
        gradients.append(outputs.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert torch.allclose(*gradients, rtol=1e-12)


@pytest.mark.parametrize("make", [HSWD, SWD])
@pytest.mark.parametrize("n", [0, 1])
def test_distributional_terms_of_tiny_batches(make, n):
    outputs = torch.randn(n, BITS, requires_grad=True)
    loss = make(BITS)(outputs)
    loss.backward()
    assert loss.isfinite()
    assert loss.shape == ()
    assert outputs.grad.isfinite().all()
    if n == 0:
        assert loss.item() == 0


@pytest.mark.parametrize("make", [HSWD, SWD])
def test_distributional_terms_follow_manual_seed(make):
    outputs, _, _ = batch(n=32)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(make(BITS)(outputs).item())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("term", [HSWD(3, "balanced"), HSWD(3, "balanced", root=True), SWD(3, 5)])
@pytest.mark.parametrize("chunked", [False, True])
def test_gradcheck_of_distributional_terms(term, chunked, monkeypatch):
    if chunked:
        monkeypatch.setattr(quantization, "_PROJECTED_VALUES", 10)

    def distance(outputs):
        torch.manual_seed(0)
        return term(outputs)

    outputs, _, _ = batch(n=5, bits=3)
    assert torch.autograd.gradcheck(distance, outputs)
    assert torch.autograd.gradgradcheck(distance, outputs)


def test_swd_alone_under_autocast():
    outputs, _, _ = batch(dtype=torch.float32)
    torch.manual_seed(0)
    expected = SWD(BITS)(outputs).item()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SWD(BITS)(outputs).item() == expected


def test_swd_in_chunks_compiles(monkeypatch):
    monkeypatch.setattr(quantization, "_PROJECTED_VALUES", 60)
    torch._dynamo.reset()
    term = SWD(BITS, num_projections=25)
    compiled = torch.compile(term, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (term, compiled):
        outputs, _, _ = batch(dtype=torch.float32)
        torch.manual_seed(0)
        call(outputs).backward()
        gradients.append(outputs.grad)
    assert torch.allclose(*gradients, rtol=1e-5)
