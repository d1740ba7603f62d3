"""PACKD: mixed views of an image are its positives, matched with the teacher's by transport."""

import math

import torch
from torch import Tensor, nn

from hashfast.losses._functional import similar, unit_rows
from hashfast.losses.distillation._memory import MemoryDistillation, embed


class PACKD(MemoryDistillation):
    """Positive pair aware contrastive distillation (ACM Multimedia 2022).

    An image and its mixtures with images of its class are m = 1 + num_views views. With pi the
    entropic transport plan (Sinkhorn, squared Euclidean cost, uniform, without gradient) between
    the student's and the teacher's embeddings of the views, and e embeddings:

        p = sum_ab pi_ab e_a^s . e_b^t,      q_ar = e_a^s . memory_r, r of other classes
        loss = mean over images of -log(exp(p / T) / (exp(p / T) + sum_ar exp(q_ar / T)))

    The memory holds the teacher's embeddings of the plain views, those of the batch included. An
    image that shares a class with all others takes its negatives from all of them. Agrees with
    hly1998/BRCD (model/packd/packd.py) except that a row of the memory is replaced, not moved, when
    its image comes first, rather than during the first 782 calls.

    Args:
        bits, teacher_bits: may differ.
        num_views: mixtures of each image.
        width: of the embeddings. Where the teacher's codes are not longer, they are not embedded,
            only divided by their norms, and the width is theirs.
        negatives, temperature, momentum: see MemoryDistillation.
        plan_eps: weight of the plan's entropy.
        plan_tolerance: the iterations end, after 100 at most, when the potentials of the student's
            views change by less, summed over the views, on the mean of the batch. That is looked
            at, and waited for, in each.

    Parameters: embed_s, embed_t if the teacher is embedded. Buffers: memory [N, width], seen bool
    [N], labels. Raises ValueError for options out of their range. Call: `criterion(student,
    teacher, student_aug=..., teacher_aug=..., index=..., labels=...)` after
    `criterion.prepare(teacher_codes, labels)`, see Distillation.
    """

    needs = ("student_aug", "teacher_aug", "index", "labels")
    views = "mixed"
    memory: Tensor
    seen: Tensor
    labels: Tensor

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None = None,
        *,
        num_views: int = 1,
        width: int = 128,
        negatives: int = 500,
        temperature: float = 0.07,
        momentum: float = 0.5,
        plan_eps: float = 0.1,
        plan_tolerance: float = 0.1,
    ) -> None:
        taken = teacher_bits or bits
        super().__init__(
            bits,
            teacher_bits,
            width=min(width, taken),
            negatives=negatives,
            temperature=temperature,
            momentum=momentum,
        )
        if num_views < 1:
            raise ValueError(f"num_views is {num_views}; it must be at least 1")
        if not (0 < plan_eps < math.inf and 0 <= plan_tolerance < math.inf):
            raise ValueError(
                f"plan_eps={plan_eps} must be positive, plan_tolerance={plan_tolerance} 0 or "
                "positive"
            )
        self.num_views, self.plan_eps, self.plan_tolerance = num_views, plan_eps, plan_tolerance
        self.embed_t = nn.Linear(taken, width) if width < taken else None
        self.register_buffer("memory", torch.empty(0, self.width))
        self.register_buffer("seen", torch.empty(0, dtype=torch.bool))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def prepare(self, teacher: Tensor, labels: Tensor | None = None) -> None:
        super().prepare(teacher, labels)
        if labels is None or labels.dim() not in (1, 2) or len(labels) != len(teacher):
            given = None if labels is None else list(labels.shape)
            raise ValueError(
                f"PACKD needs labels: call prepare(teacher_codes, labels) with class ids "
                f"[{len(teacher)}] or multi-hot [{len(teacher)}, C], not {given}"
            )
        if labels.dim() == 1 and bool((labels < 0).any()):
            raise ValueError(
                "PACKD needs a class for every image, and some labels are negative: choose a loss "
                "that needs none, such as BRCD"
            )
        self.memory = unit_rows(self.random_rows())
        self.seen = torch.zeros(self.size, dtype=torch.bool, device=self.memory.device)
        kept = labels.long() if labels.dim() == 1 else labels.to(torch.uint8)
        self.labels = kept.to(self.memory.device, copy=True)

    def contrast(self, index: Tensor, labels: Tensor) -> Tensor:
        """Rows of other classes at random, int64 [n, K]; labels [n] or [n, C], as in prepare."""
        self.check_calls(index)
        if labels.shape[1:] != self.labels.shape[1:]:
            raise ValueError(
                f"labels have shape {list(labels.shape)}; prepare was given "
                f"{list(self.labels.shape)}: use one form"
            )
        allowed = ~similar(labels, self.labels)
        others = torch.arange(self.size, device=index.device) != index[:, None]
        allowed = torch.where(allowed.any(1, keepdim=True), allowed, others)
        count = allowed.cumsum(1, dtype=torch.int32)
        shape = len(index), self.negatives
        drawn = torch.rand(shape, dtype=torch.float64, device=index.device)
        # The row at which the count first reaches one of 1, ..., its last value.
        return torch.searchsorted(count, (drawn * count[:, -1:]).int() + 1)

    def distance(
        self,
        student: Tensor,
        teacher: Tensor,
        student_aug: Tensor,
        teacher_aug: Tensor,
        index: Tensor,
        labels: Tensor,
    ) -> Tensor:
        contrast = self.contrast(index, labels)
        return self.loss(student, teacher, student_aug, teacher_aug, index, contrast)

    def loss(
        self,
        student: Tensor,
        teacher: Tensor,
        student_aug: Tensor,
        teacher_aug: Tensor,
        index: Tensor,
        contrast: Tensor,
    ) -> Tensor:
        """The loss with given negatives, rows `contrast` int64 [n, K] of the memory.

        student, student_aug [n, A, bits] and the teacher's alike, of one floating-point type, at
        least float32.
        """
        self.check_calls(index)
        if student_aug.shape[1] != teacher_aug.shape[1]:
            raise ValueError(
                f"student_aug has {student_aug.shape[1]} views of each image, teacher_aug "
                f"{teacher_aug.shape[1]}; expected the same views"
            )
        n, dtype = len(student), student.dtype
        codes_s = torch.cat([student[:, None], student_aug.to(dtype)], 1)
        codes_t = torch.cat([teacher[:, None], teacher_aug.to(dtype)], 1)
        views_s = embed(self.embed_s, codes_s.flatten(0, 1)).unflatten(0, (n, -1))
        flat_t = codes_t.flatten(0, 1)
        rows_t = unit_rows(flat_t) if self.embed_t is None else embed(self.embed_t, flat_t)
        views_t = rows_t.unflatten(0, (n, -1))
        self._write(index, views_t[:, 0])
        plan = transport_plan(
            views_s.detach(), views_t.detach(), self.plan_eps, self.plan_tolerance
        )
        positive = (plan * (views_s @ views_t.mT)).sum((1, 2)) / self.temperature
        negative = views_s @ self.memory[contrast].to(dtype).mT / self.temperature
        logits = torch.cat([positive[:, None], negative.flatten(1)], 1)
        return (logits.logsumexp(1) - positive).mean()

    def _write(self, index: Tensor, embedded: Tensor) -> None:
        momentum = (self.momentum * self.seen[index, None]).to(embedded.dtype)
        moved = self.moved(self.memory[index], embedded, momentum)
        self.memory.index_copy_(0, index, moved.to(self.memory.dtype))
        self.seen[index] = True


def transport_plan(
    views: Tensor, others: Tensor, eps: float, tolerance: float, iterations: int = 100
) -> Tensor:
    """Sinkhorn's plans [n, m, l] between views [n, m, d] and others [n, l, d]; each sums to 1.

    The cost is the squared distance; eps and tolerance: see PACKD.
    """
    cost = (views[:, :, None] - others[:, None]).square().sum(3)
    mass, other_mass = (math.log(1 / side + 1e-8) for side in cost.shape[1:])
    u, v = cost.new_zeros(cost.shape[:2]), cost.new_zeros(cost.shape[::2])

    def exponent() -> Tensor:
        return (u[:, :, None] + v[:, None] - cost) / eps

    for _ in range(iterations):
        change = eps * (mass - exponent().logsumexp(2))
        u = u + change
        v = v + eps * (other_mass - exponent().logsumexp(1))
        if change.abs().sum(1).mean() < tolerance:
            break
    return exponent().exp()
