"""class_mmd against the loop over classes: gradients, layouts, absent classes, threads."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hashfast import _ext
from hashfast.losses.class_mean_mmd import ClassMeanMMD
from hashfast.ops import OPS
from hashfast.ops.class_mmd import ClassRows, class_mmd, class_rows

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FORWARD, BACKWARD, ROWS = OPS["class_mmd"], OPS["class_mean_backward"], OPS["class_rows"]

LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.t().contiguous().t(),
    "part": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "strided": lambda x: x.repeat_interleave(2, 0).repeat_interleave(3, 1)[::2, ::3],
    "expanded": lambda x: x[:1].expand(len(x), -1),
}


def class_loop(real, synthetic, real_labels, synthetic_labels, num_classes):
    total = real.new_zeros(())
    for c in range(num_classes):
        ours, theirs = real[real_labels == c], synthetic[synthetic_labels == c]
        if len(ours) and len(theirs):
            total = total + (ours.mean(0) - theirs.mean(0)).square().sum()
    return total


def drawn(n, m, d, classes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(m, d, generator=generator, dtype=torch.float64).to(dtype),
        torch.randint(-1, classes + 1, (n,), generator=generator),  # some of no class
        torch.randint(-1, classes + 1, (m,), generator=generator),
        classes,
    )


def test_known_answer():
    real = torch.tensor([[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]], requires_grad=True)
    synthetic = torch.tensor([[1.0, 1.0], [5.0, 5.0]], requires_grad=True)
    loss = ClassMeanMMD(3)(real, synthetic, torch.tensor([2, 2, 1]), torch.tensor([2, 0]))
    assert loss == 1 + 1  # class 2: (2, 2) against (1, 1); 0 and 1 are on one side only
    loss.backward()
    assert real.grad.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert synthetic.grad.tolist() == [[-2, -2], [0, 0]]


@settings(max_examples=80, deadline=None)
@given(
    n=st.sampled_from([0, 1, 7, 8, 9, 31, 150]),
    m=st.sampled_from([0, 1, 4, 13, 40]),
    d=st.sampled_from([0, 1, 3, 8, 15, 16, 17, 70, 1024, 1041]),
    classes=st.sampled_from([1, 2, 5, 30]),
    dtype=st.sampled_from(FLOATING),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_the_loop(n, m, d, classes, dtype, layout, seed):
    real, synthetic, *labels = drawn(n, m, d, classes, dtype, seed)
    real, synthetic = LAYOUTS[layout](real), LAYOUTS[layout](synthetic)
    real.requires_grad_()
    synthetic.requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (real, synthetic)]
    loss, expected = class_mmd(real, synthetic, *labels), class_loop(*wide, *labels)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    small = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(loss.double(), expected, rtol=small, atol=small)
    if not expected.requires_grad:
        return
    got = torch.autograd.grad(3 * loss, (real, synthetic))
    truth = torch.autograd.grad(3 * expected, wide, materialize_grads=True, allow_unused=True)
    for a, b in zip(got, truth, strict=True):
        assert a.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(a.double(), b, rtol=4 * eps, atol=max(small, eps / 16))


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(-4, 9), max_size=40),
    classes=st.integers(0, 7),
    stride=st.integers(1, 2),
)
def test_rows_of_classes(labels, classes, stride):
    given_labels = torch.tensor(labels, dtype=torch.int64).repeat_interleave(stride)[::stride]
    rows, offsets = class_rows(given_labels, classes)
    for c in range(classes):
        expected = [i for i, label in enumerate(labels) if label == c]
        assert rows[offsets[c] : offsets[c + 1]].tolist() == expected
    assert sorted(rows.tolist()) == list(range(len(labels)))
    for ours, reference in zip((rows, offsets), ROWS.reference(given_labels, classes), strict=True):
        assert torch.equal(ours, reference)


@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_first_and_second_derivatives(sides):
    *features, real_labels, labels, classes = drawn(14, 7, 3, 3)
    for x, needed in zip(features, sides, strict=True):
        x.requires_grad_(needed)
    given_rows = class_rows(real_labels, classes), class_rows(labels, classes)
    for kinds in ((real_labels, labels), given_rows):

        def loss(real, synthetic, kinds=kinds):
            return class_mmd(real, synthetic, *kinds, classes)

        assert torch.autograd.gradcheck(loss, features)
        assert torch.autograd.gradgradcheck(loss, features)


def test_both_outputs_and_the_scale_have_gradients():
    *features, real_labels, labels, classes = drawn(9, 8, 2, 3)
    features = [x.requires_grad_() for x in features]
    rows = *class_rows(real_labels, classes), *class_rows(labels, classes)
    for kept in (slice(0, 1), slice(1, 2), slice(0, 2)):
        assert torch.autograd.gradcheck(lambda *x, kept=kept: FORWARD(*x, *rows)[kept], features)
        assert torch.autograd.gradgradcheck(
            lambda *x, kept=kept: FORWARD(*x, *rows)[kept], features
        )
    grad = torch.randn(classes, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(-1.3, dtype=torch.float64, requires_grad=True)

    def spread(grad, scale):
        return BACKWARD(grad, scale, *rows[:2], torch.float64)

    assert torch.autograd.gradcheck(spread, (grad, scale))
    assert torch.autograd.gradgradcheck(spread, (grad, scale))


def test_no_gradient_is_computed_that_nobody_needs(monkeypatch):
    real, synthetic, *labels = drawn(9, 8, 2, 3)
    calls = []
    call = type(BACKWARD).__call__
    monkeypatch.setattr(type(BACKWARD), "__call__", lambda op, *a: calls.append(op) or call(op, *a))
    class_mmd(real, synthetic.requires_grad_(), *labels).backward()
    assert calls.count(BACKWARD) == 1


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_class_on_one_side_counts_nothing_whatever_it_holds(bad, dtype):
    real = torch.tensor([[1.0], [bad], [bad]], dtype=dtype, requires_grad=True)
    synthetic = torch.tensor([[2.0], [bad]], dtype=dtype, requires_grad=True)
    real_labels, labels = torch.tensor([0, 1, -1]), torch.tensor([0, 5])
    loss = class_mmd(real, synthetic, real_labels, labels, 4)
    assert loss == 1
    loss.backward()
    assert real.grad.tolist() == [[-2], [0], [0]]
    assert synthetic.grad.tolist() == [[2], [0]]


def test_threads_change_nothing():
    real, synthetic, *labels = drawn(900, 300, 2100, 3, torch.float32)
    real.requires_grad_()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = class_mmd(real, synthetic, *labels)
        found.append((loss, *torch.autograd.grad(loss, real)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_narrow_labels(dtype):
    real, synthetic, real_labels, labels, _ = drawn(40, 20, 4, 127)
    real_labels, labels = real_labels.clamp(min=0), labels.clamp(min=0)
    expected = class_mmd(real, synthetic, real_labels, labels, 127)
    assert class_mmd(real, synthetic, real_labels.to(dtype), labels.to(dtype), 127) == expected


def test_compiles_whole():
    real, synthetic, *labels = drawn(30, 12, 5, 4, torch.float32)
    synthetic.requires_grad_()
    module = ClassMeanMMD(4)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    rows = [class_rows(x, 4) for x in labels[:2]]
    for kinds in (labels[:2], rows):
        loss, expected = compiled(real, synthetic, *kinds), module(real, synthetic, *kinds)
        torch.testing.assert_close(loss, expected)
        ours, plain = (torch.autograd.grad(x, synthetic)[0] for x in (loss, expected))
        torch.testing.assert_close(ours, plain)


def test_wrong_inputs_are_named():
    x, ids = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"rows \(4,\) and offsets \(4,\); expected \[4\] and \[3"):
        class_mmd(x, x, class_rows(ids, 3), ids, 2)
    with pytest.raises(ValueError, match=r"labels are \(4, 1\) and num_classes is 2"):
        class_rows(ids[:, None], 2)
    with pytest.raises(ValueError, match="num_classes is -1"):
        class_rows(ids, -1)
    with pytest.raises(TypeError, match=r"labels are torch.bool; class ids are integers"):
        class_rows(ids.bool(), 2)
    with pytest.raises(ValueError, match="num_classes is 0; it must be at least 1"):
        ClassMeanMMD(0)
    assert "num_classes=3" in repr(ClassMeanMMD(3))
    if "_C" in _ext.MISSING:
        pytest.skip(_ext.MISSING["_C"])
    outside = ClassRows(torch.tensor([0, 1, 2, 4]), torch.tensor([0, 4]))
    with pytest.raises(RuntimeError, match="point outside of the 4 rows"):
        class_mmd(x, x, outside, ids, 1)
    falling = ClassRows(torch.arange(4), torch.tensor([0, 3, 2]))
    with pytest.raises(RuntimeError, match="point outside of the 4 rows"):
        class_mmd(x, x, falling, ids, 2)
    with pytest.raises(RuntimeError, match="must be float64, float32, float16 or bfloat16"):
        class_mmd(ids[:, None], ids[:, None], ids, ids, 1)
    with pytest.raises(RuntimeError, match="grad and the scalar scale must be float32"):
        BACKWARD(x.double(), x[0, 0], ids, torch.zeros(5, dtype=torch.int64), torch.float32)


LEVEL = """
import sys
sys.path.insert(0, {tests!r})
import test_class_mmd as tests
tests.test_agrees_with_the_loop()
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
