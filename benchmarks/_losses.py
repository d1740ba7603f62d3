"""Losses that compare many codes, as hashfast has them and as they are usually written."""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _processes import peak_memory_mb
from _timing import time_cpu
from torch import Tensor

from hashfast.losses import BRCD, CRCD, RKD, Clusters, NTXent

BITS, TEMPERATURE, CALLS = 64, 0.3, 5
SLOW = {("rkd", 1024)}  # measured once
PROVIDERS = {
    "ntxent": ("hashfast", "matrix", "broadcast"),
    "brcd": ("hashfast", "matrix", "broadcast"),
    "rkd": ("hashfast", "tensor"),
    "crcd": ("hashfast",),
}


def ntxent_matrix(first: Tensor, second: Tensor) -> Tensor:
    rows = F.normalize(torch.cat([first, second]))
    logits = (rows @ rows.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(rows)).roll(len(first))
    return F.cross_entropy(logits, partner)


def ntxent_broadcast(first: Tensor, second: Tensor) -> Tensor:
    rows = torch.cat([first, second])
    cosines = F.cosine_similarity(rows[:, None], rows[None], dim=2)
    logits = (cosines / TEMPERATURE).masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(rows)).roll(len(first)))


def brcd_over(cosines: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Equation 10 with the matrix of all cosines; `cosines` makes it."""

    def loss(
        criterion: BRCD, student: Tensor, teacher: Tensor, aug: Tensor, index: Tensor
    ) -> Tensor:
        masks = criterion.masks.float()
        y = criterion.pseudo_labels[index]
        y_aug = criterion.clusters.assign(aug)
        masked = student * masks[y]
        keys = torch.cat([teacher * masks[y], aug * masks[y_aug]])
        logits = cosines(masked, keys) / TEMPERATURE
        anchor = F.cosine_similarity(student, teacher) / TEMPERATURE
        row = torch.arange(len(student))
        positive = logits[row, row + len(row)]
        same = y[:, None] == torch.cat([y, y_aug])
        same[row, row] = same[row, row + len(row)] = True
        negatives = logits.masked_fill(same, -torch.inf).logsumexp(1)
        alpha = torch.where(y == y_aug, criterion.alpha, 1.0)
        total = torch.stack([anchor, positive, negatives]).logsumexp(0)
        return (total - alpha * anchor - (1 - alpha) * positive).mean()

    return loss


def rkd_tensor(student: Tensor, teacher: Tensor) -> Tensor:
    """The public formulation: all n^3 angles at once."""

    def distances(rows: Tensor) -> Tensor:
        squared = (rows[:, None] - rows).square().sum(2).clamp(min=1e-12)
        found = squared.sqrt() * (1 - torch.eye(len(rows)))
        return found / found[found > 0].mean()

    def angles(rows: Tensor) -> Tensor:
        directions = F.normalize(rows[None] - rows[:, None], dim=2)
        return directions @ directions.mT

    def gap(of: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            wanted = of(teacher)
        return F.smooth_l1_loss(of(student), wanted)

    return 25 * gap(distances) + 50 * gap(angles)


def needed_gb(loss: str, provider: str, n: int) -> float:
    """A lower estimate of what a formulation holds for its backward pass."""
    values = {
        ("ntxent", "broadcast"): 3 * (2 * n) ** 2 * BITS,
        ("brcd", "broadcast"): 3 * 2 * n**2 * BITS,
        ("rkd", "tensor"): 3 * n**3,
    }
    return 4e-9 * values.get((loss, provider), 0)


def problem(loss: str, provider: str, n: int) -> tuple[Tensor, Callable[[], Tensor]]:
    """A student's random codes, and the loss of them by a formulation."""
    generator = torch.Generator().manual_seed(0)

    def codes(rows: int) -> Tensor:
        return torch.randn(rows, BITS, generator=generator).sign()

    student, teacher, aug = codes(n).requires_grad_(), codes(n), codes(n)
    index = torch.arange(n)
    if loss == "ntxent":
        second = aug.requires_grad_()
        forward = {
            "hashfast": NTXent(TEMPERATURE),
            "matrix": ntxent_matrix,
            "broadcast": ntxent_broadcast,
        }[provider]
        return student, lambda: forward(student, second)
    if loss == "brcd":
        criterion = BRCD(BITS, temperature=TEMPERATURE)
        labels = index % 10
        expectations = torch.rand(10, BITS, generator=generator)
        criterion.use(Clusters(codes(10), expectations, labels))
        criterion.prepare(teacher)
        if provider == "hashfast":
            return student, lambda: criterion(student, teacher, teacher_aug=aug, index=index)
        cosines = {
            "matrix": lambda a, b: F.normalize(a) @ F.normalize(b).T,
            "broadcast": lambda a, b: F.cosine_similarity(a[:, None], b[None], dim=2),
        }[provider]
        formula = brcd_over(cosines)
        return student, lambda: formula(criterion, student, teacher, aug, index)
    if loss == "rkd":
        forward = {"hashfast": RKD(BITS), "tensor": rkd_tensor}[provider]
        return student, lambda: forward(student, teacher)
    memories = CRCD(BITS)
    memories.prepare(codes(max(1000, n)))
    return student, lambda: memories(student, teacher, index=index)


class FreshProcess:
    """Where one loss runs, so that the peak of memory is its own."""

    def measure(self, loss: str, provider: str, n: int) -> tuple[float, float]:
        """(MB above what was held before, CPU milliseconds of a call)."""
        torch.set_num_threads(1)
        problem(loss, provider, 4)[1]().backward()  # what is loaded at first use
        value = problem(loss, provider, n)[1]
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before = peak_memory_mb()
        calls = 1 if (loss, n) in SLOW else CALLS
        times = [time_cpu(lambda: value().backward(), 1)[1] for _ in range(calls)]
        return peak_memory_mb() - before, 1e3 * statistics.median(times)


def agrees(loss: str, provider: str) -> bool:
    """Whether a formulation gives the loss and the gradient that ours gives."""
    ours, theirs = (problem(loss, name, 12) for name in ("hashfast", provider))
    for student, value in (ours, theirs):
        value().backward()
        assert student.grad is not None
    values = torch.allclose(ours[1](), theirs[1](), rtol=1e-4)
    return values and torch.allclose(ours[0].grad, theirs[0].grad, rtol=1e-3, atol=1e-5)
