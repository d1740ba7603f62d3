"""Masked cosine contrastive normaliser: log-sum-exp over the allowed keys of each anchor.

    out_i = log sum_{r allowed for i} exp(cos(x_i, y_r) / tau)

serves NT-Xent, InfoNCE, the proxy cross-entropy and BRCD (paper 004, eq. 10). A key is allowed when
its group differs from the anchor's and it is not among the anchor's excluded rows. Bit masks
(eq. 9) are applied by multiplying anchors and keys beforehand: that costs M x b, not M x R. A row
of zeros has cosine 0 with everything and gets gradient 0; NaN reaches only those who may use it.

The cosines are made a tile of some anchors at a time and never kept. out_i depends on no other
anchor, so its whole gradient in x_i is summed up in the pass that finds it: with the keys fixed, as
a teacher's are, nothing is left to do in backward.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.ops._op import Op, accumulator

# Cosines held at a time: a tile of float32 stays in the second cache.
TILE = 2**17
# Up to exp(this) sums of exponentials need no shift in float32, of any number of keys.
LARGEST_LOGIT = 40.0


def normalise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows [n, b] and lengths [n, 1]; a zero row stays zero and has length infinity.

    Divided by their largest entry first: squares of float32 overflow from 2e19 on.
    """
    rows = rows.to(accumulator(rows.dtype))
    largest = rows.detach().abs().amax(1, keepdim=True)
    largest = torch.where(largest > 0, largest, torch.inf)
    rows = rows / largest
    square = rows.square().sum(1, keepdim=True)
    norm = square.masked_fill(square == 0, 1.0).sqrt()  # NaN stays NaN
    return rows / norm, largest * norm


def _off_the_row(pull: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    """What a pull on unit rows is on the rows themselves: its part across them, / length."""
    unit = unit.nan_to_num(nan=0.0)
    along = (pull * unit).sum(1, keepdim=True)
    return (pull - along * unit) / length.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _parts(length: int, other: int) -> Iterator[slice]:
    """Slices of `length` rows, at least one, that make tiles with `other` rows."""
    step = max(1, TILE // max(1, other))
    return (slice(start, start + step) for start in range(0, max(1, length), step))


def _logits(
    scaled: Tensor,
    unit_keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
) -> Tensor:
    """Logits [M, R], -inf where a key is not allowed; with `excluded`, one such column more.

    scaled [M, b]: unit anchors / temperature.
    """
    if excluded is not None:
        # A key that no anchor may use stands for rows that are none.
        unit_keys = F.pad(unit_keys, (0, 0, 0, 1))
    logits = scaled @ unit_keys.T
    if anchor_groups is not None and key_groups is not None:
        same = anchor_groups.unsqueeze(1) == key_groups
        logits[:, : len(key_groups)].masked_fill_(same, -torch.inf)
    if excluded is not None:
        none = len(unit_keys) - 1
        excluded = excluded.where((excluded >= 0) & (excluded < none), none)
        logits.scatter_(1, F.pad(excluded, (0, 1), value=none), -torch.inf)
    return logits


def _reference(
    anchors: Tensor,
    keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    unit_anchors, length = normalise(anchors)
    unit_keys = normalise(keys)[0]
    values = unit_keys.nan_to_num(nan=0.0) if with_gradient else unit_keys
    scaled = unit_anchors / temperature
    # Filled a part at a time: small results kept beside freed tiles would fragment the memory.
    total = scaled.new_empty(len(scaled))
    shift = torch.zeros_like(total)
    pull = torch.empty_like(scaled)
    for part in _parts(len(scaled), len(unit_keys)):
        groups = None if anchor_groups is None else anchor_groups[part]
        without = None if excluded is None else excluded[part]
        tile = _logits(scaled[part], unit_keys, groups, key_groups, without)
        if 1 / temperature > LARGEST_LOGIT:
            shift[part] = tile.detach().logsumexp(1).nan_to_num(nan=torch.nan, neginf=0.0)
            tile -= shift[part].unsqueeze(1)
        weights = tile.exp_()
        total[part] = weights.sum(1)
        if with_gradient:
            pull[part] = weights[:, : len(values)] @ values
    nothing = total == 0
    total = total.masked_fill(nothing, 1.0)
    logsumexp = (total.log() + shift).masked_fill(nothing, -torch.inf)
    if not with_gradient:
        return logsumexp, logsumexp.new_empty(0)
    pull = pull / (temperature * total).unsqueeze(1)
    return logsumexp, _off_the_row(pull, unit_anchors, length)


def _backward_reference(
    grad: Tensor,
    logsumexp: Tensor,
    anchors: Tensor,
    keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    temperature: float,
) -> Tensor:
    unit_anchors = normalise(anchors)[0]
    unit_keys, length = normalise(keys)
    shift = torch.zeros_like(logsumexp)
    if 1 / temperature > LARGEST_LOGIT:
        shift = logsumexp.nan_to_num(nan=0.0, neginf=0.0)
    factor = grad * (shift - logsumexp).exp() / temperature
    factor = factor.masked_fill(logsumexp == -torch.inf, 0.0).unsqueeze(1)
    # The logits become NaN where the factor is not finite, and masks still apply to them; as a
    # value it would reach every key.
    scaled = unit_anchors / temperature + 0 * factor
    values = (factor * unit_anchors).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    pull = torch.empty_like(unit_keys)
    for part in _parts(len(unit_keys), len(scaled)):
        groups = None if key_groups is None else key_groups[part]
        without = None if excluded is None else excluded - part.start
        tile = _logits(scaled, unit_keys[part], anchor_groups, groups, without)
        if 1 / temperature > LARGEST_LOGIT:
            tile -= shift.unsqueeze(1)
        pull[part] = (tile.exp_().T @ values)[: len(pull[part])]
    return _off_the_row(pull, unit_keys, length).to(keys.dtype)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.temperature, _ = inputs
    logsumexp, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.set_materialize_grads(False)  # or backward is given zeros for the gradient
    ctx.save_for_backward(logsumexp, gradient, *tensors)


def _backward(ctx, grad, _):
    if grad is None:
        return (None,) * 7
    logsumexp, gradient, *tensors = ctx.saved_tensors
    need_anchors, need_keys = ctx.needs_input_grad[:2]
    arguments = *tensors, ctx.temperature
    if torch.is_grad_enabled():
        return _differentiable_backward(grad, arguments, (need_anchors, need_keys))
    anchors = keys = None
    if need_anchors:
        if gradient.dim() == 1:  # the call did not ask for it
            gradient = masked_contrastive_op(*arguments, True)[1]
        anchors = (grad.unsqueeze(1) * gradient).to(tensors[0].dtype)
    if need_keys:
        keys = masked_contrastive_backward(grad, logsumexp, *arguments)
    return anchors, keys, None, None, None, None, None


def _differentiable_backward(
    grad: Tensor, arguments: tuple, needed: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    """For a second derivative: by autograd through the reference, which keeps all M x R cosines."""
    with torch.autocast(grad.device.type, enabled=False):
        logsumexp = masked_contrastive_op.reference(*arguments, False)[0]
        wanted = [a for a, need in zip(arguments, needed, strict=False) if need]
        found = iter(torch.autograd.grad(logsumexp, wanted, grad, create_graph=True))
    return *(next(found) if need else None for need in needed), None, None, None, None, None


def _examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)
    for m, r, bits, masked, temperature in (
        (1, 1, 1, False, 0.3),
        (6, 8, 5, False, 0.024),
        (9, 14, 6, True, 0.3),
        (70, 33, 32, True, 0.3),
        (20, 40, 17, True, 0.024),
        (55, 130, 19, True, 0.024),
    ):
        anchors = torch.randn(m, bits, generator=generator, dtype=torch.float64)
        keys = torch.randn(r, bits, generator=generator, dtype=torch.float64)
        anchor_groups = key_groups = excluded = None
        if masked:
            anchors[1] = 0
            anchor_groups = torch.randint(0, 3, (m,), generator=generator).to(device)
            key_groups = torch.randint(0, 3, (r,), generator=generator).to(device)
            excluded = torch.randint(-1, r, (m, 2), generator=generator).to(device)
        groups = (anchor_groups, key_groups, excluded)
        yield anchors.to(device, dtype), keys.to(device, dtype), *groups, temperature, True
    yield anchors[:0].to(device, dtype), keys.to(device, dtype), None, None, None, 0.3, True
    yield anchors.to(device, dtype), keys[:0].to(device, dtype), None, None, None, 0.3, True


def _backward_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for *args, _ in _examples(device, dtype):
        logsumexp = masked_contrastive_op.reference(*args, False)[0]
        grad = torch.linspace(-1, 1, len(logsumexp), dtype=logsumexp.dtype, device=device)
        yield grad, logsumexp, *args


_ARGUMENTS = (
    "Tensor anchors, Tensor keys, Tensor? anchor_groups, Tensor? key_groups, Tensor? excluded, "
    "float temperature"
)

masked_contrastive_backward = Op(
    f"masked_contrastive_backward(Tensor grad, Tensor logsumexp, {_ARGUMENTS}) -> Tensor",
    reference=_backward_reference,
    fake=lambda grad, logsumexp, anchors, keys, *_: torch.empty_like(
        keys, memory_format=torch.contiguous_format
    ),
    examples=_backward_examples,
    compiled=("cpu",),
    triton="hashfast.kernels.masked_contrastive:backward",
)


def _fake(anchors, *rest):
    dtype = accumulator(anchors.dtype)
    gradient = anchors.new_empty(anchors.shape if rest[-1] else (0,), dtype=dtype)
    return anchors.new_empty(anchors.shape[0], dtype=dtype), gradient


masked_contrastive_op = Op(
    f"masked_contrastive({_ARGUMENTS}, bool with_gradient) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    examples=_examples,
    compiled=("cpu",),
    triton="hashfast.kernels.masked_contrastive:forward",
    backward=_backward,
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    """The operation's gradient with fewer layers of Python, which is most of a small batch's time.

    Backward uses the operation with a gradient only where a second derivative is asked for.
    """

    @staticmethod
    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            result = masked_contrastive_op(*inputs)
        _setup_context(ctx, inputs, result)
        return result

    @staticmethod
    def backward(ctx, grad, grad_gradient):
        if torch.is_grad_enabled():
            return _backward(ctx, grad, grad_gradient)
        with torch._C._AutoDispatchBelowAutograd():
            return _backward(ctx, grad, grad_gradient)


def masked_contrastive(
    anchors: Tensor,
    keys: Tensor,
    temperature: float,
    anchor_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """log sum over allowed keys of exp(cos(anchor, key) / temperature), float [M].

    anchors [M, b], keys [R, b], b >= 1: floating point; half types are accumulated, and returned,
    in float32. anchor_groups [M] and key_groups [R]: integer ids; a key of the anchor's own group
    is not allowed. excluded int64 [M, E]: key rows that are not allowed for each anchor; one
    outside [0, R), such as -1, is none. Memory grows with M + R, not with their product.
    An anchor with no allowed key gets -inf and gradient 0. Differentiable twice in anchors and
    keys; a second derivative keeps all M x R cosines.
    Raises ValueError on shapes that do not fit or a temperature that is not positive, TypeError on
    dtypes that do not fit.
    """
    if anchors.dim() != 2 or keys.dim() != 2 or anchors.shape[1] != keys.shape[1]:
        raise ValueError(
            f"masked_contrastive: anchors are {tuple(anchors.shape)} and keys {tuple(keys.shape)}; "
            "expected [M, b] and [R, b]"
        )
    if anchors.shape[1] == 0:
        raise ValueError("masked_contrastive: anchors and keys have no columns; expected b >= 1")
    if not (
        anchors.is_floating_point()
        and keys.is_floating_point()
        and accumulator(anchors.dtype) == accumulator(keys.dtype)
    ):
        raise TypeError(
            f"masked_contrastive: anchors are {anchors.dtype} and keys {keys.dtype}; expected "
            "floating point, both float64 or neither: convert one of them"
        )
    if (anchor_groups is None) != (key_groups is None):
        raise ValueError("masked_contrastive: give both anchor_groups and key_groups, or neither")
    for name, groups, rows in (
        ("anchor_groups", anchor_groups, len(anchors)),
        ("key_groups", key_groups, len(keys)),
    ):
        if groups is not None and groups.shape != (rows,):
            raise ValueError(
                f"masked_contrastive: {name} are {tuple(groups.shape)}; expected [{rows}]"
            )
        if groups is not None and groups.is_floating_point():
            raise TypeError(f"masked_contrastive: {name} are {groups.dtype}; ids are integers")
    if excluded is not None and (excluded.dim() != 2 or len(excluded) != len(anchors)):
        raise ValueError(
            f"masked_contrastive: excluded is {tuple(excluded.shape)}; expected [{len(anchors)}, E]"
        )
    if excluded is not None and excluded.dtype != torch.int64:
        raise TypeError(f"masked_contrastive: excluded is {excluded.dtype}; expected int64")
    if not temperature > 0:
        raise ValueError(f"masked_contrastive: temperature is {temperature}; it must be positive")
    with_gradient = anchors.requires_grad and torch.is_grad_enabled()
    inputs = anchors, keys, anchor_groups, key_groups, excluded, temperature, with_gradient
    if torch.compiler.is_compiling():
        return masked_contrastive_op(*inputs)[0]
    return _Eager.apply(*inputs)[0]
