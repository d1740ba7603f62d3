"""Known answers of the three loss operations, against literal formulas."""

import math

import pytest
import torch

from hashfast import ops
from hashfast.ops._philox import binomial_half, philox


def words(*values):
    return tuple(torch.tensor(v) for v in values)


def test_philox_known_answers():
    """The vectors published with Random123 (kat_vectors, philox4x32 10 rounds)."""
    full = 0xFFFFFFFF
    pi = words(0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    cases = [
        (words(0, 0, 0, 0), words(0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (words(*[full] * 4), words(full, full), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (pi, words(0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for counter, key, expected in cases:
        assert tuple(int(w) for w in philox(counter, key)) == expected


def test_binomial_has_the_right_mean_and_variance():
    for n in (1, 33, 200):
        counts = binomial_half(torch.tensor(-5), n, 20_000).double()
        assert abs(counts.mean() - n / 2) < 4 * math.sqrt(n / 4 / 20_000)
        assert abs(counts.var() / (n / 4) - 1) < 0.06
        assert counts.min() >= 0
        assert counts.max() <= n


def literal_wasserstein(column, negatives):
    """Sort the column and the target, pair them, average the squared differences."""
    target = [-1.0] * negatives + [1.0] * (len(column) - negatives)
    pairs = zip(sorted(column), sorted(target), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) / len(column)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 130])
def test_wasserstein_is_that_of_sorted_samples(n):
    outputs = torch.randn(n, 9, dtype=torch.float64)
    negatives = torch.randint(0, n + 1, (9,), dtype=torch.int32)
    distances, target = ops.binary_wasserstein(outputs, negatives=negatives)
    for j in range(9):
        expected = literal_wasserstein(outputs[:, j].tolist(), int(negatives[j]))
        assert abs(distances[j] - expected) < 1e-12
        assert int((target[:, j] == -1).sum()) == negatives[j]


def test_wasserstein_known_answers():
    ideal = torch.tensor([[1.0], [-1], [1], [-1]], dtype=torch.float64)
    assert ops.binary_wasserstein(ideal)[0] == 0
    for shift in (0.25, -3.0):
        # Shifting every sample by s moves W2^2 by s^2.
        assert ops.binary_wasserstein(ideal + shift)[0] == shift**2
    odd = torch.tensor([[5.0], [-5.0], [0.5]])
    distances, target = ops.binary_wasserstein(odd)
    assert target[:, 0].tolist() == [1, -1, 0]
    assert distances[0] == pytest.approx((16 + 16 + 0.25) / 3)


def test_wasserstein_ties_go_by_row_and_nan_last():
    outputs = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, torch.nan], [-0.0, -torch.inf]])
    negatives = torch.tensor([2, 2], dtype=torch.int32)
    target = ops.binary_wasserstein(outputs, negatives=negatives)[1]
    assert target[:, 0].tolist() == [-1, -1, 1, 1]
    assert target[:, 1].tolist() == [-1, 1, 1, -1]


def test_wasserstein_seed_reproduces():
    outputs = torch.randn(40, 12)
    seed = torch.tensor(77)
    first, again = (ops.binary_wasserstein(outputs, seed=seed)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal((first == -1).sum(0).int(), binomial_half(seed, 40, 12))
    assert not torch.equal(first, ops.binary_wasserstein(outputs, seed=seed + 1)[1])


def literal_class_mmd(real, synthetic, real_labels, synthetic_labels, num_classes):
    total = 0.0
    for c in range(num_classes):
        ours, theirs = real[real_labels == c], synthetic[synthetic_labels == c]
        if len(ours) and len(theirs):
            total = total + (ours.mean(0) - theirs.mean(0)).square().sum()
    return total


def test_class_mmd_is_the_class_loop():
    real = torch.randn(60, 7, dtype=torch.float64, requires_grad=True)
    synthetic = torch.randn(20, 7, dtype=torch.float64, requires_grad=True)
    real_labels = torch.randint(-1, 6, (60,))
    synthetic_labels = torch.randint(0, 5, (20,))
    args = real, synthetic, real_labels, synthetic_labels, 6
    torch.testing.assert_close(ops.class_mmd(*args), literal_class_mmd(*args))
    ours = torch.autograd.grad(ops.class_mmd(*args), (real, synthetic))
    literal = torch.autograd.grad(literal_class_mmd(*args), (real, synthetic))
    for a, b in zip(ours, literal, strict=True):
        torch.testing.assert_close(a, b)
    assert ours[0][real_labels == -1].eq(0).all()


def test_class_mmd_does_not_depend_on_row_order():
    real, labels = torch.randn(50, 4, dtype=torch.float64), torch.randint(0, 3, (50,))
    synthetic, ids = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3
    mixed = torch.randperm(50)
    torch.testing.assert_close(
        ops.class_mmd(real[mixed], synthetic, labels[mixed], ids, 3),
        ops.class_mmd(real, synthetic, labels, ids, 3),
    )
    assert ops.class_mmd(real, real, labels, labels, 3) == 0


def test_class_mmd_takes_narrow_labels_and_ignores_absent_classes():
    real, synthetic = torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.tensor([100, 120, 126, 127, 127, 3])
    expected = ops.class_mmd(real, synthetic, labels, labels, 128)
    assert ops.class_mmd(real, synthetic, labels.to(torch.int8), labels.char(), 128) == expected
    real = torch.tensor([[1.0], [torch.inf]], requires_grad=True)
    loss = ops.class_mmd(real, torch.tensor([[2.0]]), torch.tensor([0, 1]), torch.tensor([0]), 2)
    assert loss == 1
    loss.backward()
    assert real.grad.tolist() == [[-2], [0]]


def test_masked_contrastive_is_the_literal_sum():
    anchors = torch.randn(6, 5, dtype=torch.float64)
    keys = torch.randn(8, 5, dtype=torch.float64)
    anchor_groups, key_groups = torch.arange(6) % 3, torch.arange(8) % 4
    excluded = torch.tensor([[1, -1]] * 6)
    got = ops.masked_contrastive(anchors, keys, 0.3, anchor_groups, key_groups, excluded)
    for i in range(6):
        total = 0.0
        for r in range(8):
            if anchor_groups[i] == key_groups[r] or r == 1:
                continue
            cosine = anchors[i] @ keys[r] / (anchors[i].norm() * keys[r].norm())
            total += math.exp(cosine / 0.3)
        assert abs(got[i] - math.log(total)) < 1e-12


def test_masked_contrastive_edges():
    anchors = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    keys = torch.eye(2, dtype=torch.float64)
    values = ops.masked_contrastive(anchors, keys, 0.5)
    # A zero row has cosine 0 with both keys.
    assert values[0].item() == pytest.approx(math.log(2))
    values.sum().backward()
    assert anchors.grad[0].tolist() == [0, 0]
    anchors.grad = None
    same = torch.zeros(2, dtype=torch.int64)
    nothing = ops.masked_contrastive(anchors, keys, 0.5, same, same)
    assert nothing.tolist() == [-math.inf, -math.inf]
    torch.logaddexp(nothing, torch.zeros(2)).sum().backward()
    assert anchors.grad.eq(0).all()


def test_bad_shapes_are_named():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"expected \[n, bits\]"):
        ops.binary_wasserstein(x[0])
    with pytest.raises(ValueError, match="not both"):
        ops.binary_wasserstein(x, torch.zeros(3, dtype=torch.int32), torch.tensor(1))
    for negatives in (torch.zeros(4, dtype=torch.int32), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"one count per bit, int32 \[3\]"):
            ops.binary_wasserstein(x, negatives)
    with pytest.raises(ValueError, match="expected one int64"):
        ops.binary_wasserstein(x, seed=torch.tensor(1.0))
    ids = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"real features are \(4, 3\) and labels \(3,\)"):
        ops.class_mmd(x, x, ids[:3], ids, 2)
    with pytest.raises(ValueError, match=r"real features are \(4, 3\) and synthetic ones \(4, 2\)"):
        ops.class_mmd(x, x[:, :2], ids, ids, 2)
    with pytest.raises(TypeError, match="class ids are integers"):
        ops.class_mmd(x, x, ids, ids.float(), 2)
    with pytest.raises(TypeError, match="convert one of them"):
        ops.class_mmd(x, x.double(), ids, ids, 2)
    with pytest.raises(ValueError, match="temperature is 0"):
        ops.masked_contrastive(x, x, 0)
    with pytest.raises(ValueError, match="both anchor_groups and key_groups"):
        ops.masked_contrastive(x, x, 1, anchor_groups=torch.zeros(4))
    with pytest.raises(ValueError, match=r"expected \[4, E\]"):
        ops.masked_contrastive(x, x, 1, excluded=torch.zeros(3, 1))
