"""Bit-mask robust contrastive distillation: the student's codes among the teacher's own."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.losses._functional import check_codes, unit_rows
from hashfast.losses.distillation._base import Distillation
from hashfast.losses.distillation.clusters import Clusters, Criteria, choose_k, nearest
from hashfast.ops import masked_contrastive

Variant = Literal["paper", "released"]
Reduction = Literal["mean", "sum"]


class BRCD(Distillation):
    """Bit-mask robust contrastive distillation (He et al., WWW 2024, equations 5 to 11).

    k-means finds clusters of the teacher's codes of all training images; y_i is the cluster of
    image i, y_i' that of the nearest centre to the teacher's code of its augmentation i', and m_c
    keeps the bits of cluster c whose |mean| is at least delta. With phi the cosine,

        a_i = phi(s_i, t_i) / tau
        p_i = phi(m_yi s_i, m_yi' t_i') / tau
        n_ir = phi(m_yi s_i, m_yr t_r) / tau for the teacher's codes t_r of the other images of the
               batch and of their augmentations whose cluster is not y_i
        loss_i = log(exp a_i + exp p_i + sum_r exp n_ir) - (alpha_i a_i + (1 - alpha_i) p_i)

    where alpha_i is alpha if y_i = y_i', otherwise 1: i' is then an offset positive. The teacher's
    codes are drawn towards nothing, so that both models share one code space.

    variant="released" agrees with hly1998/BRCD (model/ours_distill_CIBHash.py): the anchors are the
    student's codes and the teacher's codes of the augmentations, 2M rows that are each other's
    negatives; the mask of the original image is on both, and y_i' is found after it; the mixture
    alpha_i a_i + (1 - alpha_i) p_i is one term of the sum. With offset_positives False, y_i' in the
    negatives is y_i. Its flags false_neg and false_pos are false_negatives alone and both switches;
    its mask script, which masks every bit, is not followed.

    Args:
        bits: length of the codes of student and teacher; teacher_bits must be the same, or None.
        k: number of clusters, or how to choose it: see `choose_k`.
        alpha: weight of the image's own code against that of its augmentation.
        delta: threshold of the bit masks.
        temperature: tau.
        bit_mask: whether masks are used; False is equation 7.
        false_negatives: whether images of the anchor's cluster are left out of the negatives.
        offset_positives: whether alpha_i depends on the clusters. All three False: equation 3.
        reduction: over the anchors; equation 10 has the sum.
        anchor_temperature: False leaves tau out of a_i in the sum, as equation 10 is printed.
        seed: of the k-means.

    `prepare` finds the clusters; `use` takes given ones. Buffers: centres [k, bits], expectations
    [k, bits] (see Clusters), pseudo_labels int64 [N]. Raises ValueError for options out of range;
    when called, for clusters that are missing and an index that has none. Call:
    `criterion(student, teacher, teacher_aug=..., index=...)`, see Distillation. A row that its mask
    leaves without bits has cosine 0 with everything and gets no gradient.
    """

    needs = ("teacher_aug", "index")
    aligns = True
    centres: Tensor
    expectations: Tensor
    pseudo_labels: Tensor

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None = None,
        *,
        k: int | Criteria = 10,
        alpha: float = 0.8,
        delta: float = 0.5,
        temperature: float = 0.3,
        bit_mask: bool = True,
        false_negatives: bool = True,
        offset_positives: bool = True,
        variant: Variant = "paper",
        reduction: Reduction = "mean",
        anchor_temperature: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(bits, teacher_bits)
        if self.teacher_bits != bits:
            raise ValueError(
                f"teacher_bits is {teacher_bits}, bits {bits}: BRCD compares the student's codes "
                "with the teacher's, which must be as long"
            )
        _check_options(k, alpha, delta, temperature, variant, reduction)
        if variant == "released" and not anchor_temperature:
            raise ValueError(
                "anchor_temperature=False is the printed equation 10: use variant='paper'"
            )
        self.k, self.alpha, self.delta, self.temperature = k, alpha, delta, temperature
        self.bit_mask, self.false_negatives = bit_mask, false_negatives
        self.offset_positives, self.variant = offset_positives, variant
        self.reduction, self.anchor_temperature, self.seed = reduction, anchor_temperature, seed
        self.register_buffer("centres", torch.zeros(0, bits))
        self.register_buffer("expectations", torch.zeros(0, bits))
        self.register_buffer("pseudo_labels", torch.zeros(0, dtype=torch.int64))
        self._given = self._index_checked = False

    @property
    def clusters(self) -> Clusters:
        """The clusters in use. Raises ValueError when there are none yet."""
        if not len(self.pseudo_labels):
            raise ValueError(
                "BRCD has no clusters yet: call prepare(teacher_codes) with the teacher's codes of "
                "the training set, or use(clusters)"
            )
        # As float32: in another type an expectation of 0.7 may no longer reach a delta of 0.7.
        return Clusters(self.centres.float(), self.expectations.float(), self.pseudo_labels)

    @property
    def masks(self) -> Tensor:
        """The bits that count in each cluster, bool [k, bits]. Raises as `clusters` does."""
        return self.clusters.masks(self.delta)

    def use(self, clusters: Clusters) -> None:
        """Take these clusters of the training images' codes; `prepare` then keeps them.

        Raises ValueError for clusters of codes of another length.
        """
        self._take(clusters)
        self._given = True

    def prepare(self, teacher: Tensor, labels: Tensor | None = None) -> None:
        """Cluster the teacher's codes of all training images [N, bits], unless `use` was called.

        Of outputs before sign the signs count; labels are ignored. Raises ValueError where the
        clusters given to `use` are of another number of images.
        """
        check_codes("teacher", teacher, self.bits)
        if self._given:
            if len(teacher) != len(self.pseudo_labels):
                raise ValueError(
                    f"the clusters given are of {len(self.pseudo_labels)} images, and the training "
                    f"set has {len(teacher)}: give clusters of its codes"
                )
            return
        codes = teacher.detach().sign()
        if not teacher.isfinite().all():
            raise ValueError("the teacher's codes are not all finite: check the teacher")
        if ((codes == 0) | (teacher == 1)).all() and (codes == 0).any():
            raise ValueError(
                "the teacher's codes are 0 and 1; expected -1 and +1, which 2 * codes - 1 gives"
            )
        k = self.k if isinstance(self.k, int) else choose_k(codes, by=self.k, seed=self.seed)
        self._take(Clusters.fit(codes, k, self.seed))

    def distance(
        self, student: Tensor, teacher: Tensor, teacher_aug: Tensor, index: Tensor
    ) -> Tensor:
        if teacher_aug.shape[1] != 1:
            raise ValueError(
                f"teacher_aug has {teacher_aug.shape[1]} views of an image; BRCD takes one"
            )
        masks = self.masks.to(student.dtype)
        self._check_index(index)
        augmented = teacher_aug[:, 0].to(student.dtype)
        codes, clusters = augmented.sign(), self.pseudo_labels[index]
        if self.variant == "released" and self.bit_mask:
            codes = codes * masks[clusters]
        clusters_aug = nearest(codes, self.centres)
        alpha = student.new_full((), self.alpha)
        if self.offset_positives:
            alpha = alpha.where(clusters == clusters_aug, 1)
        losses = (self._paper if self.variant == "paper" else self._released)(
            (student, teacher, augmented), alpha, clusters, clusters_aug, masks
        )
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def _paper(
        self,
        codes: tuple[Tensor, Tensor, Tensor],
        alpha: Tensor,
        clusters: Tensor,
        clusters_aug: Tensor,
        masks: Tensor,
    ) -> Tensor:
        return teacher_contrast(
            *codes,
            alpha=alpha,
            temperature=self.temperature,
            clusters=(clusters, clusters_aug) if self.false_negatives else None,
            masks=(masks[clusters], masks[clusters_aug]) if self.bit_mask else None,
            anchor_temperature=self.anchor_temperature,
        )

    def _released(
        self,
        codes: tuple[Tensor, Tensor, Tensor],
        alpha: Tensor,
        clusters: Tensor,
        clusters_aug: Tensor,
        masks: Tensor,
    ) -> Tensor:
        columns = clusters, clusters_aug if self.offset_positives else clusters
        return symmetric_contrast(
            *codes,
            alpha=alpha,
            temperature=self.temperature,
            clusters=columns if self.false_negatives else None,
            mask=masks[clusters] if self.bit_mask else None,
        )

    def _take(self, clusters: Clusters) -> None:
        if clusters.bits != self.bits:
            raise ValueError(f"the clusters are of codes of {clusters.bits} bits, not {self.bits}")
        clusters = clusters.to(self.centres.device)
        self.centres, self.expectations = clusters.centres, clusters.expectations
        self.pseudo_labels = clusters.labels
        self._index_checked = False

    def _check_index(self, index: Tensor) -> None:
        """Raise for positions without a pseudo label; looks at values once, as it then waits."""
        captured = index.is_cuda and torch.cuda.is_current_stream_capturing()
        if torch.compiler.is_compiling() or self._index_checked or captured:
            return
        if index.min() < 0 or index.max() >= len(self.pseudo_labels):
            raise ValueError(
                f"index reaches from {int(index.min())} to {int(index.max())}; the clusters are of "
                f"{len(self.pseudo_labels)} images: prepare BRCD with the whole training set"
            )
        self._index_checked = True

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # The clusters of the run that is resumed count, whatever their number.
        for name in ("centres", "expectations", "pseudo_labels"):
            held, stored = getattr(self, name), state_dict.get(prefix + name)
            if stored is not None and stored.shape[1:] == held.shape[1:]:
                setattr(self, name, held.new_empty(stored.shape))
        self._index_checked = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, k={self.k}, alpha={self.alpha}, delta={self.delta}, "
            f"temperature={self.temperature}, variant={self.variant!r}"
        )


def teacher_contrast(
    student: Tensor,
    teacher: Tensor,
    augmented: Tensor,
    *,
    alpha: float | Tensor = 0.8,
    temperature: float = 0.3,
    clusters: tuple[Tensor, Tensor] | None = None,
    masks: tuple[Tensor, Tensor] | None = None,
    anchor_temperature: bool = True,
) -> Tensor:
    """BRCD's loss of each anchor, [M]: equation 10, and with less given equations 7 and 3.

    Args:
        student, teacher, augmented: float [M, b]; the last are the teacher's of the augmentations.
        alpha: of all anchors, or [M].
        clusters: of images and augmentations, integers [M] each; a key in the anchor's cluster is
            no negative. None: the keys of all other images are negatives.
        masks: of the bits of images and augmentations, float [M, b] each. None: all bits count.
        anchor_temperature: see BRCD.

    Memory grows with M as that of `masked_contrastive` does. Differentiable once, in the student.
    """
    row = torch.arange(len(student), device=student.device)
    masked, keys, keys_aug = student, teacher, augmented
    if masks is not None:
        masked, keys, keys_aug = student * masks[0], teacher * masks[0], augmented * masks[1]
    # Both pairs at once, as the cost of a usual batch is that of the calls.
    pairs = _cosines(torch.cat([student, masked]), torch.cat([teacher, keys_aug])) / temperature
    anchor, positive = pairs.view(2, -1)
    negatives = masked_contrastive(
        masked,
        torch.cat([keys, keys_aug]),
        temperature,
        None if clusters is None else clusters[0],
        None if clusters is None else torch.cat(clusters),
        torch.stack([row, row + len(student)], 1),
    )
    own = anchor if anchor_temperature else anchor * temperature
    total = torch.stack([own, positive, negatives]).logsumexp(0)
    return total - torch.lerp(positive, anchor, alpha)


def symmetric_contrast(
    student: Tensor,
    teacher: Tensor,
    augmented: Tensor,
    *,
    alpha: float | Tensor = 0.8,
    temperature: float = 0.3,
    clusters: tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """The released BRCD's loss of each of the rows [student; augmented], [2M].

    Args:
        student, teacher, augmented: as in `teacher_contrast`.
        alpha: of all pairs, or [M].
        clusters: of the rows as keys, integers [M] for student and augmented each; as anchors both
            halves have the first. A key in the anchor's cluster is no negative.
        mask: of the bits of each image, float [M, b], for both halves.
        excluded: int64 [2M, E], further keys that are no negatives of each row; -1 is none.

    Differentiable once.
    """
    masked = student
    if mask is not None:
        masked, augmented = student * mask, augmented * mask
    rows = torch.cat([masked, augmented])
    pairs = _cosines(torch.cat([student, masked]), torch.cat([teacher, augmented])) / temperature
    anchor, positive = pairs.view(2, -1)
    mixed = torch.lerp(positive, anchor, alpha).repeat(2)
    row = torch.arange(len(rows), device=student.device)
    own = torch.stack([row, row.roll(len(student))], 1)
    negatives = masked_contrastive(
        rows,
        rows,
        temperature,
        None if clusters is None else clusters[0].repeat(2),
        None if clusters is None else torch.cat(clusters),
        own if excluded is None else torch.cat([own, excluded], 1),
    )
    return torch.logaddexp(mixed, negatives) - mixed


def _cosines(rows: Tensor, fixed: Tensor) -> Tensor:
    """Cosine of each row with the fixed one of its place, [n]; 0 and no gradient for zero rows."""
    return (unit_rows(rows) * F.normalize(fixed)).sum(1)


def _check_options(
    k: Any, alpha: float, delta: float, temperature: float, variant: str, reduction: str
) -> None:
    for name, choice, choices in (
        ("variant", variant, get_args(Variant)),
        ("reduction", reduction, get_args(Reduction)),
    ):
        if choice not in choices:
            raise ValueError(f"unknown {name} {choice!r}; choose {' or '.join(map(repr, choices))}")
    if k not in get_args(Criteria) and not (isinstance(k, int) and k >= 1):
        raise ValueError(f"k is {k!r}; expected a number of clusters, 'elbow' or 'silhouette'")
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected 0 to 1")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be positive")
