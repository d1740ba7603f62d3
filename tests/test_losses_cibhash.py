"""CIBHash against its formula as loops, and its gradient through the probabilities."""

import math

import pytest
import torch
from losses_by_hand import BITS, batch, cosine, mean, sign

from hashfast.losses import CIBHash

pytestmark = pytest.mark.usefixtures("one_thread")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def nt_xent(codes, others, temperature):
    """Mean over the rows of both views of -log softmax of the other view among all other rows."""
    rows, n = codes + others, len(codes)
    losses = []
    for i, row in enumerate(rows):
        logits = {k: cosine(row, x) / temperature for k, x in enumerate(rows) if k != i}
        total = sum(math.exp(x) for x in logits.values())
        losses.append(math.log(total) - logits[(i + n) % (2 * n)])
    return mean(losses)


def divergence(probabilities, others):
    def bit(p, q):
        one = p * (math.log(p + 1e-8) - math.log(q + 1e-8))
        return one + (1 - p) * (math.log(1 - p + 1e-8) - math.log(1 - q + 1e-8))

    pairs = zip(probabilities, others, strict=True)
    return mean(sum(bit(p, q) for p, q in zip(*rows, strict=True)) for rows in pairs)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1, "weight": 0.5}])
def test_formula(options):
    views = [batch(seed=seed)[0] for seed in (0, 1)]
    criterion = CIBHash(BITS, **options)
    loss = criterion(*views)
    rows = [view.tolist() for view in views]
    codes = [[[sign(x) for x in row] for row in view] for view in rows]
    p, q = ([[sigmoid(x) for x in row] for row in view] for view in rows)
    contrastive = nt_xent(*codes, options.get("temperature", 0.3))
    kl = (divergence(p, q) + divergence(q, p)) / 2
    expected = contrastive + options.get("weight", 0.001) * kl
    assert criterion.components["contrastive"].item() == pytest.approx(contrastive, rel=1e-9)
    assert criterion.components["kl"].item() == pytest.approx(kl, rel=1e-12)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_gradient():
    """That of the codes times p (1 - p), and of each divergence in its first argument only."""
    first, second = (batch(seed=seed)[0] for seed in (0, 1))
    found = torch.autograd.grad(CIBHash(BITS, weight=0.5)(first, second), (first, second))
    codes = [u.detach().sign().requires_grad_() for u in (first, second)]
    rows = torch.cat(codes)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows, dim=2) / 0.3
    others = cosines.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    contrastive = (others.logsumexp(1) - cosines.diagonal(len(first)).repeat(2)).mean()
    through = torch.autograd.grad(contrastive, codes)
    for u, v, code, grad in zip((first, second), (second, first), through, found, strict=True):
        p, q = u.detach().sigmoid(), v.detach().sigmoid()
        slope = p * (1 - p)
        # d KL(p || q) / d p = log(p / q) - log((1 - p) / (1 - q)), but for the margins of 1e-8.
        kl = ((p / q).log() - ((1 - p) / (1 - q)).log()) / 2 / len(u)
        assert torch.allclose(grad, slope * (code + 0.5 * kl), rtol=1e-6, atol=1e-9)


def test_views_that_agree_lose_least():
    outputs = batch(n=12)[0]
    criterion = CIBHash(BITS)
    same = criterion(outputs, outputs).item()
    assert criterion.components["kl"].item() == pytest.approx(0, abs=1e-12)
    assert same < criterion(outputs, outputs.roll(1, 0)).item()


@pytest.mark.parametrize("value", [0.0, 60.0, -1e4])
def test_saturated_bits_are_finite(value):
    outputs = torch.full((4, BITS), value, requires_grad=True)
    loss = CIBHash(BITS)(outputs, -outputs.detach())
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"weight": -1.0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=r"temperature=.* and weight="):
        CIBHash(BITS, **options)
