"""PKT: each image's distribution over the others of the batch, drawn to the teacher's."""

from torch import Tensor

from hashfast.losses.distillation._base import Distillation

_EPS = 1e-7


class PKT(Distillation):
    """Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018).

    p_ij = (1 + cos(h_i, h_j)) / 2, divided by the sum of its row; the loss is the mean over all n^2
    pairs, each image with itself included, of p_teacher log(p_teacher / p_student), 1e-7 added to
    both. Agrees with HobbitLong/RepDistiller (distiller_zoo/PKT.py).

    Args:
        bits, teacher_bits: may differ.

    Call: see Distillation.
    """

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        found, wanted = _shares(student), _shares(teacher)
        return (wanted * ((wanted + _EPS) / (found + _EPS)).log()).mean()


def _shares(codes: Tensor) -> Tensor:
    """The probabilities [n, n], rows of sum 1."""
    rows = codes / (codes.norm(dim=1, keepdim=True) + _EPS)
    # Opposite codes: rounding may leave them below zero by more than what the logarithm adds.
    similarity = ((rows @ rows.T + 1) / 2).clamp(min=0)
    return similarity / similarity.sum(1, keepdim=True)
