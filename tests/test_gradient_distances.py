"""Distances between gradients against their formulas as loops."""

import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast.condense.distances import METRICS, gradient_distance

SHAPES = [(4, 3, 3, 3), (4,), (5, 12), (6, 2, 2)]  # convolution, bias, linear, layer norm


def tensors(seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def one_minus_cosine(a, b):
    return 1 - dot(a, b) / (math.sqrt(dot(a, a)) * math.sqrt(dot(b, b)) + 1e-6)


def distance_loops(real, synthetic, metric):
    pairs = list(zip(real, synthetic, strict=True))
    rows = [
        (x.flatten().tolist(), y.flatten().tolist())
        for a, b in pairs
        for x, y in zip(a, b, strict=True)
    ]
    differences = [[x - y for x, y in zip(a, b, strict=True)] for a, b in rows]
    if metric == "rows":
        matrices = [a.dim() > 1 for a in real for _ in a]
        return sum(one_minus_cosine(*row) for row, kept in zip(rows, matrices, strict=True) if kept)
    if metric == "cos":
        return one_minus_cosine(*(list(chain(*side)) for side in zip(*rows, strict=True)))
    if metric == "mse":
        return sum(x * x for row in differences for x in row)
    if metric == "l1":
        return sum(abs(x) for row in differences for x in row)
    return sum(sum(abs(x) for x in row) / len(row) for row in differences)


@pytest.mark.parametrize("metric", METRICS)
def test_distance(metric):
    real, synthetic = tensors(0), [x.requires_grad_() for x in tensors(1)]
    value = gradient_distance(real, synthetic, metric)
    assert value.item() == pytest.approx(distance_loops(real, synthetic, metric), rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda *given: gradient_distance(real, given, metric), synthetic
    )


def test_distances_of_a_small_example():
    real = [torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([7.0])]
    synthetic = [torch.tensor([[0.0, 4.0], [0.0, 5.0]]), torch.tensor([5.0])]
    expected = {"mse": 9 + 16 + 9 + 4, "l1": 3 + 4 + 3 + 2, "l1_mean": 3.5 + 1.5 + 2, "rows": 1.0}
    for metric, value in expected.items():
        assert gradient_distance(real, synthetic, metric).item() == pytest.approx(value, abs=1e-5)
    cosine = (2 * 5 + 7 * 5) / math.sqrt((9 + 4 + 49) * (16 + 25 + 25))
    assert gradient_distance(real, synthetic, "cos").item() == pytest.approx(1 - cosine, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=4), min_size=1, max_size=3),
    scale=st.floats(0.1, 10),
    metric=st.sampled_from(list(METRICS)),
)
def test_what_distances_share(shapes, scale, metric):
    # Away from zero, where the 1e-6 in a cosine's denominator would count.
    a, b = ([x + x.sign() for x in tensors(seed, shapes)] for seed in (0, 1))
    apart = gradient_distance(a, b, metric).item()
    assert apart >= 0
    assert gradient_distance(b, a, metric).item() == pytest.approx(apart, rel=1e-12, abs=1e-12)
    assert gradient_distance(a, a, metric).item() == pytest.approx(0, abs=1e-4)
    scaled = gradient_distance([scale * x for x in a], [scale * x for x in b], metric).item()
    power = {"mse": 2, "l1": 1, "l1_mean": 1}.get(metric, 0)
    assert scaled == pytest.approx(apart * scale**power, rel=1e-9, abs=0 if power else 1e-2)


@pytest.mark.parametrize("metric", METRICS)
def test_zero_gradients_are_finite(metric):
    real = [torch.zeros(2, 3)]
    synthetic = torch.zeros(2, 3, requires_grad=True)
    value = gradient_distance(real, [synthetic], metric)
    value.backward()
    assert value.item() == {"rows": 2, "cos": 1}.get(metric, 0)
    assert synthetic.grad.abs().max() == 0


def test_non_contiguous_gradients():
    real = [x.transpose(0, 1) for x in tensors(0, [(3, 4, 2)])]
    synthetic = [x.transpose(0, 1) for x in tensors(1, [(3, 4, 2)])]
    for metric in METRICS:
        copied = [[x.contiguous() for x in side] for side in (real, synthetic)]
        expected = gradient_distance(*copied, metric)
        assert gradient_distance(real, synthetic, metric).item() == pytest.approx(expected.item())


def test_wrong_distances():
    a, b = tensors(0), tensors(1)
    with pytest.raises(ValueError, match="unknown metric 'ours'; choose one of rows, cos, mse"):
        gradient_distance(a, b, "ours")
    with pytest.raises(ValueError, match="expected those of the same parameters, and at least one"):
        gradient_distance([], [], "mse")
    for other in (b[:2], b[::-1]):
        with pytest.raises(ValueError, match="expected those of the same parameters"):
            gradient_distance(a, other, "mse")
    with pytest.raises(ValueError, match="all gradients are 1-D"):
        gradient_distance([a[1]], [b[1]], "rows")
