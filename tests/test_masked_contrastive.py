"""masked_contrastive against a literal loop: tiles, masks, NaN, second derivatives."""

import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hashfast.ops import OPS, masked_contrastive
from hashfast.ops._op import Op, _without_autocast
from hashfast.ops.masked_contrastive import normalise

pytestmark = pytest.mark.usefixtures("one_thread")

# The package's attribute of this name is the function.
module = sys.modules[masked_contrastive.__module__]


@pytest.fixture(params=["kernel", "reference"], autouse=True)
def served(request, monkeypatch):
    """Every test runs on the compiled kernel, where there is one, and on the reference."""
    if request.param == "reference":
        monkeypatch.setattr(
            Op, "__call__", lambda op, *args: _without_autocast(op.reference)(*args)
        )
    elif OPS["masked_contrastive"].backend("cpu") == "reference":
        pytest.skip(OPS["masked_contrastive"].why_reference("cpu"))


only_kernel = pytest.mark.parametrize("served", ["kernel"], indirect=True)


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
@pytest.mark.parametrize(
    ("served", "tile"),
    [("kernel", None), *(("reference", tile) for tile in (1, 40, 2**17))],
    indirect=["served"],
)
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


def dense(anchors, keys, temperature, allowed):
    """Differentiable, all pairs at once: of the anchors that have an allowed key."""
    unit = (torch.nn.functional.normalize(rows, eps=1e-300) for rows in (anchors, keys))
    logits = next(unit) @ next(unit).T / temperature
    return logits.masked_fill(~allowed, -math.inf)[allowed.any(1)].logsumexp(1)


@only_kernel
@pytest.mark.parametrize(
    ("m", "r", "bits"),
    [(5, 63, 7), (6, 64, 16), (7, 65, 33), (47, 127, 48), (49, 129, 1), (97, 1100, 3)],
)
@pytest.mark.parametrize("temperature", [0.3, 0.02])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shapes_around_tiles(m, r, bits, temperature, dtype):
    """Rows go together in sixes and 48s, columns in 64s, sums in 1024s, bits in vectors."""
    anchors, keys, *groups, excluded = drawn(m, r, bits, dtype=dtype)
    # The nearer the key, the later it comes: the largest logit of the first anchor keeps growing.
    keys = keys[(keys @ anchors[0]).argsort()]
    excluded[:, 0] = torch.arange(m)
    groups[0][1], groups[1][:5] = 7, 7  # its own group
    groups[0][0], groups[0][2] = 9, 2**32 + 1
    excluded[3] = -1
    excluded = torch.cat([excluded, excluded.new_full((m, r), -1)], 1)
    excluded[3, :r] = torch.arange(r).flip(0)
    allowed = groups[0].unsqueeze(1) != groups[1]
    allowed &= (excluded.unsqueeze(1) != torch.arange(r).unsqueeze(1)).all(2)
    assert allowed.any(1).tolist() == [i != 3 for i in range(m)]
    weights = torch.linspace(-1, 2, m, dtype=dtype)
    pair = [x.requires_grad_() for x in (anchors, keys)]
    wide = [x.detach().double().requires_grad_() for x in pair]
    got = masked_contrastive(*pair, temperature, *groups, excluded)
    expected = dense(*wide, temperature, allowed)
    grads = torch.autograd.grad((weights * got)[allowed.any(1)].sum(), pair)
    truth = torch.autograd.grad((weights.double()[allowed.any(1)] * expected).sum(), wide)
    close = (
        {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 5e-5}
    )
    assert got[3] == -math.inf
    torch.testing.assert_close(got[allowed.any(1)], expected.to(dtype), **close)
    for ours, plain in zip(grads, truth, strict=True):
        scale = plain.abs().max().clamp(min=1)
        torch.testing.assert_close(ours / scale, (plain / scale).to(dtype), **close)
    whole = torch.autograd.grad(
        masked_contrastive(*pair, temperature, *groups, excluded), pair, weights
    )
    for ours, again in zip(grads, whole, strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.bool]
)
def test_group_ids_of_any_integer_type(dtype):
    anchors, keys, *groups, _ = drawn()
    groups = [g.clamp(min=0).to(dtype) for g in groups]
    expected = literal(anchors, keys, 0.3, *(g.long() for g in groups))
    torch.testing.assert_close(masked_contrastive(anchors, keys, 0.3, *groups), expected)
    if dtype != torch.uint16:  # which PyTorch compares with its own kind only
        mixed = masked_contrastive(anchors, keys, 0.3, groups[0].long(), groups[1])
        torch.testing.assert_close(mixed, expected)


@only_kernel
def test_result_does_not_depend_on_threads():
    anchors, keys, *masks = drawn(200, 1500, 64, dtype=torch.float32)
    pair, before = [x.requires_grad_() for x in (anchors, keys)], torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        value = masked_contrastive(*pair, 0.3, *masks)
        found.append((value, *torch.autograd.grad(value.sum(), pair)))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@only_kernel
def test_wrong_arguments_of_the_operation_are_refused():
    anchors, keys, groups, others, excluded = drawn()
    op = OPS["masked_contrastive"]
    for message, arguments in {
        "must be .M, b. and .R, b.": (anchors, keys[:, :2], None, None, None),
        "both float64, or neither": (anchors, keys.float(), None, None, None),
        "rows must be float64, float32": (anchors.long(), keys.long(), None, None, None),
        "go together": (anchors, keys, groups, None, None),
        "groups must be .9.": (anchors, keys, others, others, None),
        "groups must be .13.": (anchors, keys, groups, groups, None),
        "ids of groups are integers": (anchors, keys, groups.float(), others, None),
        "excluded must be int64 .9, E.": (anchors, keys, None, None, excluded[:4]),
        "excluded must be int64": (anchors, keys, None, None, excluded.int()),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            op(*arguments, 0.3, True)
    value = op(anchors, keys, None, None, None, 0.3, False)[0]
    for grad in (value[1:], value.float()):
        with pytest.raises(RuntimeError, match=r"grad and logsumexp must be float64 .9."):
            OPS["masked_contrastive_backward"](grad, value, anchors, keys, None, None, None, 0.3)


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


@pytest.mark.parametrize("temperature", [0.3, 0.02])
def test_nan_without_keys_is_no_nan(temperature):
    anchors, keys, *_ = drawn()
    anchors[2] = math.nan
    anchors.requires_grad_()
    excluded = torch.full((9, 13), -1)
    excluded[2] = torch.arange(13)
    value = masked_contrastive(anchors, keys, temperature, excluded=excluded)
    assert value[2] == -math.inf
    assert value.isnan().sum() == 0
    assert torch.autograd.grad(value, anchors, torch.ones_like(value))[0][2].eq(0).all()


@pytest.mark.parametrize("temperature", [0.3, 0.02])
def test_nan_of_any_bits(temperature):
    anchors, keys, *_ = drawn(dtype=torch.float32)
    keys[3] = torch.tensor(0x7FC00101, dtype=torch.int32).view(torch.float32)
    assert masked_contrastive(anchors, keys, temperature).isnan().all()


@only_kernel
def test_many_keys_keep_their_digits():
    """Of codes, whose few different cosines would all round the same way."""
    anchors, keys, *_ = drawn(6, 40_000, 8, dtype=torch.float32)
    pair = anchors.sign().requires_grad_(), keys.sign()
    wide = pair[0].detach().double().requires_grad_(), keys.sign().double()
    got, truth = (masked_contrastive(*p, 0.3) for p in (pair, wide))
    torch.testing.assert_close(got.double(), truth, rtol=8e-8, atol=0)
    grads, exact = (torch.autograd.grad(v.sum(), p[0])[0] for v, p in ((got, pair), (truth, wide)))
    assert (grads - exact).abs().max() < 2e-5 * exact.abs().max()


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
