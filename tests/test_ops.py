"""Generic tests: every operation of the OPS table, on every backend this machine can run."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch.library import opcheck

from hashfast import _ext
from hashfast.ops import OPS
from hashfast.ops._op import cpu_level

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DIFFERENTIABLE = sorted(name for name, op in OPS.items() if op.differentiable)
TWICE = (
    *("binary_wasserstein", "binary_wasserstein_backward", "class_mean_backward", "class_mmd"),
    "masked_contrastive",
)
DYNAMIC = {"hamming_hits", "hamming_range"}
# Packed codes have one type.
TYPED = [
    (name, dtype)
    for name in sorted(OPS)
    for dtype in (FLOATING[:1] if name.startswith("hamming") else FLOATING)
]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

pytestmark = pytest.mark.filterwarnings("ignore:.*Deterministic:UserWarning")


def cases(name, dtype=torch.float32, device="cpu"):
    return list(OPS[name].examples(device, dtype))


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def floating(args):
    return [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]


def require_grad(args):
    return tuple(
        a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in args
    )


def in_double(args):
    return tuple(
        a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else
        torch.float64 if isinstance(a, torch.dtype) else a
        for a in args
    )  # fmt: skip


def assert_as_good_as_reference(op, args):
    """Integers are equal; a float's error against float64 is at most twice the reference's."""
    got, plain = as_tuple(op(*args)), as_tuple(op.reference(*args))
    exact = as_tuple(op.reference(*in_double(args)))
    for ours, reference, truth in zip(got, plain, exact, strict=True):
        assert ours.shape == reference.shape
        assert ours.dtype == reference.dtype
        if not ours.is_floating_point():
            assert torch.equal(ours, reference)
            continue
        finite = truth.isfinite()
        assert torch.equal(ours.isfinite(), finite)
        if finite.any():
            error = (ours.double() - truth)[finite].abs().max()
            allowed = (reference.double() - truth)[finite].abs().max()
            rounding = max(4 * torch.finfo(ours.dtype).eps, 1e-12)
            assert error <= 2 * allowed + rounding * truth[finite].abs().max().clamp(min=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "dtype"), TYPED, ids=str)
def test_value(name, dtype, device, poisoned):
    for args in cases(name, dtype, device):
        assert_as_good_as_reference(OPS[name], args)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(OPS))
def test_strided_inputs(name, device, poisoned):
    def strided(tensor):
        spread = tensor.new_zeros([2 * s for s in tensor.shape])
        view = spread[tuple(slice(None, None, 2) for _ in tensor.shape)]
        return view.copy_(tensor)

    for args in cases(name, device=device):
        views = [strided(a) if isinstance(a, torch.Tensor) and a.dim() else a for a in args]
        for ours, plain in zip(
            as_tuple(OPS[name](*views)), as_tuple(OPS[name](*args)), strict=True
        ):
            torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient(name):
    op = OPS[name]
    for args in cases(name, torch.float64):
        args = require_grad(args)
        if sum(a.numel() for a in floating(args)) > 600:
            continue  # numeric differentiation of the larger examples takes minutes
        outputs = as_tuple(op(*args))
        kept = [i for i, out in enumerate(outputs) if out.requires_grad and out.isfinite().all()]

        def values(*floats, args=args, kept=kept):
            floats = iter(floats)
            full = [
                next(floats) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
                for a in args
            ]
            outputs = as_tuple(op(*full))
            return tuple(outputs[i] for i in kept)

        if kept and all(f.numel() for f in floating(args)):
            # A zero row has gradient 0 by definition, where the numeric one does not exist.
            smooth = [f for f in floating(args) if f.dim() == 2 and not f.abs().sum(1).all()]
            if not smooth:
                assert torch.autograd.gradcheck(values, floating(args))
                if name in TWICE:
                    assert torch.autograd.gradgradcheck(values, floating(args))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_equals_that_of_the_reference(name, device):
    """Covers what gradcheck leaves out: large examples, zero rows, anchors without a key."""
    op = OPS[name]
    for args in cases(name, torch.float64, device):
        ours, plain = require_grad(args), require_grad(args)
        if not floating(ours):
            continue
        first, second = as_tuple(op(*ours))[0], as_tuple(op.reference(*plain))[0]
        finite = first.isfinite()
        got = torch.autograd.grad(
            first[finite].square().sum(), floating(ours), allow_unused=True, materialize_grads=True
        )
        expected = torch.autograd.grad(
            second[finite].square().sum(),
            floating(plain),
            allow_unused=True,
            materialize_grads=True,
        )
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e.nan_to_num())


def test_second_derivative_is_refused_where_there_is_none():
    args = require_grad(cases("masked_contrastive_backward", torch.float64)[0])
    with pytest.raises(RuntimeError, match="no gradient of its own"):
        OPS["masked_contrastive_backward"](*args).sum().backward()


@pytest.mark.parametrize("name", sorted(OPS))
def test_opcheck(name):
    op = OPS[name]
    examples = cases(name)
    for args in (examples[0], examples[len(examples) // 2], examples[-1]):
        opcheck(op.overload, require_grad(args) if op.differentiable else args)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", sorted(set(OPS) - DYNAMIC))
def test_compiles_without_graph_break(name, dynamic, device):
    op = OPS[name]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *args: op(*args), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    ours, plain = (cases(name, device=device)[1] for _ in range(2))
    if op.differentiable:
        ours, plain = require_grad(ours), require_grad(plain)
    got, expected = as_tuple(compiled(*ours)), as_tuple(op(*plain))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    if op.differentiable:
        got[0].sum().backward()
        expected[0].sum().backward()
        for a, b in zip(floating(ours), floating(plain), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("name", sorted(OPS))
def test_autocast_changes_nothing(name):
    """Accumulation stays in float32: an operation computes in the dtypes it is given."""
    for args in cases(name):
        plain = as_tuple(OPS[name](*args))
        with torch.autocast("cpu", torch.bfloat16):
            ours = as_tuple(OPS[name](*args))
        for a, b in zip(ours, plain, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.skipif("_C" in _ext.MISSING, reason="no compiled kernels")
def test_unknown_instruction_set_is_refused():
    code = "from hashfast.ops._op import cpu_level; cpu_level()"
    environment = os.environ | {"HASHFAST_CPU": "avx1024"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "expected portable, avx2 or avx512" in done.stderr


CPU_CHECK = """
import sys, torch
sys.path.insert(0, {tests!r})
import test_ops
from hashfast.ops import OPS
from hashfast.ops._op import cpu_level
print(cpu_level())
for name in OPS:
    for args in test_ops.cases(name):
        test_ops.assert_as_good_as_reference(OPS[name], args)
"""


@pytest.mark.skipif("_C" in _ext.MISSING, reason="no compiled kernels")
@pytest.mark.parametrize("level", ["portable", "avx2"])
def test_lower_instruction_sets(level):
    code = CPU_CHECK.format(tests=os.path.dirname(__file__))
    environment = os.environ | {"HASHFAST_CPU": level}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if cpu_level() != "portable":  # this CPU has at least AVX2
        assert done.stdout.split()[-1].lower() == level


def test_compiled_kernels_serve_the_cpu():
    """Continuous integration builds the library; falling back to the reference is a failure."""
    if "_C" in _ext.MISSING:
        if os.environ.get("CI"):
            pytest.fail(_ext.MISSING["_C"])
        pytest.skip(_ext.MISSING["_C"])
    served = {name for name, op in OPS.items() if op.backend("cpu") == "C++"}
    assert served == {name for name, op in OPS.items() if "cpu" in op.compiled}
    assert {"hamming_topk", "binary_wasserstein"} <= served
    for name, op in OPS.items():
        assert op.why_reference("cpu") == ("" if name in served else "no kernel written")


def test_result_does_not_depend_on_threads():
    query = torch.randint(0, 4, (3, 2), dtype=torch.uint8)
    database = torch.randint(0, 4, (20_000, 2), dtype=torch.uint8)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(OPS["hamming_topk"](query, database, 9_000, None))
    torch.set_num_threads(before)
    expected = OPS["hamming_topk"].reference(query, database, 9_000, None)
    for result in results:
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])


def test_missing_library_falls_back_and_says_why(tmp_path):
    """A library that fails to load gives one warning with the loader's text; results stay right."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        broken = tmp_path / "_broken.abi3.so"
        broken.write_bytes(b"not a library")
        original, _ext.__file__ = _ext.__file__, str(tmp_path / "_ext.py")
        try:
            _ext._load("_broken")
            _ext._load("_absent")
        finally:
            _ext.__file__ = original
    assert "failed to load" in _ext.MISSING.pop("_broken")
    assert _ext.MISSING.pop("_absent") == "not built"
    assert len(caught) == 1
