"""Triton kernels without a GPU: run in the interpreter, and compiled ahead of time."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

with_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the generic tests run the compiled kernels"
)
every_target = pytest.mark.parametrize("capability", [80, 90, 100])

# TRITON_INTERPRET must be set before triton is imported: a process of its own.
INTERPRET = """
import importlib, sys, torch
sys.path.insert(0, {tests!r})
import test_ops
from hashfast.ops import OPS
torch.use_deterministic_algorithms(True, warn_only=True)  # new tensors hold NaN
def check(name, args):
    op = OPS[name]
    module, function = op.triton.split(":")
    launch = getattr(importlib.import_module(module), function)
    exact = test_ops.as_tuple(op.reference(*test_ops.in_double(args)))
    plain = test_ops.as_tuple(op.reference(*args))
    made = test_ops.as_tuple(launch(*args))
    for ours, reference, truth in zip(made, plain, exact, strict=True):
        assert ours.dtype == reference.dtype and ours.shape == reference.shape
        if not ours.is_floating_point():
            assert torch.equal(ours, reference)
            continue
        rtol = max(1e-5, torch.finfo(ours.dtype).eps)
        torch.testing.assert_close(
            ours.double(), truth.double(), rtol=rtol, atol=1e-5, equal_nan=True
        )
"""


def interpret(code):
    """Runs code that may call check(name, args): an operation's launcher against its reference."""
    done = subprocess.run(
        [sys.executable, "-c", INTERPRET.format(tests=os.path.dirname(__file__)) + code],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def built(kernel, types, constants, target, num_warps=4):
    """A kernel compiled for a GPU that need not be there; target: as GPUTarget takes it."""
    import triton
    from triton.backends.compiler import GPUTarget

    source = triton.compiler.ASTSource(
        fn=kernel, signature=dict(zip(kernel.arg_names, types, strict=True)), constexprs=constants
    )
    return triton.compile(source, target=GPUTarget(*target), options={"num_warps": num_warps})


def resources(cubin, path):
    """Registers and spilled (stack) bytes of the one kernel in a cubin."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    path.write_bytes(cubin)
    text = subprocess.run(
        [tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}


def assert_fits(made, path):
    """Resources of a built kernel, which must not spill."""
    used = resources(made.asm["cubin"], path / "kernel.cubin")
    assert used["STACK"] == 0
    assert used["LOCAL"] == 0
    assert made.metadata.shared <= 48 * 1024
    return used


def compiled(kernel, types, constants, capability, path, num_warps=4):
    """Resources of a kernel compiled for an Nvidia GPU; it must not spill."""
    made = built(kernel, types, constants, ("cuda", capability, 32), num_warps)
    return assert_fits(made, path)
