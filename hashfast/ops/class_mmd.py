"""Per-class mean-embedding MMD: the distribution-matching objective of dataset condensation.

    loss = sum_c || mean_{real of c} F - mean_{synthetic of c} F ||^2

(Zhao & Bilen 2023, eq. 4; IEM, eq. 7.) The operation takes classes as CSR: `rows` lists all row
numbers in class order and rows[offsets[c]:offsets[c + 1]] belong to class c. Those before
offsets[0] and from offsets[C] on belong to no class. It trusts that each row is listed once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hashfast.ops._op import Op, accumulator


class ClassRows(NamedTuple):
    """Which rows belong to which class, as `class_rows` finds it from labels.

    rows: int64 [n], all row numbers in class order; offsets: int64 [num_classes + 1], class c has
    rows[offsets[c]:offsets[c + 1]]. Rows outside of all these belong to no class.
    """

    rows: Tensor
    offsets: Tensor


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
    real, _, *classes = inputs
    ctx.dtype = real.dtype
    ctx.save_for_backward(output[1], *classes)
    ctx.set_materialize_grads(False)  # or backward is given zeros for `difference`


def _backward(ctx, grad_loss, grad_difference):
    difference, real_rows, real_offsets, synthetic_rows, synthetic_offsets = ctx.saved_tensors
    # Half the gradient of the real means, and what to multiply it by.
    half, scale = difference, grad_loss
    if grad_difference is not None:  # `difference` is an output too: in a second derivative
        half = torch.where(_present(real_offsets, synthetic_offsets), grad_difference / 2, 0.0)
        if grad_loss is not None:
            half = half + grad_loss * difference
        scale = half.new_ones(())
    real = synthetic = None
    if scale is not None and ctx.needs_input_grad[0]:
        real = class_mean_backward(half, 2 * scale, real_rows, real_offsets, ctx.dtype)
    if scale is not None and ctx.needs_input_grad[1]:
        synthetic = class_mean_backward(
            half, -2 * scale, synthetic_rows, synthetic_offsets, ctx.dtype
        )
    return real, synthetic, None, None, None, None


def _mean_backward_reference(
    grad: Tensor, scale: Tensor, rows: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    per_row = scale / offsets.diff().clamp(min=1).unsqueeze(1) * grad
    per_row = torch.cat([per_row, per_row.new_zeros(1, grad.shape[1])])
    return per_row[_class_of_row(rows, offsets)].to(dtype)


def _mean_setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])


def _mean_backward_backward(ctx, grad_grad):
    grad, scale, *classes = ctx.saved_tensors
    means = _class_means(grad_grad, *classes).to(grad.dtype)
    return scale * means, (grad * means).sum().reshape(scale.shape), None, None, None


def _rows_reference(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    ordered, rows = labels.clamp(-1, num_classes).sort(stable=True)
    classes = torch.arange(num_classes + 1, device=labels.device)
    return rows, torch.searchsorted(ordered, classes)


def _rows_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)
    for n, classes in ((0, 2), (1, 1), (5, 0), (37, 4), (300, 400)):
        labels = torch.randint(-3, classes + 2, (n,), generator=generator)
        yield labels.to(device), classes


def _examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)
    for n, m, d, classes in ((1, 1, 1, 1), (37, 11, 5, 4), (200, 60, 130, 7), (0, 3, 4, 2)):
        real_labels = torch.randint(-1, classes, (n,), generator=generator)
        synthetic_labels = torch.randint(0, classes, (m,), generator=generator)
        yield (
            torch.randn(n, d, generator=generator, dtype=torch.float64).to(device, dtype),
            torch.randn(m, d, generator=generator, dtype=torch.float64).to(device, dtype),
            *_rows_reference(real_labels.to(device), classes),
            *_rows_reference(synthetic_labels.to(device), classes),
        )


def _mean_backward_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for real, _, rows, offsets, *_ in _examples(device, dtype):
        classes = offsets.shape[0] - 1
        grad = torch.linspace(-1, 1, classes * real.shape[1], dtype=accumulator(dtype))
        grad, scale = grad.reshape(classes, -1).to(device), grad.new_tensor(-0.7).to(device)
        yield grad, scale, rows, offsets, dtype


class_rows_op = Op(
    "class_rows(Tensor labels, SymInt num_classes) -> (Tensor, Tensor)",
    reference=_rows_reference,
    fake=lambda labels, num_classes: (
        torch.empty_like(labels, memory_format=torch.contiguous_format),
        labels.new_empty(num_classes + 1),
    ),
    examples=_rows_examples,
    compiled=("cpu",),
)

class_mean_backward = Op(
    "class_mean_backward(Tensor grad, Tensor scale, Tensor rows, Tensor offsets, ScalarType dtype)"
    " -> Tensor",
    reference=_mean_backward_reference,
    fake=lambda grad, scale, rows, offsets, dtype: grad.new_empty(
        rows.shape[0], grad.shape[1], dtype=dtype
    ),
    examples=_mean_backward_examples,
    compiled=("cpu",),
    triton="hashfast.kernels.class_mmd:backward",
    backward=_mean_backward_backward,
    setup_context=_mean_setup_context,
)

class_mmd_op = Op(
    "class_mmd(Tensor real, Tensor synthetic, Tensor real_rows, Tensor real_offsets, "
    "Tensor synthetic_rows, Tensor synthetic_offsets) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    examples=_examples,
    compiled=("cpu",),
    triton="hashfast.kernels.class_mmd:forward",
    backward=_backward,
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    """The operation's gradient with fewer layers of Python, which is most of a small batch's time.

    Backward uses the operation with a gradient only where a second derivative is asked for.
    """

    @staticmethod
    def forward(ctx, real, synthetic, real_labels, synthetic_labels, num_classes):
        with torch._C._AutoDispatchBelowAutograd():
            inputs = _inputs(real, synthetic, real_labels, synthetic_labels, num_classes)
            result = class_mmd_op(*inputs)
        _setup_context(ctx, inputs, result)
        return result

    @staticmethod
    def backward(ctx, grad_loss, grad_difference):
        if torch.is_grad_enabled():
            return _backward(ctx, grad_loss, grad_difference)[:5]
        with torch._C._AutoDispatchBelowAutograd():
            return _backward(ctx, grad_loss, grad_difference)[:5]


def class_rows(labels: Tensor, num_classes: int) -> ClassRows:
    """The rows of every class, in order: what `class_mmd` makes of labels.

    labels [n]: integer class ids; rows with an id outside [0, num_classes), such as -1, belong to
    no class. Where labels stay the same, call it once and give `class_mmd` the result.
    Raises ValueError when labels are not [n] or num_classes is negative, TypeError when labels are
    not integers.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"class_rows: labels are {labels.dtype}; class ids are integers")
    if labels.dim() != 1 or num_classes < 0:
        raise ValueError(
            f"class_rows: labels are {tuple(labels.shape)} and num_classes is {num_classes}; "
            "expected [n] and at least 0"
        )
    return ClassRows(*class_rows_op(labels.long(), num_classes))


def class_mmd(
    real: Tensor,
    synthetic: Tensor,
    real_labels: Tensor | ClassRows,
    synthetic_labels: Tensor | ClassRows,
    num_classes: int,
) -> Tensor:
    """Sum over classes of the squared distance between real and synthetic mean features.

    real [N, D] and synthetic [M, D]: floating point; sums are taken in float32 for half types.
    real_labels [N] and synthetic_labels [M]: integer class ids; an id outside [0, num_classes),
    such as -1, is ignored. In their place, `class_rows` of them, made once for labels that stay the
    same. A class with no row on either side contributes 0.
    Returns a scalar (float32 for half types), differentiable twice in both feature matrices; a
    gradient is computed only for those that require it.
    Raises ValueError when shapes do not fit, TypeError when dtypes do not.
    """
    args = real, synthetic, real_labels, synthetic_labels, num_classes
    if torch.compiler.is_compiling():
        return class_mmd_op(*_inputs(*args))[0]
    return _Eager.apply(*args)[0]


def _inputs(
    real: Tensor,
    synthetic: Tensor,
    real_labels: Tensor | ClassRows,
    synthetic_labels: Tensor | ClassRows,
    num_classes: int,
) -> tuple[Tensor, ...]:
    """Arguments of the operation, checked."""
    if real.dim() != 2 or synthetic.dim() != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"class_mmd: real features are {tuple(real.shape)} and synthetic ones "
            f"{tuple(synthetic.shape)}; expected [n, d] and [m, d] from the same layer"
        )
    if real.dtype != synthetic.dtype:
        raise TypeError(
            f"class_mmd: real features are {real.dtype} and synthetic ones {synthetic.dtype}; "
            "convert one of them"
        )
    return (
        real,
        synthetic,
        *_classes("real", real, real_labels, num_classes),
        *_classes("synthetic", synthetic, synthetic_labels, num_classes),
    )


def _classes(
    name: str, features: Tensor, labels: Tensor | ClassRows, num_classes: int
) -> ClassRows:
    n = features.shape[0]
    if not isinstance(labels, ClassRows):
        if labels.shape != (n,):
            raise ValueError(
                f"class_mmd: {name} features are {tuple(features.shape)} and labels "
                f"{tuple(labels.shape)}; expected [n, d] and [n]"
            )
        return class_rows(labels, num_classes)
    if labels.rows.shape != (n,) or labels.offsets.shape != (num_classes + 1,):
        raise ValueError(
            f"class_mmd: {name} classes have rows {tuple(labels.rows.shape)} and offsets "
            f"{tuple(labels.offsets.shape)}; expected [{n}] and [{num_classes + 1}]: make them "
            "with class_rows from these rows' labels"
        )
    return labels
