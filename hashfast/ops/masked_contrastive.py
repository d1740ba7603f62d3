"""Masked cosine contrastive normaliser: log-sum-exp over the allowed keys of each anchor.

    out_i = log sum_{r allowed for i} exp(cos(x_i, y_r) / tau)

serves NT-Xent, InfoNCE, the proxy cross-entropy and BRCD (paper 004, eq. 10). A key is allowed when
its group differs from the anchor's and it is not among the anchor's excluded rows. Bit masks
(eq. 9) are applied by multiplying anchors and keys beforehand: that costs M x b, not M x R. A row
of zeros has cosine 0 with everything and gets gradient 0.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hashfast.ops._op import Op, accumulator


def _normalise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows and inverse norms [n, 1]; a zero row stays zero with inverse norm 0."""
    rows = rows.to(accumulator(rows.dtype))
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    inverse = torch.where(norm > 0, 1 / norm, 0.0)
    return rows * inverse, inverse


def _allowed(
    shape: tuple[int, int],
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    device: torch.device,
) -> Tensor:
    allowed = torch.ones(shape, dtype=torch.bool, device=device)
    if anchor_groups is not None and key_groups is not None:
        allowed &= anchor_groups.unsqueeze(1) != key_groups
    if excluded is not None:
        key = torch.arange(shape[1], device=device)
        for column in excluded.unbind(1):
            allowed &= column.unsqueeze(1) != key
    return allowed


def _reference(
    anchors: Tensor,
    keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    temperature: float,
) -> Tensor:
    logits = _normalise(anchors)[0] @ _normalise(keys)[0].T / temperature
    shape = len(anchors), len(keys)
    allowed = _allowed(shape, anchor_groups, key_groups, excluded, anchors.device)
    return logits.masked_fill(~allowed, -torch.inf).logsumexp(1)


def _backward_reference(
    grad: Tensor,
    logsumexp: Tensor,
    anchors: Tensor,
    keys: Tensor,
    anchor_groups: Tensor | None,
    key_groups: Tensor | None,
    excluded: Tensor | None,
    temperature: float,
    anchors_grad: bool,
    keys_grad: bool,
) -> tuple[Tensor, Tensor]:
    unit_anchors, inverse_anchors = _normalise(anchors)
    unit_keys, inverse_keys = _normalise(keys)
    cosines = unit_anchors @ unit_keys.T
    shape = len(anchors), len(keys)
    allowed = _allowed(shape, anchor_groups, key_groups, excluded, anchors.device)
    weights = (cosines / temperature - logsumexp.unsqueeze(1)).exp() * grad.unsqueeze(1)
    weights = torch.where(allowed, weights, 0.0) / temperature
    # d cos / d x = (y - cos x) / |x| for unit x and y; the second term is the radial part.
    radial = weights * cosines
    grad_anchors, grad_keys = anchors.new_empty(0), keys.new_empty(0)
    if anchors_grad:
        along = radial.sum(1, keepdim=True) * unit_anchors
        grad_anchors = ((weights @ unit_keys - along) * inverse_anchors).to(anchors.dtype)
    if keys_grad:
        along = radial.sum(0).unsqueeze(1) * unit_keys
        grad_keys = ((weights.T @ unit_anchors - along) * inverse_keys).to(keys.dtype)
    return grad_anchors, grad_keys


def _backward_fake(grad, logsumexp, anchors, keys, *rest):
    *_, anchors_grad, keys_grad = rest
    grad_anchors = anchors.new_empty(anchors.shape if anchors_grad else (0,))
    return grad_anchors, keys.new_empty(keys.shape if keys_grad else (0,))


def _setup_context(ctx, inputs, output):
    *tensors, ctx.temperature = inputs
    ctx.save_for_backward(output, *tensors)


def _backward(ctx, grad):
    need = ctx.needs_input_grad[:2]
    grads = masked_contrastive_backward(grad, *ctx.saved_tensors, ctx.temperature, *need)
    return *(g if n else None for g, n in zip(grads, need, strict=True)), None, None, None, None


def _examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    generator = torch.Generator().manual_seed(0)
    for m, r, bits, masked in (
        (1, 1, 1, False),
        (6, 8, 5, False),
        (9, 14, 6, True),
        (70, 33, 32, True),
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
        yield anchors.to(device, dtype), keys.to(device, dtype), *groups, 0.3
    yield anchors[:0].to(device, dtype), keys.to(device, dtype), None, None, None, 0.3


def _backward_examples(device: str, dtype: torch.dtype) -> Iterator[tuple]:
    for args in _examples(device, dtype):
        logsumexp = _reference(*args)
        yield torch.ones_like(logsumexp), logsumexp, *args, True, True


_ARGUMENTS = (
    "Tensor anchors, Tensor keys, Tensor? anchor_groups, Tensor? key_groups, Tensor? excluded, "
    "float temperature"
)

masked_contrastive_backward = Op(
    f"masked_contrastive_backward(Tensor grad, Tensor logsumexp, {_ARGUMENTS}, "
    "bool anchors_grad, bool keys_grad) -> (Tensor, Tensor)",
    reference=_backward_reference,
    fake=_backward_fake,
    examples=_backward_examples,
)

masked_contrastive_op = Op(
    f"masked_contrastive({_ARGUMENTS}) -> Tensor",
    reference=_reference,
    fake=lambda anchors, *_: anchors.new_empty(anchors.shape[0], dtype=accumulator(anchors.dtype)),
    examples=_examples,
    backward=_backward,
    setup_context=_setup_context,
)


def masked_contrastive(
    anchors: Tensor,
    keys: Tensor,
    temperature: float,
    anchor_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """log sum over allowed keys of exp(cos(anchor, key) / temperature), float [M].

    anchors [M, b], keys [R, b]: floating point; half types are accumulated, and returned, in
    float32. anchor_groups [M] and key_groups [R]: integer ids; a key of the anchor's own group is
    not allowed. excluded int64 [M, E]: key rows that are not allowed for each anchor; -1 is none.
    An anchor with no allowed key gets -inf and gradient 0. Differentiable once in anchors and keys.
    Raises ValueError on shapes that do not fit or a temperature that is not positive.
    """
    if anchors.dim() != 2 or keys.dim() != 2 or anchors.shape[1] != keys.shape[1]:
        raise ValueError(
            f"masked_contrastive: anchors are {tuple(anchors.shape)} and keys {tuple(keys.shape)}; "
            "expected [M, b] and [R, b]"
        )
    if (anchor_groups is None) != (key_groups is None):
        raise ValueError("masked_contrastive: give both anchor_groups and key_groups, or neither")
    for name, tensor, rows in (
        ("anchor_groups", anchor_groups, len(anchors)),
        ("key_groups", key_groups, len(keys)),
    ):
        if tensor is not None and tensor.shape != (rows,):
            raise ValueError(
                f"masked_contrastive: {name} are {tuple(tensor.shape)}; expected [{rows}]"
            )
    if excluded is not None and (excluded.dim() != 2 or len(excluded) != len(anchors)):
        raise ValueError(
            f"masked_contrastive: excluded is {tuple(excluded.shape)}; expected [{len(anchors)}, E]"
        )
    if not temperature > 0:
        raise ValueError(f"masked_contrastive: temperature is {temperature}; it must be positive")
    return masked_contrastive_op(anchors, keys, anchor_groups, key_groups, excluded, temperature)
