"""Unsupervised GreedyHash against its formula as loops, and its gradient straight through sign."""

import pytest
import torch
from losses_by_hand import BITS, batch, cosine, mean, sign

from hashfast.losses import GreedyHashUnsupervised

pytestmark = pytest.mark.usefixtures("one_thread")


def made(n):
    return batch(n=n)[0], torch.randn(n, 5, dtype=torch.float64)


def gap(codes, features):
    half = len(codes) // 2
    return mean(
        (cosine(codes[i], codes[i + half]) - cosine(features[i], features[i + half])) ** 2
        for i in range(half)
    )


@pytest.mark.parametrize("n", [2, 6, 7])
@pytest.mark.parametrize("options", [{}, {"quantization_weight": 0.7}])
def test_formula(n, options):
    outputs, features = made(n)
    criterion = GreedyHashUnsupervised(BITS, **options)
    loss = criterion(outputs, features=features)
    u = outputs.tolist()
    expected = gap([[sign(x) for x in row] for row in u], features.tolist())
    cubes = mean(abs(abs(x) - 1) ** 3 for row in u for x in row)
    assert criterion.components["similarity"].item() == pytest.approx(expected, rel=1e-12)
    assert criterion.components["quantization"].item() == pytest.approx(cubes, rel=1e-12)
    weight = options.get("quantization_weight", 0.1)
    assert loss.item() == pytest.approx(expected + weight * cubes, rel=1e-12)


def test_the_gradient_of_the_codes_passes_unchanged():
    outputs, features = made(7)
    criterion = GreedyHashUnsupervised(BITS, quantization="none")
    (found,) = torch.autograd.grad(criterion(outputs, features=features), outputs)
    codes = outputs.detach().sign().requires_grad_()
    cosines = [torch.cosine_similarity(x[:3], x[3:6]) for x in (codes, features)]
    (expected,) = torch.autograd.grad((cosines[0] - cosines[1]).square().mean(), codes)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert found[6].abs().max() == 0  # without a partner


def test_no_gradient_reaches_the_features():
    outputs, features = made(4)
    features.requires_grad_()
    GreedyHashUnsupervised(BITS)(outputs, features=features).backward()
    assert features.grad is None


def test_a_batch_of_one_has_no_pair():
    outputs, features = made(1)
    criterion = GreedyHashUnsupervised(BITS, quantization="none")
    with pytest.warns(UserWarning, match="undefined for a batch of 1"):
        loss = criterion(outputs, features=features)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().max() == 0
