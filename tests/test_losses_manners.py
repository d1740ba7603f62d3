"""The manners every loss shares, over every method and variant: values, gradients, precision."""

import copy
from contextlib import nullcontext

import pytest
import torch
from losses_by_hand import (
    BITS,
    CASES,
    CLASSES,
    FORMS,
    batch,
    called,
    cases_but,
    every_case,
    labelled,
    needed,
    one_hot,
)

from hashfast.losses import CSQ, HSWD, METHODS, SWD

# Methods whose gradient is not that of their value, by definition.
STRAIGHT_THROUGH, STOPPED = "greedyhash", "dhd"
BANKED = [name for name in CASES if name.endswith("-bank")]


def seeded(criterion, outputs, labels):
    """The loss with the same random draws at every call."""
    torch.manual_seed(0)
    return called(criterion, outputs, labels)


@cases_but(STRAIGHT_THROUGH, "orthohash-bce", "orthohash-imbalance")  # another loss for multi-hot
def test_one_hot_is_the_same_as_ids(make):
    outputs, ids, _ = batch()
    criterion = make()
    by_id = called(copy.deepcopy(criterion), outputs, ids)
    for labels in (one_hot(ids), one_hot(ids).long(), one_hot(ids).bool(), one_hot(ids).half()):
        found = called(copy.deepcopy(criterion), outputs, labels)
        assert found.item() == pytest.approx(by_id.item(), rel=1e-12)
    for dtype in (torch.int32, torch.uint8):
        assert called(copy.deepcopy(criterion), outputs, ids.to(dtype)).item() == by_id.item()


@cases_but(STRAIGHT_THROUGH, STOPPED, *BANKED)  # the bank is a constant: see test_losses_bank.py
@pytest.mark.parametrize(("form", "choice"), [("ids", "none"), ("multi-hot", "original")])
def test_gradcheck(make, form, choice):
    outputs, ids, hot = batch(n=4)
    criterion = make(quantization=choice).double()
    labels = labelled(form, ids, hot)[0]
    assert torch.autograd.gradcheck(lambda u: called(criterion, u, labels), outputs)


@pytest.mark.parametrize("term", ["hswd", SWD(BITS, 20), HSWD(BITS, "balanced", root=True)])
@pytest.mark.parametrize("on", ["raw", "squashed"])
def test_gradcheck_with_another_quantization(term, on):
    outputs, ids, _ = batch(n=4)
    criterion = CSQ(CLASSES, BITS, quantization=term, quantization_on=on)
    assert torch.autograd.gradcheck(lambda u: seeded(criterion, u, ids), outputs)


@every_case
@pytest.mark.parametrize("choice", ["original", "none", "hswd", "swd", HSWD(BITS, "balanced")])
@pytest.mark.parametrize("on", ["raw", "squashed"])
def test_components_add_up(make, choice, on):
    outputs, _, hot = batch()
    criterion = make(quantization=choice, quantization_on=on)
    loss = seeded(criterion, outputs, hot)
    parts = criterion.components
    assert parts["loss"].item() == loss.item()
    assert not any(part.requires_grad for part in parts.values())
    assert ("quantization" in parts) == (criterion.quantization_weight is not None)
    expected = parts["similarity"]
    if "quantization" in parts:
        expected = expected + criterion.quantization_weight * parts["quantization"]
    assert loss.item() == expected.item()
    torch.autograd.grad(loss, outputs)


@every_case
@pytest.mark.parametrize("term", ["hswd", HSWD(BITS, "balanced"), SWD(BITS, 20)])
@pytest.mark.parametrize("weight", [None, 2.0])
def test_a_distributional_term_replaces_the_methods_own(make, term, weight):
    outputs, _, hot = batch()
    bare = make(quantization="none")
    similarity = called(bare, outputs, hot)
    measure = HSWD(BITS) if term == "hswd" else term
    for on, seen in (("raw", outputs), ("squashed", outputs.tanh())):
        criterion = make(quantization=term, quantization_on=on, quantization_weight=weight)
        criterion.load_state_dict(bare.state_dict())
        loss = seeded(criterion, outputs, hot)
        torch.manual_seed(0)
        expected = similarity + (weight or 0.1) * measure(seen)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(make, choice, dtype):
    outputs, _, hot = batch(dtype=dtype)
    criterion = make(quantization=choice).to(dtype).float()  # weights that the half type can hold
    exact = outputs.detach().float().requires_grad_()
    seeded(copy.deepcopy(criterion), exact, hot).backward()
    loss = seeded(copy.deepcopy(criterion), outputs, hot)
    loss.backward()
    assert loss.dtype == torch.float32
    assert outputs.grad.dtype == dtype
    if "u_student" not in criterion.needs:  # which is rounded too
        assert torch.equal(outputs.grad, exact.grad.to(dtype))
    # A criterion cast with the model computes the same, up to what it has to store.
    cast = seeded(copy.deepcopy(criterion).to(dtype), outputs, hot)
    assert cast.dtype == torch.float32
    stores = "classifier" in dict(criterion.named_buffers()) or criterion.memory is not None
    assert cast.item() == pytest.approx(loss.item(), rel=2e-2 if stores else 1e-7)


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", SWD(BITS, 20)])
def test_autocast_does_not_reach_inside(make, choice):
    outputs, _, hot = batch(dtype=torch.float32)
    criterion = make(quantization=choice)
    expected = seeded(copy.deepcopy(criterion), outputs, hot)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert seeded(criterion, outputs, hot).item() == expected.item()


@every_case
def test_float64_stays_float64(make):
    outputs, ids, _ = batch()
    assert called(make(quantization=SWD(BITS, 20)), outputs, ids).dtype == torch.float64
    assert called(make(), outputs.float(), ids).dtype == torch.float32


@every_case
@pytest.mark.parametrize("form", FORMS)
def test_memory_layout_does_not_matter(make, form):
    outputs, ids, hot = batch()
    labels = labelled(form, ids, hot)[0]
    criterion = make()
    scattered = torch.empty(3 * BITS, 12, dtype=torch.float64).T[::2, 1::3]
    scattered.copy_(outputs.detach())
    wide = torch.stack([labels, labels], -1)[..., 0]
    assert not scattered.is_contiguous()
    assert not wide.is_contiguous()
    given = needed(criterion, outputs)
    further = {name: torch.stack([v, v], -1)[..., 0] for name, v in given.items()}
    found = copy.deepcopy(criterion)(scattered, wide, **further)
    assert found.item() == pytest.approx(called(criterion, outputs, labels).item(), rel=1e-12)


@every_case
def test_two_batches_before_one_backward(make):
    outputs, ids, _ = batch()
    separate = make().double()
    together = copy.deepcopy(separate)
    sum(called(together, u, ids) for u in (outputs, 0.5 * outputs)).backward()
    found, outputs.grad = outputs.grad, None
    for factor in (1, 0.5):
        called(separate, factor * outputs, ids).backward()
    assert torch.allclose(found, outputs.grad)


@every_case
def test_what_it_holds_is_saved_and_copied(make):
    outputs, _, hot = batch()
    saved = make()
    called(saved, outputs, hot)
    saved.start_epoch(40)
    torch.manual_seed(1)
    fresh = make()
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    copied = copy.deepcopy(saved)
    losses = [called(criterion, outputs, hot).item() for criterion in (saved, fresh, copied)]
    assert losses[0] == losses[1] == losses[2]


@every_case
def test_inputs_that_are_not_needed_are_ignored(make):
    outputs, ids, _ = batch()
    criterion = make()
    given = {"u_student": outputs.detach() + 1, "index": torch.arange(len(ids))}
    plain = copy.deepcopy(criterion)(outputs, ids, **{k: given[k] for k in criterion.needs})
    assert criterion(outputs, ids, **given).item() == plain.item()


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd"])
def test_no_value_is_looked_at(make, choice, monkeypatch):
    """On the "meta" device there are no values, so that a look at one fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" has none
    outputs, ids, hot = batch(dtype=torch.float32)
    criterion = make(quantization=choice)
    called(criterion, outputs, ids)  # the first call checks its labels and its index
    criterion.to("meta")
    outputs = outputs.detach().to("meta").requires_grad_()
    for labels in (ids.to("meta"), hot.to("meta")):
        given = {name: value.to("meta") for name, value in needed(criterion, outputs).items()}
        criterion(outputs, labels, **given).backward()
    assert outputs.grad.shape == outputs.shape


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_found_by_its_name(name):
    criterion = METHODS[name](CLASSES, BITS)
    assert type(criterion).__name__.lower() == name
    assert criterion.head in ("linear", "bn", "dhd")
    assert f"num_classes={CLASSES}, bits={BITS}" in repr(criterion)
