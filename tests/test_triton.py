"""Triton kernels without a GPU: run in the interpreter, and compiled ahead of time."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

from hashfast.ops import OPS

LAUNCHERS = sorted(name for name, op in OPS.items() if op.triton)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

# TRITON_INTERPRET must be set before triton is imported: a process of its own.
INTERPRET = """
import importlib, sys, torch
sys.path.insert(0, {tests!r})
import test_ops
from hashfast.ops import OPS
torch.use_deterministic_algorithms(True, warn_only=True)  # new tensors hold NaN
for name in {names!r}:
    op = OPS[name]
    module, function = op.triton.split(":")
    launch = getattr(importlib.import_module(module), function)
    for dtype in (torch.float32, torch.float64, torch.float16):
        for args in test_ops.cases(name, dtype):
            exact = test_ops.as_tuple(op.reference(*test_ops.in_double(args)))
            plain = test_ops.as_tuple(op.reference(*args))
            for ours, reference, truth in zip(launch(*args), plain, exact, strict=True):
                assert ours.dtype == reference.dtype and ours.shape == reference.shape
                torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the generic tests run the compiled kernels")
def test_in_the_interpreter():
    code = INTERPRET.format(tests=os.path.dirname(__file__), names=LAUNCHERS)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def resources(cubin, path):
    """Registers and spilled (stack) bytes of the one kernel in a cubin."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    path.write_bytes(cubin)
    text = subprocess.run(
        [tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "fp64", "fp16", "bf16"])
def test_class_mmd_compiles_ahead_of_time(dtype, capability, tmp_path):
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    from hashfast.kernels import class_mmd

    side = ["*" + dtype, "i64", "i64", "*i64", "*i64"]
    accumulator = tl.float64 if dtype == "fp64" else tl.float32
    sums = "*fp64" if dtype == "fp64" else "*fp32"
    types = [*side, *side, sums, sums, "i32", "constexpr", "constexpr", "constexpr"]
    names = class_mmd.class_mmd_kernel.arg_names
    constants = {
        "BLOCK_ROWS": class_mmd.BLOCK_ROWS,
        "BLOCK_DIMS": class_mmd.BLOCK_DIMS,
        "ACC": accumulator,
    }
    source = triton.compiler.ASTSource(
        fn=class_mmd.class_mmd_kernel,
        signature=dict(zip(names, types, strict=True)),
        constexprs=constants,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    used = resources(compiled.asm["cubin"], tmp_path / "kernel.cubin")
    assert used["STACK"] == 0
    assert used["LOCAL"] == 0
    assert used["REG"] <= 128
    assert compiled.metadata.shared <= 48 * 1024
