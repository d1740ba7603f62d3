"""Mean features of real and synthetic images of every class: the objective of DM and IEM."""

from torch import Tensor, nn

from hashfast.ops.class_mmd import ClassRows, class_mmd


class ClassMeanMMD(nn.Module):
    """Squared distance between real and synthetic mean features, summed over classes.

    sum_c || mean of the real features of class c - mean of the synthetic ones ||^2: eq. 4 of Zhao &
    Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023), and eq. 7 of IEM. A class
    absent on either side counts 0. Drop-in: `ClassMeanMMD(10)(real, synthetic, labels, ids)`.

    Args:
        num_classes: at least 1.

    Call: real [N, D] and synthetic [M, D], floating point; real_labels [N] and synthetic_labels
    [M], integer class ids (one outside [0, num_classes), such as -1, is ignored) or, for labels
    that stay the same, `hashfast.ops.class_rows(labels, num_classes)` of them, made once. -> scalar
    (float32 for half types), differentiable twice. Raises ValueError for shapes that do not fit,
    TypeError for dtypes that do not.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
        self.num_classes = num_classes

    def forward(
        self,
        real: Tensor,
        synthetic: Tensor,
        real_labels: Tensor | ClassRows,
        synthetic_labels: Tensor | ClassRows,
    ) -> Tensor:
        return class_mmd(real, synthetic, real_labels, synthetic_labels, self.num_classes)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}"
