"""The manners every unsupervised loss shares: values, gradients, precision, edges, compilation."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from losses_by_hand import BITS, batch

from hashfast.hashing.heads import HEADS
from hashfast.losses import HSWD, SWD, UNSUPERVISED, MeCoQ

FEATURES, HIDDEN = 7, 6

_sized = partial(UNSUPERVISED["tbh"], num_features=FEATURES, num_hidden=HIDDEN, width=5)
MAKERS = {**UNSUPERVISED, "tbh": _sized}
CASES = {
    **{name: partial(make, BITS) for name, make in MAKERS.items()},
    "tbh-released": partial(_sized, BITS, reduction="sum"),
    "tbh-stochastic": partial(_sized, BITS, stochastic=True),
    "mecoq-released": partial(MeCoQ, BITS, variant="released", memory_start=0),
    "mecoq-memory": partial(MeCoQ, BITS, memory_start=0, memory_size=15),
    "mecoq-bare": partial(MeCoQ, BITS, memory_size=0),
}
every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* is undefined for a batch of"),
]


def further(outputs):
    """Every further input, made up for these outputs."""
    n, bits = outputs.shape
    generator = torch.Generator().manual_seed(7)
    shapes = {
        "u2": (n, bits),
        "features": (n, FEATURES),
        "hidden": (n, HIDDEN),
        "codebooks": (bits, 2, 3),
    }
    return {
        name: torch.rand(shape, generator=generator, dtype=torch.float64).to(outputs)
        for name, shape in shapes.items()
    }


def called(criterion, outputs, **given):
    """The loss with the same random draws at every call."""
    torch.manual_seed(0)
    values = further(outputs) | given
    return criterion(outputs, **{name: values[name] for name in criterion.needs})


def finite(criterion, outputs, **given):
    outputs = outputs.detach().clone().requires_grad_()
    loss = called(criterion, outputs, **given)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in criterion.parameters())
    return loss


@every_case
@pytest.mark.parametrize("choice", ["original", "none", "hswd", HSWD(BITS, "balanced")])
def test_components_add_up(make, choice):
    outputs = batch()[0]
    criterion = make(quantization=choice)
    loss = called(criterion, outputs)
    parts = criterion.components
    assert parts["loss"].item() == loss.item()
    assert not any(part.requires_grad for part in parts.values())
    expected = parts["similarity"]
    if criterion.quantization_weight is not None:
        expected = expected + criterion.quantization_weight * parts["quantization"]
    assert loss.item() == expected.item()
    assert torch.autograd.grad(loss, outputs)[0].abs().max() > 0


@every_case
def test_a_distributional_term_replaces_the_methods_own(make):
    outputs = batch()[0]
    bare, criterion = make(quantization="none"), make(quantization=SWD(BITS, 20))
    criterion.load_state_dict(bare.state_dict())
    called(criterion, outputs)
    similarity = called(bare, outputs)
    assert criterion.components["similarity"].item() == similarity.item()
    assert criterion.quantization_weight == 0.1


# The others have another gradient than that of their value, by definition.
@pytest.mark.parametrize("name", ["mecoq-bare", "mecoq-memory", "mecoq-released"])
@pytest.mark.parametrize("choice", ["none", "hswd"])
def test_gradcheck(name, choice):
    outputs = batch(n=4)[0]
    given = further(outputs)
    given = {k: given[k].requires_grad_() for k in ("u2", "codebooks")}
    criterion = CASES[name](quantization=choice)
    called(criterion, 0.5 * outputs.detach())  # what a memory holds stays as it is
    held = copy.deepcopy(criterion.state_dict())

    def loss(u, u2, codebooks):
        criterion.load_state_dict(held)
        return called(criterion, u, u2=u2, codebooks=codebooks)

    if name == "mecoq-released":  # a term of the codebooks without gradient
        given["codebooks"] = given["codebooks"].detach()
    assert torch.autograd.gradcheck(loss, (outputs, given["u2"], given["codebooks"]))


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(make, dtype):
    outputs = batch(dtype=dtype)[0]
    criterion = make().to(dtype).float()  # weights that the half type can hold
    given = further(outputs)
    exact = outputs.detach().float().requires_grad_()
    expected = called(
        copy.deepcopy(criterion), exact, **{name: x.float() for name, x in given.items()}
    )
    expected.backward()
    for converted in (copy.deepcopy(criterion), copy.deepcopy(criterion).to(dtype)):
        outputs.grad = None
        loss = called(converted, outputs, **given)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert outputs.grad.dtype == dtype
        assert torch.equal(outputs.grad, exact.grad.to(dtype))


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd"])
def test_autocast_does_not_reach_inside(make, choice):
    outputs = batch(dtype=torch.float32)[0]
    criterion = make(quantization=choice)
    expected = called(copy.deepcopy(criterion), outputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert called(criterion, outputs).item() == expected.item()


@every_case
def test_float64_stays_float64(make):
    outputs = batch()[0]
    criterion = make()
    assert called(criterion, outputs).dtype == torch.float64
    single = {name: x.float() for name, x in further(outputs).items()}
    assert called(criterion, outputs, **single).dtype == torch.float64
    assert called(criterion, outputs.float()).dtype == torch.float32


@every_case
def test_memory_layout_does_not_matter(make):
    outputs = batch()[0]
    criterion = make()
    scattered = torch.empty(3 * BITS, 12, dtype=torch.float64).T[::2, 1::3]
    scattered.copy_(outputs.detach())
    assert not scattered.is_contiguous()
    given = {name: torch.stack([v, v], -1)[..., 0] for name, v in further(outputs).items()}
    found = called(copy.deepcopy(criterion), scattered, **given)
    assert found.item() == pytest.approx(called(criterion, outputs).item(), rel=1e-9)


@every_case
def test_two_batches_before_one_backward(make):
    outputs = batch(dtype=torch.float32)[0]
    codebooks = further(outputs)["codebooks"].requires_grad_()
    separate = make()
    together = copy.deepcopy(separate)
    inputs = [outputs, codebooks] if "codebooks" in separate.needs else [outputs]
    losses = [called(together, u, codebooks=codebooks) for u in (outputs, 0.5 * outputs)]
    found = torch.autograd.grad(sum(losses), inputs)
    steps = [
        torch.autograd.grad(called(separate, factor * outputs, codebooks=codebooks), inputs)
        for factor in (1, 0.5)
    ]
    for gradient, first, second in zip(found, *steps, strict=True):
        torch.testing.assert_close(gradient, first + second, rtol=1e-4, atol=1e-6)


@every_case
def test_what_it_holds_is_saved_and_copied(make):
    outputs = batch()[0]
    saved = make()
    called(saved, outputs)
    saved.start_epoch(40)
    torch.manual_seed(1)
    fresh = make()
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    copied = copy.deepcopy(saved)
    losses = [called(criterion, outputs).item() for criterion in (saved, fresh, copied)]
    assert losses[0] == losses[1] == losses[2]


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", "none"])
def test_an_empty_batch_gives_zero_attached_to_the_graph(make, choice):
    criterion = make(quantization=choice)
    outputs = torch.randn(0, BITS, requires_grad=True)
    with pytest.warns(UserWarning, match="undefined for a batch of 0"):
        loss = called(criterion, outputs)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert all(p.grad.abs().max() == 0 for p in criterion.parameters())
    assert {"similarity", "loss"} <= set(criterion.components)


@every_case
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e4, -1e4])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_single_rows_and_equal_outputs(make, value, n):
    outputs = torch.full((n, BITS), value)
    finite(make(), outputs)
    finite(make(), outputs, u2=outputs)
    finite(make(), outputs, features=torch.zeros(n, FEATURES), hidden=torch.zeros(n, HIDDEN))
    finite(make(), outputs, codebooks=torch.zeros(BITS, 2, 3))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("bits", [1, 13])
def test_any_number_of_bits(name, bits):
    finite(MAKERS[name](bits).double(), batch(bits=bits)[0])


@every_case
def test_nan_outputs_are_not_hidden(make):
    outputs = batch()[0].detach().clone()
    outputs[2] = torch.nan
    assert called(make(), outputs).isnan()


@every_case
def test_inputs_that_are_not_needed_are_ignored(make):
    outputs = batch()[0]
    criterion = make()
    plain = called(copy.deepcopy(criterion), outputs)
    torch.manual_seed(0)
    assert criterion(outputs, **further(outputs)).item() == plain.item()


@every_case
def test_a_missing_input_is_named(make):
    outputs = batch()[0]
    criterion = make()
    given = {name: further(outputs)[name] for name in criterion.needs}
    for name in criterion.needs:
        rest = {key: value for key, value in given.items() if key != name}
        with pytest.raises(ValueError, match=rf"needs {name}: call criterion\(outputs, {name}="):
            criterion(outputs, **rest)


@every_case
def test_inputs_that_do_not_fit_are_named(make):
    outputs = batch()[0]
    criterion = make()
    for name in set(criterion.needs) - {"codebooks"}:
        wrong = further(outputs)[name][1:]
        with pytest.raises(ValueError, match=name):
            called(criterion, outputs, **{name: wrong})
    with pytest.raises(ValueError, match=rf"expected \[n, {BITS}\]"):
        called(criterion, outputs[:, 1:])
    with pytest.raises(TypeError, match="floating-point outputs"):
        called(criterion, outputs.long())


@every_case
def test_another_device_is_named(make):
    outputs = batch(dtype=torch.float32)[0]
    criterion = make()
    if [*criterion.parameters(), *criterion.buffers()]:
        elsewhere = copy.deepcopy(criterion).to("meta")
        with pytest.raises(ValueError, match=r"is on meta, outputs on cpu: call criterion.to\("):
            called(elsewhere, outputs)
    for name in criterion.needs:
        with pytest.raises(ValueError, match=f"{name} is on meta, outputs on cpu: move {name}"):
            called(criterion, outputs, **{name: further(outputs)[name].to("meta")})


@every_case
def test_no_value_is_looked_at(make, monkeypatch):
    """On the "meta" device there are no values, so that a look at one fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" has none
    outputs = batch(dtype=torch.float32)[0].detach().to("meta").requires_grad_()
    called(make().to("meta"), outputs).backward()
    assert outputs.grad.shape == outputs.shape


class Together(torch.nn.Module):
    """Several losses in one graph: compiled at once, they take a fraction of the time."""

    def __init__(self, criteria):
        super().__init__()
        self.criteria = torch.nn.ModuleList(criteria)

    def forward(self, outputs, given):
        calls = zip(self.criteria, outputs, given, strict=True)
        return [criterion(u, **values) for criterion, u, values in calls]


def test_every_loss_compiles_without_a_break():
    torch._dynamo.reset()
    plain = Together(CASES[name]() for name in [*UNSUPERVISED, "mecoq-memory"])
    mine = copy.deepcopy(plain)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    for seed in range(2):  # the second batch meets what the first left
        found = []
        for call, owner in ((plain, plain), (compiled, mine)):
            outputs = [batch(seed=seed, dtype=torch.float32)[0] for _ in owner.criteria]
            needed = [
                {name: further(u)[name] for name in c.needs}
                for c, u in zip(owner.criteria, outputs, strict=True)
            ]
            torch.manual_seed(0)
            losses = call(outputs, needed)
            sum(losses).backward()
            gradients = [u.grad for u in outputs]
            found.append([*(loss.detach() for loss in losses), *gradients, *owner.buffers()])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", UNSUPERVISED)
def test_a_method_names_a_head_and_shows_its_bits(name):
    criterion = MAKERS[name](BITS)
    assert criterion.head in HEADS
    assert set(criterion.needs) <= {"u2", "features", "hidden", "codebooks"}
    assert f"bits={BITS}" in repr(criterion)
    with pytest.raises(ValueError, match="bits is 0"):
        MAKERS[name](0)
