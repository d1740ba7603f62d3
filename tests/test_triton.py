"""Triton kernels without a GPU: run in the interpreter, and compiled ahead of time."""

import pytest
import torch
from triton_runs import compiled, every_target, interpret, interpreted, with_triton

from hashfast.ops import OPS

# Those of packed codes: test_triton_hamming.py.
LAUNCHERS = sorted(n for n, op in OPS.items() if op.triton and not n.startswith("hamming"))

pytestmark = with_triton

GENERIC = """
for name in {names!r}:
    for dtype in (torch.float32, torch.float64, torch.float16):
        for args in test_ops.cases(name, dtype):
            # The interpreter runs the programs of a launch one by one; more of it is below.
            if name != "binary_wasserstein" or args[0].numel() < 30:
                check(name, args)
"""
# Classes split into parts, of rows that are not a multiple of a block; and absent ones.
CLASSES = """
from hashfast.kernels import class_mmd as kernel
from hashfast.ops.class_mmd import class_rows
kernel.ROWS_EACH = 20
for dtype in (torch.float32, torch.bfloat16):
    real_labels, labels = torch.randint(-1, 3, (110,)), torch.randint(0, 2, (45,))
    real, synthetic = torch.randn(110, 5).to(dtype), torch.randn(45, 5).to(dtype)
    real[real_labels == 2] = torch.inf
    classes, synthetic_classes = class_rows(real_labels, 3), class_rows(labels, 3)
    assert kernel.parts(110, 3, 1) == 2 and kernel.parts(45, 3, 1) == 1
    args = real, synthetic, *classes, *synthetic_classes
    check("class_mmd", args)
    transposed = real.t().contiguous().t(), synthetic.t().contiguous().t()
    check("class_mmd", (*transposed, *args[2:]))
    grad = torch.randn(5, 3).t()
    check("class_mean_backward", (grad, grad[0, 0].clone(), *classes, dtype))
"""
# Columns that do not fit into registers are read in blocks, here of 32 rows; and hard cases.
WASSERSTEIN = """
from hashfast.kernels import binary_wasserstein as kernel
hard = torch.tensor([[0.0, 1], [-0.0, 1], [0.0, torch.nan], [-0.0, -torch.inf], [torch.inf, 1]])
held = kernel.configuration
looped = lambda n, dtype: held(n, dtype) | dict(BLOCK=32, HELD=False)
for kernel.configuration in (held, looped):
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for k in (0, 2, 3, 5):
            negatives = torch.tensor([k, 5 - k], dtype=torch.int32)
            check("binary_wasserstein", (hard.to(dtype), negatives, None, k == 2))
        outputs = torch.randn(75, 2).mul(4).round().to(dtype)
        for seed in (None, torch.tensor(-9)):
            check("binary_wasserstein", (outputs, None, seed, False))
# More rows than are drawn at a time.
check("binary_wasserstein", (torch.randn(8200, 1), None, torch.tensor(2**62), True))
"""
# Columns split into parts, rows wider than a block of dimensions, and rows that hold NaN.
CONTRAST = """
from hashfast.kernels import masked_contrastive as kernel
generator = torch.Generator().manual_seed(1)
def drawn(*shape):
    return torch.randn(*shape, generator=generator)
def ids(limit, *shape):
    return torch.randint(-1, limit, shape, generator=generator)
held = kernel.configuration
def narrow(*args):
    return held(*args) | {"BLOCK_DIMS": 16}
for kernel.PROGRAMS, kernel.configuration in ((264, held), (1, narrow)):
    for m, r, bits, temperature in ((70, 90, 20, 0.3), (20, 50, 40, 0.02)):
        anchors, keys = drawn(m, bits), drawn(r, bits)
        anchors[3], keys[5], keys[6], keys[7] = 0, 0, 1e30, 1e-30
        masks = ids(4, m), ids(4, r), ids(r, m, 3)
        keys[:2], masks[1][:2] = torch.nan, torch.tensor([9, 8])
        masks[2][:, :2] = torch.arange(2)
        masks[2][-1, 1] = -1  # the last anchor alone may use the second key
        args = anchors, keys, *masks, temperature
        check("masked_contrastive", (*args, True))
        logsumexp = OPS["masked_contrastive"].reference(*args, False)[0]
        assert logsumexp.isnan().tolist() == [False] * (m - 1) + [True]
        check("masked_contrastive_backward", (drawn(m), logsumexp, *args))
    mixed = anchors.half(), keys.nan_to_num().clamp(-9, 9), None, None, masks[2][:, :1], 0.3, False
    check("masked_contrastive", mixed)
    check("masked_contrastive", (*(x.half() for x in mixed[:2]), *mixed[2:]))
"""


@interpreted
def test_in_the_interpreter():
    interpret(GENERIC.format(names=LAUNCHERS))


@interpreted
def test_binary_wasserstein_in_the_interpreter():
    interpret(WASSERSTEIN)


@interpreted
def test_class_mmd_in_the_interpreter():
    interpret(CLASSES)


@interpreted
def test_masked_contrastive_in_the_interpreter():
    interpret(CONTRAST)


DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_target
@every_dtype
def test_class_mmd_compiles_ahead_of_time(dtype, capability, tmp_path):
    import triton.language as tl

    from hashfast.kernels import class_mmd

    sums = "*fp64" if dtype == "fp64" else "*fp32"
    block = {"BLOCK_DIMS": class_mmd.BLOCK_DIMS}
    rows = block | {"BLOCK_ROWS": class_mmd.BLOCK_ROWS}
    acc = {"ACC": tl.float64 if dtype == "fp64" else tl.float32}
    side = ["*" + dtype, "i64", "i64", "*i64", "*i64"]
    adjacent = ["*" + dtype, "i64", "constexpr", "*i64", "*i64"]
    ones = {"real_stride_dim": 1, "synthetic_stride_dim": 1}
    kernels = [
        (
            class_mmd.class_sums_kernel,
            [*strides, *strides, sums, "i32", "i32", "i32", *["constexpr"] * 3],
            rows | acc | fixed,
        )
        for strides, fixed in ((side, {}), (adjacent, ones))
    ] + [
        (
            class_mmd.class_gaps_kernel,
            ["*i64" if i in (1, 2) else sums for i in range(5)]
            + ["i32", "i32", "i32", "constexpr", "constexpr"],
            block | acc,
        ),
        (
            class_mmd.class_mean_backward_kernel,
            [sums, "i64", "i64", sums, "*i64", "*i64", "*" + dtype, "i32", "i32", "i32"]
            + ["constexpr"] * 2,
            rows,
        ),
    ]
    for kernel, types, constants in kernels:
        used = compiled(kernel, types, constants, capability, tmp_path)
        assert used["REG"] <= 128


# The largest columns of each way to hold them use the most registers.
@every_target
@every_dtype
@pytest.mark.parametrize("rows", [64, 1024, 2048, 4096, 5000])
def test_binary_wasserstein_compiles_ahead_of_time(dtype, capability, rows, tmp_path):
    import triton.language as tl

    from hashfast.kernels import binary_wasserstein as wasserstein

    if rows == 64 and dtype != "fp32":
        pytest.skip("as with float32, but smaller")
    constants = wasserstein.configuration(rows, DTYPES[dtype])
    warps = constants.pop("num_warps")
    wide = dtype == "fp64"
    constants |= {
        "negatives": None,
        "MODE": "seeded",
        "KEY": wasserstein.INTEGERS[DTYPES[dtype]],
        "ACC": tl.float64 if wide else tl.float32,
    }
    types = ["*" + dtype, "i64", "i64", "constexpr", "*i64"]
    types += ["*i8", "i64", "i64", "*fp64" if wide else "*fp32", "i32", *["constexpr"] * 7]
    kernel = wasserstein.binary_wasserstein_kernel
    used = compiled(kernel, types, constants, capability, tmp_path, warps)
    assert used["REG"] * 32 * warps <= 65536


@every_target
@every_dtype
def test_masked_contrastive_compiles_ahead_of_time(dtype, capability, tmp_path):
    import triton.language as tl

    from hashfast.kernels import masked_contrastive as contrast

    acc = "fp64" if dtype == "fp64" else "fp32"
    rows, sums, i32 = "*" + dtype, "*" + acc, "i32"
    value = {"ACC": tl.float64 if dtype == "fp64" else tl.float32}
    blocks = contrast.configuration(128, DTYPES[dtype], capability)
    warps = blocks.pop("num_warps")
    flags = {"SHIFTED": True, "PULL": True}
    masks = {"GROUPS": True, "EXCLUDED": True, "PRECISION": contrast.precision(DTYPES[dtype])}
    for keys in (False, True):
        used = compiled(
            contrast.contrast_kernel,
            [rows, sums, rows, sums, *["*i64"] * 3, *[sums] * 5, *[i32] * 5, *["constexpr"] * 11],
            blocks | flags | masks | value | {"KEYS": keys},
            capability,
            tmp_path,
            warps,
        )
        assert used["REG"] * 32 * warps <= 65536
    for width in (64, 512):
        together = {"BLOCK_ROWS": contrast.combined_rows(width), "BLOCK_DIMS": width}
        # One row, of one dimension, in one part: Triton makes ones part of the program.
        ones = {"num_rows": 1, "num_dims": 1, "parts": 1}
        for sizes, fixed in ((["i32"] * 3, {}), (["constexpr"] * 3, ones)):
            compiled(
                contrast.combine_kernel,
                [*[sums] * 3, rows, *[sums] * 4, rows, *sizes, *["constexpr"] * 6],
                together | flags | value | fixed | {"KEYS": False},
                capability,
                tmp_path,
            )
    compiled(
        contrast.scale_rows_kernel,
        [rows, "i64", "i64", rows, sums, sums, i32, "constexpr", "constexpr"],
        value | {"BLOCK_DIMS": 512},
        capability,
        tmp_path,
    )
