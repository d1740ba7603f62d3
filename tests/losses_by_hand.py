"""What the tests of the losses share: batches, every method and variant, formulas as loops."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from hashfast.losses import CSQ, DBDH, DCH, DHD, DPN, DSDH, METHODS, HashNet, OrthoHash

CLASSES, BITS, BANK = 5, 8, 14


def batch(n=6, seed=0, dtype=torch.float64, bits=BITS):
    """Outputs [n, bits] that want a gradient, class ids [n], multi-hot labels [n, CLASSES]."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, bits, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(CLASSES, (n,), generator=generator)
    hot = (torch.rand(n, CLASSES, generator=generator) < 0.4).float()
    hot[torch.arange(n), ids] = 1
    return outputs.requires_grad_(), ids, hot


def one_hot(ids):
    return nn.functional.one_hot(ids, CLASSES).float()


def labelled(form, ids, hot):
    """Labels in one of the two FORMS, and the rows of classes they stand for, as lists."""
    return (ids, one_hot(ids).tolist()) if form == "ids" else (hot, hot.tolist())


FORMS = ["ids", "multi-hot"]

_VARIANTS = {
    "csq-official": partial(CSQ, variant="official"),
    "orthohash-arc": partial(OrthoHash, margin="arc"),
    "orthohash-bce": partial(OrthoHash, multi_label="bce"),
    "orthohash-imbalance": partial(OrthoHash, multi_label="imbalance"),
    "orthohash-cs": partial(OrthoHash, quan="cs"),
    "hashnet-official": partial(HashNet, variant="official", positive_weight=3.0),
    "hashnet-updated": partial(HashNet, variant="updated"),
    "dch-zoo": partial(DCH, variant="zoo"),
    "dch-official": partial(DCH, variant="official"),
    "dch-official-cosine": partial(DCH, variant="official-cosine"),
    "dbdh-bit": partial(DBDH, balance="bit", power=1),
    "dpn-mean": partial(DPN, reduction="mean"),
    "dpn-ternary": partial(DPN, ternary=True),
    "dhd-undistilled": partial(DHD, distill_weight=0.0),
}
_BANKED = {
    f"{cls.__name__.lower()}-bank": partial(cls, bank_size=BANK) for cls in (HashNet, DSDH, DBDH)
}
# Every method and variant; a new method is covered by the first line.
CASES = {
    name: partial(make, CLASSES, BITS) for name, make in {**METHODS, **_VARIANTS, **_BANKED}.items()
}
every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def cases_but(*left_out):
    kept = {name: make for name, make in CASES.items() if name not in left_out}
    return pytest.mark.parametrize("make", kept.values(), ids=kept)


def needed(criterion, outputs):
    """The further inputs a criterion needs, made up for these outputs."""
    n = len(outputs)
    generator = torch.Generator().manual_seed(7)
    student = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    given = {"u_student": student.to(outputs.dtype), "index": torch.arange(n).flip(0) * 2 % BANK}
    return {name: given[name] for name in criterion.needs}


def called(criterion, outputs, labels):
    return criterion(outputs, labels, **needed(criterion, outputs))


# Formulas, on lists of floats


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def sign(x):
    return (x > 0) - (x < 0)


def bce(logit, target):
    return math.log1p(math.exp(logit)) - target * logit


def are_similar(a, b):
    """Whether two rows of classes share one."""
    return any(x and y for x, y in zip(a, b, strict=True))


def balanced(losses):
    """Mean over the similar pairs plus mean over the others, from (loss, similar); 0 if none."""
    losses = list(losses)
    kinds = [[x for x, s in losses if s == kind] for kind in (True, False)]
    return sum(mean(kind) for kind in kinds if kind)


def cross_entropy(logits, target):
    """Of shares `target` that sum to 1, or to 0."""
    log_sum = math.log(sum(math.exp(x) for x in logits))
    return sum(t * (log_sum - x) for x, t in zip(logits, target, strict=True))


def shares(row):
    return [y / max(sum(row), 1) for y in row]
