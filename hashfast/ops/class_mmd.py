"""Per-class mean-embedding MMD: the distribution-matching objective of dataset condensation.

    loss = sum_c || mean_{real of c} F - mean_{synthetic of c} F ||^2

(Zhao & Bilen 2023, eq. 4; IEM papers, eq. 3). The operation takes classes as CSR: `rows` lists all
row numbers in class order and rows[offsets[c]:offsets[c + 1]] belong to class c. Those before
offsets[0] and from offsets[C] on belong to no class. It trusts them: `class_mmd` makes them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfast.ops._op import Op, accumulator


def class_offsets(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """CSR form of integer labels [n]: (rows int64 [n], offsets int64 [num_classes + 1]).

    Labels outside [0, num_classes), such as -1, belong to no class.
    """
    ordered, rows = labels.long().sort(stable=True)  # int8 could not hold the last boundary
    classes = torch.arange(num_classes + 1, device=labels.device)
    return rows, torch.searchsorted(ordered, classes)


def _class_of_row(rows: Tensor, offsets: Tensor) -> Tensor:
    """Class of each row, int64 [n]; C for those in no class."""
    num_classes = len(offsets) - 1
    position = torch.arange(len(rows), device=offsets.device)
    classes = torch.searchsorted(offsets.contiguous(), position, right=True) - 1
    classes = torch.where(classes < 0, num_classes, classes)
    return torch.empty_like(position).scatter_(0, rows, classes)


def _class_means(features: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    num_classes = len(offsets) - 1
    features = features.to(accumulator(features.dtype))
    sums = features.new_zeros(num_classes + 1, features.shape[1])
    sums = sums.index_add_(0, _class_of_row(rows, offsets), features)
    return sums[:num_classes] / offsets.diff().clamp(min=1).unsqueeze(1)


def _present(real_offsets: Tensor, synthetic_offsets: Tensor) -> Tensor:
    """Which classes have rows on both sides, bool [C, 1]."""
    return ((real_offsets.diff() > 0) & (synthetic_offsets.diff() > 0)).unsqueeze(1)


def _reference(
    real: Tensor,
    synthetic: Tensor,
    real_rows: Tensor,
    real_offsets: Tensor,
    synthetic_rows: Tensor,
    synthetic_offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    difference = _class_means(real, real_rows, real_offsets)
    difference = difference - _class_means(synthetic, synthetic_rows, synthetic_offsets)
    # where, not *: an absent class counts 0 even when its rows are infinite.
    difference = torch.where(_present(real_offsets, synthetic_offsets), difference, 0.0)
    return difference.square().sum(), difference


def _fake(real, synthetic, real_rows, real_offsets, synthetic_rows, synthetic_offsets):
    dtype = accumulator(real.dtype)
    difference = real.new_empty(real_offsets.shape[0] - 1, real.shape[1], dtype=dtype)
    return real.new_empty((), dtype=dtype), difference


def _setup_context(ctx, inputs, output):
    real, synthetic, *classes = inputs
    ctx.dtypes = real.dtype, synthetic.dtype
    ctx.save_for_backward(output[1], *classes)


def _backward(ctx, grad_loss, grad_difference):
    difference, real_rows, real_offsets, synthetic_rows, synthetic_offsets = ctx.saved_tensors
    # `difference` is an output too: its own gradient arrives in a second derivative.
    grad = 2 * grad_loss * difference + grad_difference
    grad = torch.where(_present(real_offsets, synthetic_offsets), grad, 0.0)
    real = synthetic = None
    if ctx.needs_input_grad[0]:
        real = class_mean_backward(grad, real_rows, real_offsets, ctx.dtypes[0])
    if ctx.needs_input_grad[1]:
        synthetic = class_mean_backward(-grad, synthetic_rows, synthetic_offsets, ctx.dtypes[1])
    return real, synthetic, None, None, None, None


def _mean_backward_reference(
    grad: Tensor, rows: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    per_row = grad / offsets.diff().clamp(min=1).unsqueeze(1)
    per_row = torch.cat([per_row, per_row.new_zeros(1, grad.shape[1])])
    return per_row[_class_of_row(rows, offsets)].to(dtype)


def _mean_setup_context(ctx, inputs, output):
    grad, rows, offsets, _ = inputs
    ctx.dtype = grad.dtype
    ctx.save_for_backward(rows, offsets)


def _mean_backward_backward(ctx, grad):
    means = _class_means(grad, *ctx.saved_tensors).to(ctx.dtype)
    return means, None, None, None


def _examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)
    for n, m, d, classes in ((1, 1, 1, 1), (37, 11, 5, 4), (200, 60, 130, 7), (0, 3, 4, 2)):
        real_labels = torch.randint(-1, classes, (n,), generator=generator)
        synthetic_labels = torch.randint(0, classes, (m,), generator=generator)
        yield (
            torch.randn(n, d, generator=generator, dtype=torch.float64).to(device, dtype),
            torch.randn(m, d, generator=generator, dtype=torch.float64).to(device, dtype),
            *class_offsets(real_labels.to(device), classes),
            *class_offsets(synthetic_labels.to(device), classes),
        )


def _mean_backward_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for real, _, rows, offsets, *_ in _examples(device, dtype):
        classes = offsets.shape[0] - 1
        grad = torch.linspace(-1, 1, classes * real.shape[1], dtype=accumulator(dtype))
        yield grad.reshape(classes, -1).to(device), rows, offsets, dtype


class_mean_backward = Op(
    "class_mean_backward(Tensor grad, Tensor rows, Tensor offsets, ScalarType dtype) -> Tensor",
    reference=_mean_backward_reference,
    fake=lambda grad, rows, offsets, dtype: grad.new_empty(
        rows.shape[0], grad.shape[1], dtype=dtype
    ),
    examples=_mean_backward_examples,
    backward=_mean_backward_backward,
    setup_context=_mean_setup_context,
)

class_mmd_op = Op(
    "class_mmd(Tensor real, Tensor synthetic, Tensor real_rows, Tensor real_offsets, "
    "Tensor synthetic_rows, Tensor synthetic_offsets) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    examples=_examples,
    backward=_backward,
    setup_context=_setup_context,
    triton="hashfast.kernels.class_mmd:forward",
)


def class_mmd(
    real: Tensor,
    synthetic: Tensor,
    real_labels: Tensor,
    synthetic_labels: Tensor,
    num_classes: int,
) -> Tensor:
    """Sum over classes of the squared distance between real and synthetic mean features.

    real [N, D] and synthetic [M, D]: floating point; sums are taken in float32 for half types.
    real_labels [N] and synthetic_labels [M]: integer class ids; an id outside [0, num_classes),
    such as -1, is ignored. A class with no row on either side contributes 0.
    Returns a scalar (float32 for half types), differentiable twice in both feature matrices.
    Raises ValueError when shapes do not fit, TypeError when dtypes do not.
    """
    for name, features, labels in (
        ("real", real, real_labels),
        ("synthetic", synthetic, synthetic_labels),
    ):
        if features.dim() != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"class_mmd: {name} features are {tuple(features.shape)} and labels "
                f"{tuple(labels.shape)}; expected [n, d] and [n]"
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"class_mmd: {name} labels are {labels.dtype}; class ids are integers")
    if real.dtype != synthetic.dtype:
        raise TypeError(
            f"class_mmd: real features are {real.dtype} and synthetic ones {synthetic.dtype}; "
            "convert one of them"
        )
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"class_mmd: real features have {real.shape[1]} dimensions and synthetic ones "
            f"{synthetic.shape[1]}; both must come from the same layer"
        )
    real_classes = class_offsets(real_labels, num_classes)
    synthetic_classes = class_offsets(synthetic_labels, num_classes)
    return class_mmd_op(real, synthetic, *real_classes, *synthetic_classes)[0]
