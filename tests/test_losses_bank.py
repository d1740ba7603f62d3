"""The memory bank of the pairwise losses: what it holds, what it is for, how it is saved."""

import copy
import re

import pytest
import torch
from losses_by_hand import BANK, BITS, CLASSES, FORMS, batch, labelled, one_hot

from hashfast.losses import CSQ, DBDH, DSDH, METHODS, HashNet

BANKED = pytest.mark.parametrize("method", [HashNet, DSDH, DBDH])
BOTH_FORMS = pytest.mark.parametrize("form", FORMS)
INDEX = torch.tensor([9, 0, 4, 13, 2, 7])
NEXT = torch.tensor([9, 1, 5, 12, 3, 8])


def kept(method, outputs):
    """What of the outputs goes into the bank, by default."""
    outputs = outputs.detach()
    return {HashNet: outputs.tanh(), DSDH: outputs, DBDH: outputs.clamp(-1, 1)}[method]


def pairs(method, rows, others, similar):
    """The pairwise term from rows [n, bits] as they are compared, others and the similar pairs."""
    theta = rows @ others.T * (0.1 if method is HashNet else 0.5)
    losses = theta.exp().log1p() - similar * theta
    if method is not HashNet:
        return losses.mean()
    return losses[similar].mean() + losses[~similar].mean()


def pair_term(criterion):
    return criterion.components["likelihood" if isinstance(criterion, DSDH) else "similarity"]


def step(criterion, form, seed, index):
    outputs, ids, hot = batch(len(index), seed)
    loss = criterion(outputs, labelled(form, ids, hot)[0], index=index)
    return outputs, torch.tensor(labelled(form, ids, hot)[1]).bool(), loss


@BANKED
@BOTH_FORMS
def test_a_batch_is_compared_with_the_last_outputs_of_all(method, form):
    criterion = method(CLASSES, BITS, bank_size=BANK).double()
    held = torch.zeros(BANK, BITS, dtype=torch.float64)
    classes = torch.zeros(BANK, CLASSES, dtype=torch.bool)
    for seed, index in enumerate((INDEX, NEXT, INDEX)):
        outputs, rows, _ = step(criterion, form, seed, index)
        held[index], classes[index] = kept(method, outputs), rows
        similar = (rows[:, None] & classes).any(2)
        expected = pairs(method, kept(method, outputs), held, similar)
        assert pair_term(criterion).item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.equal(criterion.memory.outputs, held)
        assert not criterion.memory.outputs.requires_grad
        if form == "ids":
            ids = torch.where(classes.any(1), classes.int().argmax(1), -1)
            assert torch.equal(criterion.memory.labels, ids)
        else:
            assert torch.equal(criterion.memory.labels.bool(), classes)


@BANKED
@BOTH_FORMS
@pytest.mark.parametrize("quantization", ["original", "none"])
def test_the_gradient_flows_through_the_rows_of_the_batch_alone(
    method, form, quantization, monkeypatch
):
    criterion = method(CLASSES, BITS, bank_size=BANK, quantization=quantization).double()
    step(criterion, form, 0, INDEX)
    criterion.start_epoch(1)
    outputs, ids, hot = batch()
    labels = labelled(form, ids, hot)[0]
    written = torch.autograd.grad(criterion(outputs, labels, index=NEXT), outputs)[0]
    monkeypatch.setattr(criterion.memory, "write", lambda *_: None)  # the bank as a constant

    def loss(outputs):
        return criterion(outputs, labels, index=NEXT)

    assert torch.equal(torch.autograd.grad(loss(outputs), outputs)[0], written)
    assert torch.autograd.gradcheck(loss, outputs)


@BANKED
def test_two_batches_before_one_backward(method):
    outputs, ids, _ = batch()
    gradients = []
    for together in (True, False):
        # In the bank's own type, so that nothing is converted, and copied, on the way.
        criterion = method(CLASSES, BITS, bank_size=BANK).double()
        losses = []
        for index in (INDEX, NEXT):
            losses.append(criterion(outputs, ids, index=index))
            if not together:
                losses[-1] = torch.autograd.grad(losses[-1], outputs)[0]
        gradients.append(torch.autograd.grad(sum(losses), outputs)[0] if together else sum(losses))
    assert torch.allclose(*gradients)


@BANKED
@BOTH_FORMS
@pytest.mark.parametrize("start", ["fresh", "other form"])
def test_the_bank_is_saved(method, form, start):
    criterion = method(CLASSES, BITS, bank_size=BANK)
    step(criterion, form, 0, INDEX)
    criterion.start_epoch(1)
    fresh = method(CLASSES, BITS, bank_size=BANK)
    if start == "other form":
        step(fresh, FORMS[1 - FORMS.index(form)], 5, NEXT)
    fresh.load_state_dict(copy.deepcopy(criterion.state_dict()))
    losses = [step(c, form, 1, NEXT)[2].item() for c in (criterion, fresh)]
    assert losses[0] == losses[1]
    assert all(
        torch.equal(a, b)
        for a, b in zip(criterion.state_dict().values(), fresh.state_dict().values(), strict=True)
    )


@BANKED
def test_a_bank_of_another_size_does_not_fit(method):
    saved = method(CLASSES, BITS, bank_size=BANK)
    step(saved, "multi-hot", 0, INDEX)
    with pytest.raises(RuntimeError, match=r"memory\.outputs"):
        method(CLASSES, BITS, bank_size=BANK + 1).load_state_dict(saved.state_dict())


@BANKED
@BOTH_FORMS
def test_a_deep_copy_is_independent(method, form):
    criterion = method(CLASSES, BITS, bank_size=BANK)
    step(criterion, form, 0, INDEX)
    copied = copy.deepcopy(criterion)
    step(copied, form, 1, NEXT)
    untouched = criterion.memory.outputs[NEXT[1:]]
    assert untouched.abs().max() == 0
    assert step(criterion, form, 1, NEXT)[2].item() == pytest.approx(
        step(copied, form, 1, NEXT)[2].item(), rel=1e-6
    )


def test_class_ids_may_become_multi_hot_but_not_back():
    outputs, ids, hot = batch()
    mixed, plain = (HashNet(CLASSES, BITS, bank_size=BANK) for _ in range(2))
    mixed(outputs, ids, index=INDEX)
    plain(outputs, one_hot(ids), index=INDEX)
    losses = [criterion(outputs, hot, index=NEXT).item() for criterion in (mixed, plain)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"class ids \[6\].* holds multi-hot .* one form"):
        mixed(outputs, ids, index=INDEX)


@BANKED
@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "needs index: call criterion(outputs, labels, index=...)"),
        (INDEX[:5], "index is torch.int64 [5]; expected int64 [6], the positions of the images"),
        (INDEX[:, None], "index is torch.int64 [6, 1]; expected int64 [6]"),
        (INDEX.int(), "index is torch.int32 [6]; expected int64 [6]"),
        (INDEX.double(), "index is torch.float64 [6]; expected int64 [6]"),
        (INDEX + 1, "from 1 to 14; the memory bank has 14 rows: set bank_size to the number of"),
        (INDEX - 1, "from -1 to 12; the memory bank has 14 rows"),
        (INDEX.to("meta"), "index is on meta, outputs on cpu: move index"),
    ],
)
def test_a_wrong_index_is_explained(method, index, message):
    outputs, ids, _ = batch()
    criterion = method(CLASSES, BITS, bank_size=BANK)
    for _ in range(2):  # until one passes
        with pytest.raises(ValueError, match=re.escape(message)):
            criterion(outputs, ids, index=index)
    assert criterion.memory.outputs.abs().max() == 0
    criterion(outputs, ids, index=INDEX)


@BANKED
def test_without_a_bank_the_index_is_not_needed(method):
    outputs, ids, _ = batch()
    criterion = method(CLASSES, BITS)
    assert criterion.memory is None
    assert criterion.needs == ()
    assert criterion(outputs, ids).item() == criterion(outputs, ids, index=INDEX).item()


def test_which_methods_have_one():
    banks = {name: cls.bank for name, cls in METHODS.items() if cls.bank != "none"}
    assert banks == {"hashnet": "optional", "dsdh": "default", "dbdh": "default"}
    with pytest.raises(TypeError, match="bank_size"):
        CSQ(CLASSES, BITS, bank_size=BANK)


@BANKED
@pytest.mark.filterwarnings("ignore:the loss is undefined")
def test_an_empty_batch_leaves_the_bank(method):
    criterion = method(CLASSES, BITS, bank_size=BANK)
    step(criterion, "ids", 0, INDEX)
    before = copy.deepcopy(criterion.state_dict())
    loss = criterion(torch.zeros(0, BITS), INDEX[:0], index=INDEX[:0])
    assert loss.item() == 0
    assert all(torch.equal(v, before[k]) for k, v in criterion.state_dict().items())
