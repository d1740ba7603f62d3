"""Squared 1-D Wasserstein-2 distance of every column to a +-1 target: the quantity inside HSWD.

Sorting a column and a target of k values -1 and n - k values +1 pairs the k smallest entries with
-1 and the others with +1 (Doan et al. 2022, eq. 7), so only the rank of an entry matters. Ties are
broken by row number, the same way in every backend; NaN ranks last.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfast.ops._op import Op, accumulator
from hashfast.ops._philox import binomial_half


def _reference(
    outputs: Tensor, negatives: Tensor | None, seed: Tensor | None, mean: bool
) -> tuple[Tensor, Tensor]:
    n, bits = outputs.shape
    values = outputs.to(accumulator(outputs.dtype))
    if negatives is None and seed is not None:
        negatives = binomial_half(seed, n, bits)
    # Twice the number of -1s, so that the balanced target of an odd batch (n / 2) is an integer.
    twice = n if negatives is None else 2 * negatives.long()
    order = values.sort(dim=0, stable=True).indices
    row = torch.arange(n, device=outputs.device).unsqueeze(1).expand(n, bits)
    rank = torch.empty_like(order).scatter_(0, order, row)
    target = torch.sign(2 * rank + 1 - twice).to(torch.int8)
    distances = (values - target).square().sum(0) / max(n, 1)
    return distances.mean() if mean else distances, target


def _fake(outputs, negatives, seed, mean):
    shape = () if mean else outputs.shape[1:]
    distances = outputs.new_empty(shape, dtype=accumulator(outputs.dtype))
    return distances, outputs.new_empty(outputs.shape, dtype=torch.int8)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or backward is given zeros for the target


def _backward(ctx, grad_distances, _):
    if grad_distances is None:
        return None, None, None, None
    return binary_wasserstein_backward(grad_distances, *ctx.saved_tensors), None, None, None


def _scale(grad: Tensor, outputs: Tensor) -> Tensor:
    """d distance / d (half of its squared differences), times `grad` [bits] or, of the mean, []."""
    n, bits = outputs.shape
    return 2 / max(n * (1 if grad.dim() else bits), 1) * grad


def _backward_reference(grad: Tensor, outputs: Tensor, target: Tensor) -> Tensor:
    return (_scale(grad, outputs) * (outputs - target)).to(outputs.dtype)


def _backward_setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_backward(ctx, grad_grad):
    grad, outputs, target = ctx.saved_tensors
    by_grad = _scale(torch.ones_like(grad), outputs) * grad_grad * (outputs - target)
    return (
        by_grad.sum_to_size(grad.shape).to(grad.dtype),
        (_scale(grad, outputs) * grad_grad).to(outputs.dtype),
        None,
    )


def _examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)
    for n, bits in ((1, 1), (7, 3), (64, 48), (257, 20), (1030, 2), (0, 4)):
        outputs = torch.randn(n, bits, generator=generator, dtype=torch.float64)
        if n == 64:
            outputs[:, ::2] = outputs[:, ::2].mul(2).round().div(2)  # ties, and both zeros
        outputs = outputs.to(device, dtype)
        negatives = torch.randint(0, n + 1, (bits,), generator=generator, dtype=torch.int32)
        yield outputs, None, None, False
        yield outputs, negatives.to(device), None, True
        yield outputs, None, torch.tensor(1234567890123 + n, device=device), n % 2 == 1


def _backward_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for outputs, negatives, seed, mean in _examples(device, dtype):
        target = _reference(outputs, negatives, seed, mean)[1]
        grad = torch.linspace(-1, 1, outputs.shape[1], dtype=accumulator(dtype), device=device)
        yield grad[0] if mean else grad, outputs, target


binary_wasserstein_backward = Op(
    "binary_wasserstein_backward(Tensor grad, Tensor outputs, Tensor target) -> Tensor",
    reference=_backward_reference,
    fake=lambda grad, outputs, target: torch.empty_like(
        outputs, memory_format=torch.contiguous_format
    ),
    examples=_backward_examples,
    compiled=("cpu",),
    backward=_backward_backward,
    setup_context=_backward_setup_context,
)

binary_wasserstein_op = Op(
    "binary_wasserstein(Tensor outputs, Tensor? negatives, Tensor? seed, bool mean)"
    " -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    examples=_examples,
    compiled=("cpu",),
    triton="hashfast.kernels.binary_wasserstein:forward",
    backward=_backward,
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    """The operation's gradient with fewer layers of Python, which is most of a small batch's time.

    Backward uses the operation with a gradient only where a second derivative is asked for.
    """

    @staticmethod
    def forward(ctx, outputs, negatives, seed, mean):
        with torch._C._AutoDispatchBelowAutograd():
            result = binary_wasserstein_op(outputs, negatives, seed, mean)
        _setup_context(ctx, (outputs,), result)
        return result

    @staticmethod
    def backward(ctx, grad_distances, grad_target):
        if torch.is_grad_enabled():
            return _backward(ctx, grad_distances, grad_target)
        with torch._C._AutoDispatchBelowAutograd():
            return _backward(ctx, grad_distances, grad_target)


def binary_wasserstein(
    outputs: Tensor,
    negatives: Tensor | None = None,
    seed: Tensor | None = None,
    mean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean squared sorted difference of each column of `outputs` to a +-1 target.

    outputs [n, b]: floating point; half types are accumulated, and returned, in float32.
    The target of a bit has k values -1 and n - k values +1, where k is

    - `negatives` int32 [b], 0 <= k <= n, when given;
    - else Binomial(n, 1/2) drawn per bit from the 0-d int64 tensor `seed` by a counter-based
      generator (Philox-4x32-10), the same on every device;
    - else n / 2 (balanced; in an odd batch the median's target is 0).

    Returns (distances [b], target int8 [n, b] in {-1, 0, +1}), or with `mean` (their mean, a
    scalar, target); distances are differentiable twice in `outputs` with the target held fixed:
    gradient 2 (outputs - target) / n.
    Raises ValueError on wrong shapes; torch.func's transforms and forward-mode differentiation
    raise too. Source: Doan et al. 2022 (HSWD), eq. 7 without the root.
    """
    if outputs.dim() != 2:
        raise ValueError(
            f"binary_wasserstein: outputs are {tuple(outputs.shape)}; expected [n, bits]"
        )
    if negatives is not None and seed is not None:
        raise ValueError("binary_wasserstein: give `negatives` or `seed`, not both")
    if negatives is not None and (
        negatives.shape != outputs.shape[1:] or negatives.dtype != torch.int32
    ):
        raise ValueError(
            f"binary_wasserstein: negatives are {negatives.dtype} {tuple(negatives.shape)}; "
            f"expected one count per bit, int32 [{outputs.shape[1]}]"
        )
    if seed is not None and (seed.numel() != 1 or seed.dtype != torch.int64):
        raise ValueError(
            f"binary_wasserstein: seed is {seed.dtype} {tuple(seed.shape)}; expected one int64"
        )
    if torch.compiler.is_compiling():
        return binary_wasserstein_op(outputs, negatives, seed, mean)
    return _Eager.apply(outputs, negatives, seed, mean)
