"""Perturbed networks: directions by hand, and what stays as it was."""

import math

import pytest
import torch
from torch import nn

from hashfast.condense.perturbation import perturb, rescaled

NORMS = ["filter", "layer", "weight"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)
    ).double()


def moves(norm="filter", directions=1, magnitude=(0.01, 0.09), seed=0):
    """The networks before and after, as lists of their tensors."""
    model = network()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    perturb(model, magnitude, norm, directions, seeded(seed))
    return before, list(model.state_dict().values())


def test_rescaled_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    direction = torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(
        rescaled(direction, weight, "filter"), torch.tensor([[5.0, 0], [half, half]])
    )
    factor = math.sqrt(26) / 3
    torch.testing.assert_close(rescaled(direction, weight, "layer"), direction * factor)
    assert rescaled(direction, weight, "weight").tolist() == [[3, 0], [0, 2]]
    for norm in NORMS:
        assert rescaled(direction[0], weight[0], norm).tolist() == [0, 0]


def test_a_direction_of_zeros_and_a_weight_of_zeros():
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    for norm in NORMS:
        assert torch.equal(rescaled(zeros, ones, norm), zeros)
        assert torch.equal(rescaled(ones, zeros, norm), zeros)


def test_filters_move_by_one_share_of_their_norm():
    shares = set()
    for seed in range(20):
        before, after = moves(seed=seed)
        found = [
            ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))
            for a, b in zip(after, before, strict=True)
            if b.dim() > 1
        ]
        found = torch.cat(found)  # the filters of the convolution, the rows of the linear layer
        assert len(found) == 9
        assert 0.01 <= found[0] <= 0.09
        torch.testing.assert_close(found, found[:1].expand(9))
        shares.add(round(found[0].item(), 6))
    assert len(shares) == 20
    assert min(shares) < 0.02
    assert max(shares) > 0.08


def test_layers_move_by_one_share_of_their_norm():
    before, after = moves("layer", magnitude=(0.5, 0.5))
    for a, b in zip(after, before, strict=True):
        if b.dim() > 1:
            torch.testing.assert_close((a - b).norm(), 0.5 * b.norm())
            per_filter = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
            assert per_filter.std() > 1e-3


def test_weights_move_by_normal_shares_of_themselves():
    before, after = moves("weight", magnitude=(0.5, 0.5))
    shares = torch.cat(
        [((a - b) / b).flatten() for a, b in zip(after, before, strict=True) if b.dim() > 1]
    )
    n = len(shares)
    assert abs(shares.std() - 0.5) < 5 * 0.5 / math.sqrt(2 * n)
    assert abs(shares.mean()) < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("directions", [1, 2])
def test_biases_norms_and_buffers_stay(norm, directions):
    before, after = moves(norm, directions)
    for a, b in zip(after, before, strict=True):
        assert torch.equal(a, b) == (b.dim() < 2)


def test_the_sign_is_random():
    signs = set()
    for seed in range(30):
        generator = seeded(seed)
        torch.rand(2, 1, generator=generator)  # size and sign are drawn first
        direction = torch.randn(5, 16, generator=generator)
        model = nn.Linear(16, 5)
        before = model.weight.detach().clone()
        perturb(model, generator=seeded(seed))
        cosine = torch.cosine_similarity(model.weight.detach() - before, direction)
        assert (cosine.abs() > 0.999).all()
        assert cosine.sign().unique().numel() == 1
        signs.add(int(cosine.sign()[0]))
    assert signs == {-1, 1}


def test_two_directions_add():
    model = nn.Linear(16, 5)
    before = model.weight.detach().clone()
    expected = before.clone()
    perturb(model, (0.05, 0.05), directions=2, generator=seeded())
    generator = seeded()
    signs = torch.where(torch.rand(2, 2, generator=generator)[1] < 0.5, -1, 1)
    for sign in signs:
        direction = torch.randn(5, 16, generator=generator)
        expected += sign * 0.05 * rescaled(direction, before)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_repeatable_by_generator():
    one, same, other = moves(seed=1)[1], moves(seed=1)[1], moves(seed=2)[1]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    torch.manual_seed(3)
    a, b = network(), network()
    torch.manual_seed(3)
    perturb(a)
    torch.manual_seed(3)
    perturb(b)
    assert torch.equal(a[0].weight, b[0].weight)


def test_no_gradient_and_the_same_tensors():
    model = network()
    parameters = list(model.parameters())
    perturb(model, generator=seeded())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in parameters)
    half = network().bfloat16()
    perturb(half, generator=seeded())
    assert half[0].weight.dtype == torch.bfloat16


def test_wrong_arguments():
    with pytest.raises(ValueError, match="expected one of filter, layer, weight"):
        perturb(network(), norm="dfilter")
    with pytest.raises(ValueError, match="expected one of filter, layer, weight"):
        rescaled(torch.ones(2, 2), torch.ones(2, 2), "filters")
    for magnitude in ((0.09, 0.01), (-0.1, 0.1)):
        with pytest.raises(ValueError, match="expected \\(low, high\\) with 0 <= low <= high"):
            perturb(network(), magnitude)
    with pytest.raises(ValueError, match="directions is 0; expected at least 1"):
        perturb(network(), directions=0)
