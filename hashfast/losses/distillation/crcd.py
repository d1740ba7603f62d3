"""CRCD: contrast of relations, the directions from other images to an embedding."""

import torch
from torch import Tensor

from hashfast.losses.distillation._noise_contrast import NoiseContrast

_OFFSET = 1e-6


class CRCD(NoiseContrast):
    """Complementary relation contrastive distillation (Zhu et al., CVPR 2021).

    Anchors a_j are the memory's rows of the batch. For every image i and anchor j the logit of row
    m_k is the cosine of (v_i - a_j + 1e-6) and (m_k - a_j + 1e-6), over the temperature; for the
    loss, a mean over the n^2 pairs (i, j), see NoiseContrast. Agrees with Lechatelia/CRCD (crcd/)
    and with hly1998/BRCD (model/crcd/), where negatives may include the image itself.

    The n^2 (K + 1) logits come from inner products: no difference of rows is formed.

    Args:
        options: see NoiseContrast.

    Parameters: embed_s, embed_t. Call: `criterion(student, teacher, index=...)` after
    `criterion.prepare(teacher_codes)`, see Distillation.
    """

    def prepare(self, teacher: Tensor, labels: Tensor | None = None) -> None:
        super().prepare(teacher, labels)
        for memory in (self.memory_s, self.memory_t):
            memory /= memory.norm(dim=1, keepdim=True)

    def logits(self, embedded: Tensor, memory: Tensor, index: Tensor, contrast: Tensor) -> Tensor:
        # Of near rows little is left after the subtraction: float64 keeps it.
        v, rows = embedded.double(), memory[contrast].double()
        anchors = memory[index].double() - _OFFSET
        crossed = rows @ anchors.T
        lengths = anchors.square().sum(1)
        squares = rows.square().sum(2, keepdim=True) - 2 * crossed + lengths
        # A row from itself as the anchor is the offset alone, in every column.
        itself = contrast[:, :, None] == index
        squares = squares.masked_fill(itself, self.width * _OFFSET**2)
        near = v @ anchors.T
        student_squares = v.square().sum(1, keepdim=True) - 2 * near + lengths
        products = (rows @ v[:, :, None]) - near[:, None] + (lengths - crossed)
        offsets = _OFFSET * (v.sum(1, keepdim=True) - anchors.sum(1))
        products = torch.where(itself, offsets[:, None], products)
        scale = self.temperature * squares.clamp(min=1e-16).sqrt()
        cosines = products / scale / student_squares.clamp(min=1e-16).sqrt()[:, None]
        return cosines.to(embedded.dtype)
