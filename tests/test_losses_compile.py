"""Every loss compiles without a break, with the value and gradient it has without."""

import copy

import pytest
import torch
from losses_by_hand import BITS, CASES, CLASSES, FORMS, batch, called, labelled, needed
from torch import nn

from hashfast.losses import HSWD, SWD, HashLoss


class Together(nn.Module):
    """Several losses in one graph: compiled at once, they take a fraction of the time."""

    def __init__(self, criteria):
        super().__init__()
        self.criteria = nn.ModuleList(criteria)

    def forward(self, outputs, labels, further):
        calls = zip(self.criteria, outputs, further, strict=True)
        return [criterion(u, labels, **given) for criterion, u, given in calls]


def evaluated(call, together, labels, seed, autocast):
    """Of each loss: its value, terms and buffers, and the gradient of outputs and parameters."""
    outputs = [batch(seed=seed, dtype=torch.float32)[0] for _ in together.criteria]
    further = [needed(c, u) for c, u in zip(together.criteria, outputs, strict=True)]
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = call(outputs, labels, further)
    sum(losses).backward()
    values, gradients = [], []
    for criterion, u, loss in zip(together.criteria, outputs, losses, strict=True):
        values.append([loss.detach(), *criterion.components.values(), *criterion.buffers()])
        gradients.append([u.grad, *(p.grad for p in criterion.parameters())])
        criterion.zero_grad()
    return values, gradients


def agree(criteria, form, batches=1, autocast=False):
    """Batches through the losses, a mapping of names, and through compiled copies of them."""
    torch._dynamo.reset()
    plain = Together(criteria.values())
    mine = copy.deepcopy(plain)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    for seed in range(batches):
        labels = labelled(form, *batch()[1:])[0]
        ours, theirs = (
            evaluated(call, owner, labels, seed, autocast)
            for call, owner in ((plain, plain), (compiled, mine))
        )
        for kind, exact in zip((0, 1), (True, not autocast), strict=True):
            for name, a, b in zip(criteria, ours[kind], theirs[kind], strict=True):
                for x, y in zip(a, b, strict=True):
                    # torch.compile traces the backward under the caller's autocast, whatever the
                    # forward says: its matrix products are then rounded to bfloat16.
                    tolerance = x.double().norm().item() * (1e-6 if exact else 2**-6)
                    assert torch.allclose(x, y, rtol=0, atol=tolerance), name


CHOICES = [
    {"quantization": "hswd"},
    {"quantization": "none"},
    {"quantization": SWD(BITS, 30)},
    {"quantization": "hswd", "quantization_on": "squashed"},
    {"quantization": HSWD(BITS, "balanced", root=True)},
]


@pytest.mark.parametrize("form", FORMS)
def test_every_method_and_variant(form):
    agree({name: make() for name, make in CASES.items()}, form)


def test_every_quantization():
    chosen = {name: CASES[name] for name in ("csq", "dch", "dpn", "hashnet", "orthohash-cs")}
    cases = zip(chosen.items(), CHOICES, strict=True)
    agree({name: make(**options) for (name, make), options in cases}, "ids")


@pytest.mark.parametrize("form", FORMS)
def test_the_second_batch_meets_what_the_first_left(form):
    names = ["hashnet-bank", "dsdh-bank", "dbdh-bank", "hashnet-official"]
    agree({name: CASES[name]() for name in names}, form, batches=2)


def test_under_autocast():
    names = ["csq-official", "greedyhash", "dhd", "hashnet-bank", "dsdh"]
    agree({name: CASES[name]() for name in names}, "multi-hot", autocast=True)


def test_a_bank_solved_between_compiled_steps():
    torch._dynamo.reset()
    plain = CASES["dsdh-bank"]()
    mine = copy.deepcopy(plain)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    for epoch in range(2):
        outputs, ids, _ = batch(seed=epoch, dtype=torch.float32)
        losses = []
        for call, owner in ((plain, plain), (compiled, mine)):
            owner.start_epoch(epoch)
            losses.append(called(call, outputs, ids).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_compiled_first_call_leaves_label_values_to_the_next():
    class Mean(HashLoss):
        def similarity(self, outputs, labels):
            return outputs.mean()

    torch._dynamo.reset()
    outputs, ids, _ = batch()
    criterion = Mean(CLASSES, BITS)
    torch.compile(criterion, fullgraph=True, backend="eager")(outputs, ids + CLASSES)
    with pytest.raises(ValueError, match="class ids"):
        criterion(outputs, ids + CLASSES)
