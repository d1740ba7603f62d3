"""GreedyHash against its formula as loops, and its gradient straight through sign."""

import pytest
import torch
from losses_by_hand import (
    BITS,
    CLASSES,
    FORMS,
    batch,
    bce,
    cross_entropy,
    dot,
    labelled,
    mean,
    sign,
)

from hashfast.losses import GreedyHash


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"quantization_weight": 0.7}])
def test_formula(form, options):
    outputs, ids, hot = batch()
    labels, rows = labelled(form, ids, hot)
    criterion = GreedyHash(CLASSES, BITS, **options)
    weight = criterion.classifier.weight.tolist()
    u = outputs.tolist()
    logits = [[dot([sign(x) for x in row], w) for w in weight] for row in u]
    if form == "ids":
        expected = mean(cross_entropy(x, y) for x, y in zip(logits, rows, strict=True))
    else:
        expected = mean(
            bce(x, y)
            for row, wanted in zip(logits, rows, strict=True)
            for x, y in zip(row, wanted, strict=True)
        )
    cubes = mean(abs(abs(x) - 1) ** 3 for row in u for x in row)
    loss = criterion(outputs, labels)
    assert criterion.components["similarity"].item() == pytest.approx(expected, rel=1e-12)
    assert criterion.components["quantization"].item() == pytest.approx(cubes, rel=1e-12)
    alpha = options.get("quantization_weight", 0.1)
    assert loss.item() == pytest.approx(expected + alpha * cubes, rel=1e-12)


def similarity_gradients(criterion, labels, codes, outputs):
    """Of the codes where they are given as such, and of the outputs they come from."""
    codes = codes.clone().requires_grad_()
    logits = codes @ criterion.classifier.weight.T.to(codes.dtype)
    if labels.dim() == 1:
        loss = torch.nn.functional.cross_entropy(logits, labels)
    else:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double())
    found = criterion(outputs, labels)
    assert found.item() == pytest.approx(loss.item(), rel=1e-12)
    weight = criterion.classifier.weight
    return torch.autograd.grad(loss, (codes, weight)), torch.autograd.grad(found, (outputs, weight))


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_the_codes_passes_unchanged(form):
    outputs, ids, hot = batch()
    outputs = torch.cat([outputs.detach(), torch.zeros(1, BITS)]).requires_grad_()
    ids, hot = torch.cat([ids, ids[:1]]), torch.cat([hot, hot[:1]])
    criterion = GreedyHash(CLASSES, BITS, quantization="none")
    labels, _ = labelled(form, ids, hot)
    expected, found = similarity_gradients(criterion, labels, outputs.detach().sign(), outputs)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(expected, found, strict=True))
    assert found[0][-1].abs().max() > 0  # also through sign(0) = 0


def test_the_gradient_of_its_own_quantization():
    outputs, ids, _ = batch()
    criterion = GreedyHash(CLASSES, BITS)
    bare = GreedyHash(CLASSES, BITS, quantization="none")
    bare.load_state_dict(criterion.state_dict())
    added = [torch.autograd.grad(c(outputs, ids), outputs)[0] for c in (criterion, bare)]
    u = outputs.detach()
    gap = u.abs() - 1
    expected = 0.1 * 3 * gap.square() * gap.sign() * u.sign() / u.numel()
    assert torch.allclose(added[0] - added[1], expected)


def test_zero_outputs_are_finite():
    outputs = torch.zeros(3, BITS, requires_grad=True)
    loss = GreedyHash(CLASSES, BITS)(outputs, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
