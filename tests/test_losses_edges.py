"""Batches at the edge: empty, a single row, no similar pair, one class, equal or huge outputs."""

import pytest
import torch
from losses_by_hand import BITS, CLASSES, batch, called, every_case, needed
from torch import nn

from hashfast.losses import METHODS, SWD, HashLoss

pytestmark = pytest.mark.filterwarnings("ignore:.* is undefined for a batch of")


def finite(criterion, outputs, labels):
    outputs = outputs.detach().clone().requires_grad_()
    loss = called(criterion, outputs, labels)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in criterion.parameters())
    return loss


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd", SWD(BITS, 20), "none"])
def test_an_empty_batch_gives_zero_attached_to_the_graph(make, choice):
    criterion = make(quantization=choice)
    outputs = torch.randn(0, BITS, requires_grad=True)
    for labels in (torch.empty(0, dtype=torch.int64), torch.empty(0, CLASSES)):
        with pytest.warns(UserWarning, match="undefined for a batch of 0"):
            loss = called(criterion, outputs, labels)
        loss.backward()
        assert loss.item() == 0
        assert outputs.grad is not None
        assert all(p.grad.abs().max() == 0 for p in criterion.parameters())
    keys = set(criterion.components)
    full, _, hot = batch()
    called(criterion, full, hot)
    assert {"similarity", "loss"} <= keys <= set(criterion.components)


def test_an_empty_batch_keeps_parameters_in_the_graph():
    class Proxies(HashLoss):
        def __init__(self):
            super().__init__(CLASSES, BITS)
            self.proxies = nn.Parameter(torch.ones(CLASSES, BITS))

    criterion = Proxies()
    with pytest.warns(UserWarning, match="undefined for a batch of 0"):
        criterion(torch.randn(0, BITS), torch.empty(0, CLASSES)).backward()
    assert criterion.proxies.grad.abs().max() == 0


@every_case
@pytest.mark.parametrize("choice", ["original", "hswd"])
def test_a_single_row(make, choice):
    for row in (torch.randn(1, BITS), torch.zeros(1, BITS)):
        for labels in (torch.tensor([2]), torch.zeros(1, CLASSES), torch.ones(1, CLASSES)):
            finite(make(quantization=choice), row, labels)


@every_case
def test_without_similar_and_without_dissimilar_pairs(make):
    outputs, _, _ = batch(n=CLASSES)
    for ids in (torch.arange(CLASSES), torch.zeros(CLASSES, dtype=torch.int64)):
        finite(make().double(), outputs, ids)
    for hot in (torch.eye(CLASSES), torch.ones(CLASSES, CLASSES), torch.zeros(CLASSES, CLASSES)):
        finite(make().double(), outputs, hot)


@every_case
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e4])
def test_equal_outputs(make, value):
    _, ids, hot = batch()
    for labels in (ids, hot):
        finite(make(), torch.full((6, BITS), value), labels)


@pytest.mark.parametrize("name", METHODS)
def test_one_class_and_one_bit(name):
    for classes, bits in ((1, BITS), (2, 1)):
        outputs = torch.randn(3, bits)
        for labels in (torch.zeros(3, dtype=torch.int64), torch.ones(3, classes)):
            finite(METHODS[name](classes, bits), outputs, labels)


@pytest.mark.parametrize("name", METHODS)
def test_an_odd_number_of_bits(name):
    outputs, ids, hot = batch(bits=13)
    for labels in (ids, hot):
        finite(METHODS[name](CLASSES, 13).double(), outputs, labels)


@pytest.mark.parametrize("name", METHODS)
def test_many_classes(name):
    classes = 3_000
    outputs = torch.randn(8, 48)
    finite(METHODS[name](classes, 48), outputs, torch.arange(0, classes, classes // 8)[:8])


@every_case
def test_nan_outputs_are_not_hidden(make):
    outputs, ids, _ = batch()
    outputs = outputs.detach().clone()
    outputs[2] = torch.nan
    criterion = make()
    given = needed(criterion, outputs)
    assert criterion(outputs, ids, **given).isnan()
