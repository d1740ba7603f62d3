"""Exact transport, HSWD to the batch's own signs, and the two ways to differentiate SWD."""

import itertools

import pytest
import torch

from hashfast.losses import HSWD, quantization
from hashfast.losses.quantization import sliced_wasserstein
from hashfast.losses.transport import OT, transport_cost


def test_transport_is_the_best_of_all_pairings():
    outputs, codes = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3).sign().double()
    best = min(
        sum(float((outputs[i] - codes[j]).square().sum()) for i, j in enumerate(order))
        for order in itertools.permutations(range(5))
    )
    assert transport_cost(outputs, codes).item() == pytest.approx(best / (5 * 3), rel=1e-12)


def test_transport_does_not_assume_codes_of_one_length():
    outputs = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert transport_cost(outputs, torch.tensor([[9.0], [0.5]]).double()).item() == (64 + 0.25) / 2


def test_transport_gradient():
    outputs = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    codes = torch.randn(6, 4).sign().double()
    assert torch.autograd.gradcheck(lambda u: transport_cost(u, codes), outputs)


def test_transport_known_answers():
    distance = OT(8)
    assert distance(torch.zeros(7, 8)).item() == 1
    assert distance(torch.zeros(7, 8, dtype=torch.float16)).dtype == torch.float32
    # One bit: the least cost pairs sorted values, as HSWD does.
    outputs = torch.randn(20, 1, dtype=torch.float64)
    torch.manual_seed(4)
    found = OT(1)(outputs).item()
    torch.manual_seed(4)
    codes = (2 * torch.randint(2, outputs.shape) - 1).double()
    expected = (outputs.sort(0).values - codes.sort(0).values).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_transport_follows_manual_seed_and_leaves_autocast_alone():
    outputs, found = torch.randn(9, 5), []
    for seed, autocast in ((0, False), (0, True), (1, False)):
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(OT(5)(outputs).item())
    assert found[0] == found[1] != found[2]


def test_transport_of_empty_and_bad_batches():
    empty = torch.zeros(0, 4, requires_grad=True)
    OT(4)(empty).backward()
    assert empty.grad.shape == (0, 4)
    with pytest.raises(ValueError, match=r"expected \[n, 4\]"):
        OT(4)(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="NaN or infinity"):
        OT(4)(torch.full((3, 4), torch.nan))
    assert "bits=4" in repr(OT(4))


def test_hswd_to_signs_sorts_each_column_and_its_signs():
    outputs = torch.randn(9, 3, dtype=torch.float64)
    outputs[2, 1] = 0
    outputs.requires_grad_()
    loss = HSWD(3, target="signs")(outputs)
    expected = 0.0
    for column in outputs.T.tolist():
        signs = sorted((u > 0) - (u < 0) for u in column)
        expected += sum((u - s) ** 2 for u, s in zip(sorted(column), signs, strict=True))
    assert loss.item() == pytest.approx(expected / 27, rel=1e-12)
    loss.backward()
    torch.testing.assert_close(outputs.grad, 2 * (outputs - outputs.sign()).detach() / 27)
    assert HSWD(3, target="signs", root=True)(outputs).item() == pytest.approx(
        (expected / 27) ** 0.5
    )


def test_hswd_to_signs_of_empty_and_half_batches():
    assert HSWD(3, target="signs")(torch.zeros(0, 3)).item() == 0
    with torch.autocast("cpu", torch.bfloat16):
        half = HSWD(3, target="signs")(torch.full((2, 3), 0.5, dtype=torch.float16))
    assert half.item() == 0.25
    assert half.dtype == torch.float32


@pytest.mark.parametrize("limit", [2**20, 30])
def test_sliced_wasserstein_differentiates_alike_in_both_ways(limit, monkeypatch):
    """With a target that asks for a gradient it takes the way through autograd."""
    monkeypatch.setattr(quantization, "_PROJECTED_VALUES", limit)
    outputs, target = (torch.randn(7, 4, dtype=torch.float64) for _ in range(2))
    directions = torch.randn(6, 4, dtype=torch.float64)
    found = []
    for both in (False, True):
        leaf = outputs.clone().requires_grad_()
        loss = sliced_wasserstein(leaf, target.clone().requires_grad_(both), directions)
        (grad,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.pow(3).sum(), leaf)
        found.append((loss.detach(), grad.detach(), second))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_sliced_wasserstein_differentiates_in_target_and_directions():
    arguments = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in "abc"]
    assert torch.autograd.gradcheck(sliced_wasserstein, arguments)
