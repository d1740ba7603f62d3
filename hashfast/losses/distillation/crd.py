"""CRD: the student's embedding finds the teacher's of the same image among those of others."""

from torch import Tensor

from hashfast.losses.distillation._noise_contrast import NoiseContrast


class CRD(NoiseContrast):
    """Contrastive representation distillation (Tian, Krishnan and Isola, ICLR 2020).

    The logits are the inner products of embeddings and the memory's rows, over the temperature; for
    the loss see NoiseContrast. Agrees with HobbitLong/RepDistiller (crd/), where negatives may
    include the image itself. The defaults are those of hly1998/BRCD.

    Args:
        options: see NoiseContrast.

    Parameters: embed_s, embed_t. Call: `criterion(student, teacher, index=...)` after
    `criterion.prepare(teacher_codes)`, see Distillation.
    """

    def logits(self, embedded: Tensor, memory: Tensor, index: Tensor, contrast: Tensor) -> Tensor:
        rows = memory[contrast].to(embedded.dtype)
        return (rows @ embedded[:, :, None]).squeeze(2) / self.temperature
