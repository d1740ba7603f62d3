"""Class centres: distances, balance, determinism, limits."""

import itertools

import pytest
import torch

from hashfast.losses import centres


def _distances(codes):
    rows = codes.tolist()
    return [
        sum(a != b for a, b in zip(one, other, strict=True))
        for one, other in itertools.combinations(rows, 2)
    ]


@pytest.mark.parametrize(("num_classes", "bits"), [(2, 1), (4, 4), (8, 4), (20, 16), (32, 16)])
def test_hadamard_rows_differ_in_half_or_all_bits(num_classes, bits):
    codes = centres.hash_centres(num_classes, bits)
    assert codes.shape == (num_classes, bits)
    assert codes.dtype == torch.int8
    assert set(_distances(codes)) <= {bits // 2, bits} | ({1} if bits == 1 else set())


def test_hadamard_matrix_of_order_4():
    expected = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1], [-1, -1, -1, -1]]
    assert centres.hadamard_centres(5, 4).tolist() == expected


@pytest.mark.parametrize(("num_classes", "bits"), [(9, 4), (3, 6), (1, 0)])
def test_hadamard_needs_a_power_of_two_and_room(num_classes, bits):
    with pytest.raises(ValueError, match="do not exist"):
        centres.hadamard_centres(num_classes, bits)


@pytest.mark.parametrize(
    ("num_classes", "bits", "smallest"),
    [(2, 12, 12), (10, 12, 6), (30, 13, 4), (100, 48, 18), (150, 64, 24), (1, 5, 0), (70, 8, 2)],
)
def test_separated_centres_are_balanced_and_far_apart(num_classes, bits, smallest):
    codes = centres.separated_centres(num_classes, bits)
    assert codes.shape == (num_classes, bits)
    assert codes.dtype == torch.int8
    assert codes.abs().eq(1).all()
    assert codes.sum(1, dtype=torch.int64).abs().max() == bits % 2
    found = _distances(codes)
    assert min(found, default=smallest) >= smallest
    random = _distances(centres.bernoulli_codebook(num_classes, bits))
    assert min(found, default=0) >= min(random, default=0)


@pytest.mark.parametrize(("num_classes", "bits"), [(4, 2), (16, 4), (1000, 10), (3000, 17)])
def test_separated_centres_are_distinct_when_codes_are_scarce(num_classes, bits):
    codes = centres.separated_centres(num_classes, bits)
    assert len(set(map(tuple, codes.tolist()))) == num_classes


def test_unbalanced_codes_come_last():
    # 4 bits have 6 balanced codes and 8 with one bit too many: 10 classes need four of those.
    imbalance = centres.separated_centres(10, 4).sum(1).abs().tolist()
    assert sorted(imbalance) == [0] * 6 + [2] * 4


def test_many_classes_are_distinct_without_pairwise_check(monkeypatch):
    monkeypatch.setattr(centres, "_MAX_SEPARATED", 100)
    codes = centres.separated_centres(2000, 24)
    assert codes.shape == (2000, 24)
    assert len(set(map(tuple, codes.tolist()))) == 2000


def test_more_classes_than_codes():
    with pytest.raises(ValueError, match="use at least 5 bits"):
        centres.separated_centres(17, 4)


@pytest.mark.parametrize("make", [centres.separated_centres, centres.bernoulli_codebook])
def test_centres_depend_on_the_seed_alone(make):
    state = torch.get_rng_state()
    first = make(50, 24, 3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, make(50, 24, 3))
    assert not torch.equal(first, make(50, 24, 4))


def test_default_device_and_dtype_do_not_matter():
    expected = centres.separated_centres(20, 12), centres.hash_centres(8, 8)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = centres.separated_centres(20, 12), centres.hash_centres(8, 8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_bernoulli_codebook_is_fair():
    codes = centres.bernoulli_codebook(1000, 64)
    assert codes.dtype == torch.int8
    assert codes.abs().eq(1).all()
    assert abs(codes.double().mean()) < 0.02


def test_five_thousand_classes():
    codes = centres.separated_centres(5_000, 48).float()
    some = torch.arange(0, 5_000, 5)
    products = codes[some] @ codes.T
    products[torch.arange(1000), some] = -48
    assert (48 - products.amax()) / 2 >= 12  # random codes reach 5
