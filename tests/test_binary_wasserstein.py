"""binary_wasserstein where selection is hard: ties, NaN, infinities, wide ranges, every layout."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast import _ext, ops
from hashfast.ops import OPS

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FORWARD, BACKWARD = OPS["binary_wasserstein"], OPS["binary_wasserstein_backward"]

KINDS = {
    "normal": lambda x: x,
    "ties": lambda x: (2 * x).round() / 2,
    "signs": lambda x: x.sign(),
    "zeros": lambda x: 0 * x,  # of both signs
    "nan": lambda x: x.where(x.abs() > 0.2, torch.nan),
    "infinite": lambda x: x.where(x.abs() < 1, x.sign() * torch.inf),
    "wide": lambda x: x * 10.0 ** (60 * x.cos()).round(),
    "tiny": lambda x: x * 1e-40,
    "outlier": lambda x: x.where(torch.arange(len(x))[:, None] > 0, 1e30),
    "sorted": lambda x: x.sort(0).values,
}
LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.t().contiguous().t(),
    "part": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "strided": lambda x: x.repeat_interleave(2, 0).repeat_interleave(3, 1)[::2, ::3],
    "expanded": lambda x: x[:, :1].expand(-1, x.shape[1]),
}


def drawn(n, bits, dtype, kind, layout, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = KINDS[kind](torch.randn(n, bits, generator=generator, dtype=torch.float64))
    return LAYOUTS[layout](outputs.to(dtype))


def agrees(outputs, negatives, seed, mean):
    """Targets are the reference's; distances those of float64 with the same target."""
    distances, target = FORWARD(outputs, negatives, seed, mean)
    plain, expected = FORWARD.reference(outputs, negatives, seed, mean)
    assert torch.equal(target, expected)
    assert distances.dtype == plain.dtype
    assert distances.shape == plain.shape
    exact = FORWARD.reference(outputs.double(), negatives, seed, mean)[0]
    assert torch.equal(distances.isnan(), exact.isnan())
    limited = exact.abs() < 1e37
    tolerance = 1e-12 if outputs.dtype == torch.float64 else 1e-6
    gap = (distances.double() - exact)[limited].abs()
    assert (gap <= tolerance * (1 + exact[limited])).all()
    return target


@settings(max_examples=80, deadline=None)
@given(
    n=st.sampled_from([0, 1, 2, 3, 31, 32, 33, 64, 127, 130, 257, 1030]),
    bits=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 33]),
    dtype=st.sampled_from(FLOATING),
    kind=st.sampled_from(sorted(KINDS)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    mode=st.sampled_from(["balanced", "given", "extreme", "seeded"]),
    mean=st.booleans(),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_agrees_with_the_reference(n, bits, dtype, kind, layout, mode, mean, seed):
    outputs = drawn(n, bits, dtype, kind, layout, seed % 2**32)
    generator = torch.Generator().manual_seed(seed % 2**32)
    counts = torch.randint(0, n + 1, (bits,), generator=generator, dtype=torch.int32)
    if mode == "extreme":
        counts = counts % 2 * n
    negatives = counts if mode in ("given", "extreme") else None
    target = agrees(outputs, negatives, torch.tensor(seed) if mode == "seeded" else None, mean)
    grad = torch.randn((bits,), generator=generator).to(torch.promote_types(dtype, torch.float32))
    grad = grad[0] if mean else grad
    got = BACKWARD(grad, outputs, target)
    # In the precision of the accumulator, then rounded once.
    expected = BACKWARD.reference(grad, outputs.to(grad.dtype), target).to(dtype)
    torch.testing.assert_close(
        got, expected, equal_nan=True, rtol=2 * torch.finfo(dtype).eps, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_value_of_a_half_type_is_read_and_rounded(dtype):
    """All 65,536 patterns; the gradient with target -1 and scale 2^e covers every rounding."""
    outputs = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).reshape(-1, 32)
    agrees(outputs, None, None, False)
    target = torch.full(outputs.shape, -1, dtype=torch.int8)
    for scale in (1.0, 2.0**-9, 3e-5):
        grad = torch.full((32,), scale * len(outputs) / 2)
        got = BACKWARD(grad, outputs, target)
        expected = (grad * 2 / len(outputs) * (outputs.float() + 1)).to(dtype)
        torch.testing.assert_close(got, expected, equal_nan=True, rtol=0, atol=0)


def test_largest_and_smallest_counts():
    outputs = torch.tensor([[torch.nan, 1.0], [torch.inf, -torch.inf], [-torch.inf, torch.nan]])
    for k in range(4):
        negatives = torch.tensor([k, 3 - k], dtype=torch.int32)
        target = ops.binary_wasserstein(outputs, negatives)[1]
        assert (target == -1).sum(0).tolist() == [k, 3 - k]
    # Counts outside of 0 .. n are taken to the nearest of them.
    target = FORWARD(outputs, torch.tensor([-5, 9], dtype=torch.int32), None, False)[1]
    assert target.tolist() == [[1, -1]] * 3


def test_mean_is_the_mean_and_has_its_gradient():
    outputs = torch.randn(33, 10, dtype=torch.float64, requires_grad=True)
    seed = torch.tensor(3)
    distances, target = ops.binary_wasserstein(outputs, seed=seed)
    mean, same = ops.binary_wasserstein(outputs, seed=seed, mean=True)
    assert torch.equal(target, same)
    assert not target.requires_grad
    torch.testing.assert_close(mean, distances.mean())
    (one,) = torch.autograd.grad(mean, outputs, create_graph=True)
    torch.testing.assert_close(one, 2 * (outputs - target) / outputs.numel())
    (second,) = torch.autograd.grad(one.square().sum(), outputs)
    torch.testing.assert_close(second, 2 * one * 2 / outputs.numel())


def test_threads_change_nothing():
    outputs, before = torch.randn(3000, 70), torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        distances, target = ops.binary_wasserstein(outputs)
        found.append((distances, target, BACKWARD(torch.ones(70), outputs, target)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_wrong_types_are_named():
    x, target = torch.randn(4, 3), torch.ones(4, 3, dtype=torch.int8)
    if "_C" in _ext.MISSING:
        pytest.skip(_ext.MISSING["_C"])
    with pytest.raises(RuntimeError, match="must be float64, float32, float16 or bfloat16"):
        ops.binary_wasserstein(torch.ones(4, 3, dtype=torch.int32))
    with pytest.raises(RuntimeError, match="target is int8 alike"):
        BACKWARD(torch.ones(3), x, target[:2])
    with pytest.raises(RuntimeError, match=r"grad must be \[3\] or a scalar, in float32"):
        BACKWARD(torch.ones(3, dtype=torch.float64), x, target)


LEVEL = """
import sys
sys.path.insert(0, {tests!r})
import test_binary_wasserstein as tests
tests.test_agrees_with_the_reference()
for dtype in tests.FLOATING[2:]:
    tests.test_every_value_of_a_half_type_is_read_and_rounded(dtype)
"""


@pytest.mark.skipif("_C" in _ext.MISSING, reason="no compiled kernels")
@pytest.mark.parametrize("level", ["portable", "avx2"])
def test_lower_instruction_sets(level):
    done = subprocess.run(
        [sys.executable, "-c", LEVEL.format(tests=os.path.dirname(__file__))],
        env=os.environ | {"HASHFAST_CPU": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
