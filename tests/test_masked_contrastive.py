"""masked_contrastive against a literal loop: tiles, masks, NaN, second derivatives."""

import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hashfast.ops import OPS, masked_contrastive
from hashfast.ops.masked_contrastive import normalise

pytestmark = pytest.mark.usefixtures("one_thread")

# The package's attribute of this name is the function.
module = sys.modules[masked_contrastive.__module__]


def drawn(m=9, r=13, bits=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    anchors, keys = (
        torch.randn(n, bits, dtype=torch.float64, generator=generator).to(dtype) for n in (m, r)
    )
    groups = [torch.randint(-1, 3, (n,), generator=generator) for n in (m, r)]
    excluded = torch.randint(-3, r + 4, (m, 3), generator=generator)
    return anchors, keys, *groups, excluded


def literal(anchors, keys, temperature, anchor_groups=None, key_groups=None, excluded=None):
    """Differentiable; one pair at a time."""
    found = []
    for i, anchor in enumerate(anchors):
        logits = []
        for r, key in enumerate(keys):
            if anchor_groups is not None and anchor_groups[i] == key_groups[r]:
                continue
            if excluded is not None and r in excluded[i].tolist():
                continue
            if anchor.any() and key.any():
                logits.append(anchor @ key / (anchor.norm() * key.norm()) / temperature)
            else:
                logits.append(0 * anchor.sum())
        found.append(torch.stack(logits).logsumexp(0) if logits else anchor.sum() * 0 - math.inf)
    return torch.stack(found)


@pytest.mark.parametrize("masked", ["nothing", "groups", "excluded", "both"])
@pytest.mark.parametrize("temperature", [0.3, 0.02, 0.001])
@pytest.mark.parametrize("tile", [1, 40, 2**17])
def test_agrees_with_the_loop(masked, temperature, tile, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    anchors, keys, *masks, excluded = drawn()
    keys[4], anchors[2] = 0, 0
    masks = {
        "nothing": (),
        "groups": masks,
        "excluded": (None, None, excluded),
        "both": (*masks, excluded),
    }[masked]
    pair = anchors.requires_grad_(), keys.requires_grad_()
    got, expected = (f(*pair, temperature, *masks) for f in (masked_contrastive, literal))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 2, len(anchors), dtype=torch.float64)
    grads = torch.autograd.grad((weights * got).sum(), pair)
    truth = torch.autograd.grad((weights * expected).sum(), pair)
    for ours, plain in zip(grads, truth, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    for one in (0, 1):  # a gradient in one of them only
        lone = [x.detach().requires_grad_(i == one) for i, x in enumerate(pair)]
        value = masked_contrastive(*lone, temperature, *masks)
        (grad,) = torch.autograd.grad((weights * value).sum(), lone[one])
        torch.testing.assert_close(grad, truth[one], rtol=1e-10, atol=1e-10)


def test_anchors_are_differentiable_where_the_operation_was_not_asked_for_it():
    anchors, keys, *masks = drawn()
    anchors.requires_grad_()
    expected = torch.autograd.grad(masked_contrastive(anchors, keys, 0.3, *masks).sum(), anchors)
    value = OPS["masked_contrastive"](anchors, keys, *masks, 0.3, False)[0]
    torch.testing.assert_close(torch.autograd.grad(value.sum(), anchors), expected)


@pytest.mark.parametrize("temperature", [0.3, 0.02])
def test_second_derivatives(temperature):
    anchors, keys, *masks = drawn(4, 5, 3)
    masks[0][0], masks[1][:] = 1, 1  # no key for some anchors
    masks[0][1:] = torch.tensor([2, 1, 0])
    pair = [anchors.requires_grad_(), keys.requires_grad_()]

    def value(*pair):
        return masked_contrastive(*pair, temperature, *masks[:2]).nan_to_num(neginf=0)

    # Smooth at this temperature only for steps much smaller than usual.
    assert torch.autograd.gradgradcheck(value, pair, eps=1e-7, atol=1e-3, rtol=1e-3)


def test_second_derivative_of_zero_rows_is_finite():
    anchors, keys, *_ = drawn()
    anchors[0], keys[3] = 0, 0
    pair = anchors.requires_grad_(), keys.requires_grad_()
    first = torch.autograd.grad(masked_contrastive(*pair, 0.3).sum(), pair, create_graph=True)
    for grad in torch.autograd.grad(sum(g.square().sum() for g in first), pair):
        assert grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.3, 0.02])
def test_nan_reaches_only_those_who_may_use_it(temperature):
    anchors, keys, *_ = drawn()
    # Anchor 5 and key 3 are NaN: anchor 5 may use key 7 only, key 3 is for anchor 0 only.
    allowed = torch.ones(9, 13, dtype=torch.bool)
    allowed[1:, 3] = allowed[5] = False
    allowed[5, 7] = True
    without = torch.arange(13).expand(9, 13).where(~allowed, -1)
    clean = [x.clone().requires_grad_() for x in (anchors, keys)]
    keys[3], anchors[5] = math.nan, math.nan
    pair = [x.requires_grad_() for x in (anchors, keys)]
    got, expected = (masked_contrastive(*p, temperature, excluded=without) for p in (pair, clean))
    fine, others = [1, 2, 3, 4, 6, 7, 8], [0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12]
    assert got.isnan().tolist() == [i in (0, 5) for i in range(9)]
    torch.testing.assert_close(got[fine], expected[fine])
    # Anchor 0 would spoil every key, so it is left out: key 7 has NaN of anchor 5 alone.
    rows = pair[0].detach()[1:].requires_grad_()
    value = masked_contrastive(rows, pair[1], temperature, excluded=without[1:])
    grads = torch.autograd.grad(value.sum(), (rows, pair[1]))
    truth = torch.autograd.grad(expected[fine].sum(), clean)
    torch.testing.assert_close(grads[0][[0, 1, 2, 3, 5, 6, 7]], truth[0][fine])
    assert grads[0][4].isnan().all()
    assert grads[1][7].isnan().all()
    torch.testing.assert_close(grads[1][others], truth[1][others])


def test_masked_nan_leaves_gradients_alone():
    anchors, keys, *_ = drawn()
    excluded = torch.full((9, 1), 3)
    clean = [x.clone().requires_grad_() for x in (anchors, keys)]
    keys[3] = math.nan
    pair = [x.requires_grad_() for x in (anchors, keys)]
    grads, truth = (
        torch.autograd.grad(masked_contrastive(*p, 0.3, None, None, excluded).sum(), p)
        for p in (pair, clean)
    )
    for ours, plain in zip(grads, truth, strict=True):
        torch.testing.assert_close(ours, plain)
    assert grads[1][3].eq(0).all()


def test_non_finite_gradient_reaches_the_keys():
    anchors, keys, *_ = drawn()
    keys.requires_grad_()
    for bad in (math.nan, math.inf):
        grad = torch.ones(9, dtype=torch.float64)
        grad[4] = bad
        (found,) = torch.autograd.grad(masked_contrastive(anchors, keys, 0.3), keys, grad)
        assert not found.isfinite().any()


def test_rows_of_any_magnitude():
    anchors, keys, *_ = drawn(dtype=torch.float32)
    expected = masked_contrastive(anchors, keys, 0.3)
    scale = torch.tensor([1e30, 1e-30, 1, 3e38, 1e-38, 1e25, 1, 1e19, 1e-20]).unsqueeze(1)
    largest = anchors.abs().amax(1, keepdim=True)
    scaled = (anchors / largest * scale.clamp(max=3e38)).requires_grad_()
    got = masked_contrastive(scaled, keys, 0.3)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    plain = (anchors / largest).requires_grad_()
    (one,) = torch.autograd.grad(masked_contrastive(plain, keys, 0.3).sum(), plain)
    (grad,) = torch.autograd.grad(got.sum(), scaled)
    usual = [0, 1, 2, 5, 6, 7, 8]  # of the others gradients are subnormal or infinite
    torch.testing.assert_close((grad * scale)[usual], one[usual], rtol=1e-4, atol=1e-5)
    assert not grad.isnan().any()
    unit, length = normalise(torch.tensor([[3e38, -3e38], [0, 0]]))
    torch.testing.assert_close(unit, torch.tensor([[0.5**0.5, -(0.5**0.5)], [0, 0]]))
    assert length.tolist() == [[math.inf], [math.inf]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_and_autocast(dtype):
    anchors, keys, *masks = drawn(dtype=dtype)
    wide = [x.double().requires_grad_() for x in (anchors, keys)]
    pair = [x.requires_grad_() for x in (anchors, keys)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = masked_contrastive(*pair, 0.3, *masks)
        floats = masked_contrastive(*(x.float() for x in pair), 0.3, *masks)
        first = torch.autograd.grad(floats.sum(), pair, create_graph=True)
    expected = masked_contrastive(*wide, 0.3, *masks)
    assert got.dtype == floats.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(floats, got)
    grads = torch.autograd.grad(got.sum(), pair)
    truth = torch.autograd.grad(expected.sum(), wide)
    for ours, again, plain in zip(grads, first, truth, strict=True):
        assert ours.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(ours.double(), plain, rtol=2 * eps, atol=1e-5)
        torch.testing.assert_close(again.double(), plain, rtol=2 * eps, atol=1e-5)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made inside has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_no_tensor_of_all_pairs(monkeypatch):
    monkeypatch.setattr(module, "TILE", 1000)
    anchors, keys, *masks = drawn(70, 90, 4, dtype=torch.float32)
    logsumexp = OPS["masked_contrastive"].reference(anchors, keys, *masks, 0.3, False)[0]
    with Largest() as seen:
        OPS["masked_contrastive"].reference(anchors, keys, *masks, 0.3, True)
        OPS["masked_contrastive_backward"].reference(
            logsumexp, logsumexp, anchors, keys, *masks, 0.3
        )
    assert seen.elements <= 1100  # a tile and its column for excluded rows that are none


def test_wrong_input_is_named():
    anchors, keys, groups, others, excluded = drawn()
    with pytest.raises(TypeError, match=r"float64 and keys torch\.float32; expected"):
        masked_contrastive(anchors, keys.float(), 0.3)
    with pytest.raises(TypeError, match="floating point"):
        masked_contrastive(anchors.long(), keys.long(), 0.3)
    with pytest.raises(TypeError, match=r"key_groups are torch\.float32; ids are integers"):
        masked_contrastive(anchors, keys, 0.3, groups, others.float())
    with pytest.raises(TypeError, match=r"excluded is torch\.int32; expected int64"):
        masked_contrastive(anchors, keys, 0.3, excluded=excluded.int())
    with pytest.raises(ValueError, match="have no columns"):
        masked_contrastive(anchors[:, :0], keys[:, :0], 0.3)
    with pytest.raises(ValueError, match=r"key_groups are \(9,\); expected \[13\]"):
        masked_contrastive(anchors, keys, 0.3, groups, groups)
