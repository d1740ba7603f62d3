"""What the tests of the distillation losses share: batches, every method, formulas as loops."""

import math
from functools import partial

import pytest
import torch
from losses_by_hand import dot, mean
from torch.utils._python_dispatch import TorchDispatchMode

from hashfast.losses.distillation.brcd import BRCD
from hashfast.losses.distillation.crcd import CRCD
from hashfast.losses.distillation.crd import CRD
from hashfast.losses.distillation.kl import KL
from hashfast.losses.distillation.packd import PACKD
from hashfast.losses.distillation.pkt import PKT
from hashfast.losses.distillation.rkd import RKD
from hashfast.losses.distillation.sp import SP
from hashfast.losses.distillation.sskd import SSKD

BITS, TRAINING, CLASSES = 6, 24, 4
VIEWS = {"augmented": 1, "rotated": 3, "mixed": 2}

CASES = {
    "kl": KL,
    "sp": SP,
    "sp-released": partial(SP, variant="released"),
    "pkt": PKT,
    "rkd": RKD,
    "rkd-released": partial(RKD, variant="released"),
    "sskd": SSKD,
    "sskd-all": partial(SSKD, ratio_ss=1.0),
    "crd": partial(CRD, width=5, negatives=7),
    "crd-renewed": partial(CRD, width=5, negatives=7, renew_z=True),
    "crcd": partial(CRCD, width=5, negatives=7),
    "packd": partial(PACKD, num_views=2, negatives=7),
    "packd-embedded": partial(PACKD, num_views=2, width=4, negatives=7),
    "brcd": partial(BRCD, k=3),
    "brcd-released": partial(BRCD, k=3, variant="released"),
}
every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)
# Those that compare bit by bit.
EQUAL_BITS = ("kl", "sp-released", "brcd", "brcd-released")


def cases(*kept):
    return pytest.mark.parametrize("make", [CASES[name] for name in kept], ids=kept)


def cases_but(*left_out):
    return cases(*(name for name in CASES if name not in left_out))


def codes(*shape, seed=0, dtype=torch.float64):
    """Real-valued, as outputs before sign are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def labels_of_all():
    return torch.arange(TRAINING) % CLASSES


def prepared(make, teacher_bits=BITS, dtype=torch.float64):
    """A criterion ready for calls, always the same."""
    torch.manual_seed(0)
    criterion = make(BITS, teacher_bits)
    criterion.prepare(codes(TRAINING, teacher_bits, seed=9).sign().float(), labels_of_all())
    return criterion.to(dtype)


def batch(n=5, teacher_bits=BITS, dtype=torch.float64):
    """Student's codes that want a gradient, and the teacher's."""
    student = codes(n, BITS, seed=1, dtype=dtype).requires_grad_()
    return student, codes(n, teacher_bits, seed=2, dtype=dtype)


def needed(criterion, n, dtype=torch.float64):
    """The further inputs a criterion needs, made up for a batch of n."""
    views, index = VIEWS[criterion.views], torch.arange(n) * 5 % TRAINING
    given = {
        "student_aug": codes(n, views, criterion.bits, seed=3, dtype=dtype),
        "teacher_aug": codes(n, views, criterion.teacher_bits, seed=4, dtype=dtype),
        "index": index,
        "labels": labels_of_all()[index],
    }
    return {name: given[name] for name in criterion.needs}


def called(criterion, student, teacher):
    """The loss, with the same random draws at every call."""
    given = needed(criterion, len(student), student.dtype)
    torch.manual_seed(5)
    return criterion(student, teacher, **given)


class Largest(TorchDispatchMode):
    """Inside it, `elements` becomes the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return out


# Formulas, on lists of floats


def norm(row):
    return math.sqrt(dot(row, row))


def unit(row):
    return [x / norm(row) for x in row]


def minus(a, b, offset=0.0):
    return [x - y + offset for x, y in zip(a, b, strict=True)]


def softmax(logits):
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def divergence(wanted, found):
    return sum(p * math.log(p / q) for p, q in zip(wanted, found, strict=True))


def smooth_l1(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def embedded(layer, rows):
    """Unit rows of a linear layer over codes."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        unit([dot(w, row) + b for w, b in zip(weight, bias, strict=True)]) for row in rows.tolist()
    ]


def noise_contrast(logits, size, z=None):
    """Of logits (positive, then negatives) a row: the loss, and Z, estimated where not given."""
    z = z or mean(math.exp(x) for row in logits for x in row) * size
    noise = (len(logits[0]) - 1) / size
    losses = []
    for positive, *negatives in logits:
        p = math.exp(positive) / z
        loss = -math.log(p / (p + noise + 1e-7))
        for negative in negatives:
            loss -= math.log(noise / (math.exp(negative) / z + noise + 1e-7))
        losses.append(loss)
    return mean(losses), z
