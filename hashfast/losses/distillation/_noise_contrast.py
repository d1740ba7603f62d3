"""Noise-contrastive estimation over two memories, which CRD and CRCD share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashfast.losses.distillation._memory import MemoryDistillation, embed


class NoiseContrast(MemoryDistillation):
    """Is this the memory's row of the same image, or one of K others?

    Student against the teacher's memory and teacher against the student's, added. With a logit x of
    the pair, P = exp(x) / Z and c = K / N for N training images, a positive costs
    -log(P / (P + c + 1e-7)), a negative -log(c / (P + c + 1e-7)); sum over the negatives, mean over
    the rest. Z estimates N times the mean of exp(x), without gradient. Then the rows of the batch
    are moved in both memories.

    A method implements `logits`.

    Args:
        bits, teacher_bits, width, negatives, temperature, momentum: see MemoryDistillation.
        renew_z: Z of every batch, rather than of the first one for good as in released code.

    Buffers: memory_s, memory_t [N, width]; log_z [2], of student and teacher, NaN: not estimated.
    """

    memory_s: Tensor
    memory_t: Tensor
    log_z: Tensor

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None = None,
        *,
        width: int = 128,
        negatives: int = 500,
        temperature: float = 0.05,
        momentum: float = 0.5,
        renew_z: bool = False,
    ) -> None:
        super().__init__(
            bits,
            teacher_bits,
            width=width,
            negatives=negatives,
            temperature=temperature,
            momentum=momentum,
        )
        self.embed_t = nn.Linear(self.teacher_bits, width)
        self.renew_z = renew_z
        self.register_buffer("memory_s", torch.empty(0, width))
        self.register_buffer("memory_t", torch.empty(0, width))
        self.register_buffer("log_z", torch.full((2,), torch.nan))

    def prepare(self, teacher: Tensor, labels: Tensor | None = None) -> None:
        super().prepare(teacher, labels)
        self.memory_s, self.memory_t = self.random_rows(), self.random_rows()
        self.log_z.fill_(torch.nan)

    def logits(self, embedded: Tensor, memory: Tensor, index: Tensor, contrast: Tensor) -> Tensor:
        """Of the embeddings [n, width] with the memory's rows `contrast`: [n, K + 1, ...]."""
        raise NotImplementedError

    def contrast(self, index: Tensor) -> Tensor:
        """Rows to compare with, int64 [n, K + 1]: the image itself, then K others at random."""
        self.check_calls(index)
        others = torch.randint(self.size - 1, (len(index), self.negatives), device=index.device)
        others += others >= index[:, None]  # all but the image itself
        return torch.cat([index[:, None], others], 1)

    def distance(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        return self.loss(student, teacher, index, self.contrast(index))

    def loss(self, student: Tensor, teacher: Tensor, index: Tensor, contrast: Tensor) -> Tensor:
        """The loss with given rows to compare with, int64 [n, K + 1], the first the image itself.

        student [n, bits], teacher [n, teacher_bits] of one floating-point type, at least float32.
        """
        self.check_calls(index)
        rows_s, rows_t = embed(self.embed_s, student), embed(self.embed_t, teacher)
        total = self._estimate(
            self.logits(rows_s, self.memory_t, index, contrast), self.log_z[0]
        ) + self._estimate(self.logits(rows_t, self.memory_s, index, contrast), self.log_z[1])
        for memory, rows in ((self.memory_s, rows_s), (self.memory_t, rows_t)):
            moved = self.moved(memory[index], rows, self.momentum)
            memory.index_copy_(0, index, moved.to(memory.dtype))
        return total

    def _estimate(self, logits: Tensor, log_z: Tensor) -> Tensor:
        """One side's loss from logits [n, K + 1, ...]; sets its log Z, a view of the buffer."""
        found = logits.detach()
        now = found.flatten().logsumexp(0) + math.log(self.size / found.numel())
        kept = now if self.renew_z else log_z.to(now.dtype).where(~log_z.isnan(), now)
        log_z.copy_(kept)
        noise = (logits.shape[1] - 1) / self.size
        # log(P / noise), up to the 1e-7: the loss in logarithms has no exp that could overflow.
        against_noise = logits - kept - math.log(noise + 1e-7)
        positive = -F.logsigmoid(against_noise[:, 0])
        negative = math.log1p(1e-7 / noise) - F.logsigmoid(-against_noise[:, 1:])
        return (positive + negative.sum(1)).mean()
