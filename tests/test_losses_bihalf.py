"""Bi-half: its codes, its value and its gradient, from their definitions."""

import pytest
import torch
from losses_by_hand import BITS, batch
from test_losses_greedyhash_unsupervised import gap, made

from hashfast.losses.bihalf import BiHalf, half_codes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_the_larger_half_of_each_bit_is_positive(n):
    outputs = batch(n=n)[0]
    codes = half_codes(outputs)
    for column, found in zip(outputs.T.tolist(), codes.T.tolist(), strict=True):
        largest = sorted(range(n), key=lambda i: -column[i])[: n // 2]
        assert found == [1.0 if i in largest else -1.0 for i in range(n)]
    assert not codes.requires_grad


def test_of_equal_values_the_first_rows_are_positive():
    outputs = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    expected = [[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]]
    assert half_codes(outputs).tolist() == expected
    assert half_codes(torch.zeros(101, 3)).sum(1).tolist() == [3.0] * 50 + [-3.0] * 51


@pytest.mark.parametrize("n", [2, 7, 8])
def test_value(n):
    outputs, features = made(n)
    criterion = BiHalf(BITS)
    loss = criterion(outputs, features=features)
    expected = gap(half_codes(outputs).tolist(), features.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    pull = 3 * (outputs - half_codes(outputs)).square().mean()
    assert criterion.components["pull"].item() == pytest.approx(pull.item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [6.0, 0.0, 0.5])
def test_gradient_is_that_of_the_codes_and_a_pull(gamma):
    outputs, features = made(8)
    loss = BiHalf(BITS, gamma=gamma)(outputs, features=features)
    (found,) = torch.autograd.grad(loss, outputs)
    codes = half_codes(outputs).requires_grad_()
    cosines = [torch.cosine_similarity(x[:4], x[4:]) for x in (codes, features)]
    (through,) = torch.autograd.grad((cosines[0] - cosines[1]).square().mean(), codes)
    pull = gamma * (outputs - codes).detach() / outputs.numel()
    assert torch.allclose(found, through + pull, rtol=1e-9, atol=1e-15)


def test_the_whole_gradient_scales_with_the_loss():
    outputs, features = made(6)
    criterion = BiHalf(BITS)
    once, scaled = (
        torch.autograd.grad(factor * criterion(outputs, features=features), outputs)[0]
        for factor in (1, 1024)
    )
    assert torch.equal(scaled, 1024 * once)


def test_a_batch_of_one_has_no_half():
    outputs, features = made(1)
    with pytest.warns(UserWarning, match="undefined for a batch of 1"):
        loss = BiHalf(BITS)(outputs, features=features)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.abs().max() == 0


def test_nan_is_not_hidden():
    outputs, features = made(4)
    broken = outputs.detach().clone()
    broken[1, 2] = torch.nan
    assert half_codes(broken).isnan().nonzero().tolist() == [[1, 2]]
    assert BiHalf(BITS)(broken, features=features).isnan()


def test_wrong_options():
    with pytest.raises(ValueError, match="gamma is -1"):
        BiHalf(BITS, gamma=-1)
