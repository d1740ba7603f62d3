"""Training-free projections against their definitions, on sklearn's digits."""

import itertools
import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn

from hashfast.hashing.projections import ITQ, RandomProjection

KINDS = [RandomProjection, ITQ]


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.from_numpy(load_digits().data).float() / 16


def quantisation_error(outputs: torch.Tensor) -> float:
    codes = torch.where(outputs > 0, 1.0, -1.0)
    return (codes - outputs).double().square().sum().item()


def test_itq_never_raises_the_quantisation_error(digits):
    errors = [
        quantisation_error(ITQ(16, iterations=n, seed=3).fit(digits)(digits))
        for n in (0, 1, 2, 3, 5, 10, 50)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    pca = torch.from_numpy(PCA(16).fit_transform(digits.numpy()))
    assert errors[-1] < quantisation_error(pca)


def test_itq_rotates_the_principal_subspace(digits):
    matrix = ITQ(16).fit(digits).matrix.double()
    identity = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(matrix.T @ matrix, identity, rtol=0, atol=1e-5)
    components = torch.from_numpy(PCA(16, svd_solver="full").fit(digits.double()).components_)
    torch.testing.assert_close(matrix @ matrix.T, components.T @ components, rtol=0, atol=1e-4)


def test_itq_finds_a_rotated_square_in_one_iteration():
    # Every corner lies in a quadrant of its own, so the signs are right and Procrustes is exact.
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    angle = 0.5
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    features = corners @ rotation + torch.tensor([3.0, -2.0])
    outputs = ITQ(2, iterations=1).fit(features)(features)
    torch.testing.assert_close(outputs.abs(), torch.ones(4, 2), rtol=0, atol=1e-5)


def test_random_projection_keeps_angles():
    # Charikar: two vectors at angle theta differ in a share theta / pi of the bits.
    for angle in (0.3, 1.0, 2.0):
        pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
        features = torch.cat([pair, -pair])
        outputs = RandomProjection(20_000, seed=1).fit(features)(pair)
        differing = (outputs[0].sign() != outputs[1].sign()).double().mean().item()
        assert differing == pytest.approx(angle / math.pi, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_centred_float32_and_reproducible(kind, digits):
    projection = kind(32, seed=5).fit(digits)
    outputs = projection(digits)
    assert outputs.shape == (1797, 32)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.mean(0), torch.zeros(32), rtol=0, atol=1e-4)
    expected = (digits - digits.mean(0)) @ projection.matrix
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
    assert torch.equal(kind(32, seed=5).fit(digits)(digits), outputs)
    assert not torch.allclose(kind(32, seed=6).fit(digits)(digits), outputs)
    assert torch.equal(kind(32, seed=5).fit(digits.numpy())(digits.numpy()), outputs)
    assert torch.equal(kind(32, seed=5).fit(digits.double())(digits.double()), outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_leaves_the_global_generator_alone(kind, digits):
    before = torch.random.get_rng_state()
    kind(8).fit(digits)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_goes_into_an_unfitted_module(kind, digits):
    fitted = nn.Sequential(kind(16).fit(digits))
    state = fitted.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "0.mean": (64,),
        "0.matrix": (64, 16),
    }
    other = nn.Sequential(kind(16))
    other.load_state_dict(state)
    assert torch.equal(other(digits), fitted(digits))
    assert other[0].matrix.data_ptr() != fitted[0].matrix.data_ptr()
    kind(16).fit(digits[:, :40]).load_state_dict(fitted[0].state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        nn.Sequential(kind(8)).load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_features(kind, digits):
    with pytest.raises(RuntimeError, match="is not fitted: call fit"):
        kind(8)(digits)
    with pytest.raises(ValueError, match="at least 1 bit, got 0"):
        kind(0)
    for features in (digits[0], digits[:0]):
        with pytest.raises(ValueError, match=r"expected \[n, F\]"):
            kind(8).fit(features)
    broken = digits[:20].clone()
    broken[7, 3] = float("nan")
    with pytest.raises(ValueError, match="1 rows, the first is row 7"):
        kind(8).fit(broken)
    with pytest.raises(ValueError, match=r"it was fitted on \[n, 64\]"):
        kind(8).fit(digits)(digits[:, :10])


def test_itq_needs_as_many_features_and_rows_as_bits(digits):
    with pytest.raises(ValueError, match="use at most 64 bits or RandomProjection"):
        ITQ(65).fit(digits)
    with pytest.raises(ValueError, match=r"10 rows of 64 features.*at most 10 bits"):
        ITQ(16).fit(digits[:10])
    assert RandomProjection(128).fit(digits[:1])(digits).shape == (1797, 128)
