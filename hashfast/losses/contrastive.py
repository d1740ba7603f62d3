"""Contrastive losses over cosines for any network: NT-Xent, InfoNCE, and one with masks.

All are mean_i of -a_i + log(exp a_i + sum over negatives r of exp c_ir), with a_i the cosine of
anchor i and its positive, c_ir that of anchor i and negative r, both divided by the temperature.
The matrix of cosines is never kept: memory grows with the rows, not with their square. A row of
norm 0 has cosine 0 with everything and gets gradient 0.

Rows are floating point, not normalised beforehand; a loss is a scalar (float64 for float64 rows,
otherwise float32, also under autocast), differentiable twice. An empty batch gives 0, attached to
the graph. ValueError or TypeError is raised for rows that do not fit, naming them.
"""

import torch
from torch import Tensor, nn

from hashfast.losses._functional import full_precision
from hashfast.ops.masked_contrastive import masked_contrastive, normalise


class _Contrastive(nn.Module):
    """Args: temperature: what cosines are divided by, positive."""

    def __init__(self, temperature: float = 0.3) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.temperature = temperature

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


class NTXent(_Contrastive):
    """Normalised temperature-scaled cross entropy of two views, over all 2M rows (SimCLR).

    Every row is an anchor; its positive is the other view of the same image, its negatives are the
    2M - 2 rows of other images. Drop-in: `NTXent(0.3)(first, second)`; CIBHash uses 0.3.

    Call: first, second [M, b], row i of both from one image -> scalar.
    Source: Chen et al. 2020 (SimCLR), eq. 1. Agrees with `NtXentLoss` of qiuzx2/CIBHash; it is also
    what `NTXentLoss` of pytorch_metric_learning defines for `cat([first, second])` with labels
    `arange(M)` twice.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        _check_pairs("first", first, "second", second)
        first, second = full_precision(first), full_precision(second)
        rows = torch.cat([first, second])
        itself = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        logsumexp = masked_contrastive(rows, rows, self.temperature, excluded=itself)
        positive = _pair_logits(first, second, self.temperature).repeat(2)
        return _mean(logsumexp - positive, first, second)


class InfoNCE(_Contrastive):
    """Cross entropy of finding each query's positive among negatives, one direction only.

    Drop-in: `InfoNCE(0.07)(queries, positives)`.

    Call: queries, positives [M, b]; negatives [K, b], shared by all queries, as a memory queue
    (MoCo), or None: the positives of the other queries -> scalar.
    Source: van den Oord et al. 2018, eq. 4; He et al. 2020 (MoCo), eq. 1.
    """

    def forward(
        self, queries: Tensor, positives: Tensor, negatives: Tensor | None = None
    ) -> Tensor:
        _check_pairs("queries", queries, "positives", positives)
        positive = _pair_logits(queries, positives, self.temperature)
        if negatives is None:
            logsumexp = masked_contrastive(queries, positives, self.temperature)
        else:
            others = masked_contrastive(queries, negatives, self.temperature)
            logsumexp = torch.logaddexp(positive, others)
        return _mean(logsumexp - positive, queries, positives)


class MaskedContrastive(_Contrastive):
    """Contrastive loss of paired rows that leaves out negatives known, or presumed, to be alike.

    Row i of `keys` is the positive of row i of `anchors`. The keys of other rows are its negatives,
    but for those of the same group (a pseudo-label, a class) and those excluded by number. A row
    without negatives counts 0. Without groups and excluded rows it is `InfoNCE`, or, symmetric,
    `NTXent`. Drop-in: `MaskedContrastive(0.3)(student, teacher, clusters)`.

    Args:
        temperature: what cosines are divided by, positive.
        symmetric: both sides are anchors, and the rows of both sides negatives (2M rows); otherwise
            anchors meet keys only, and keys that need no gradient cost nothing in backward.

    Call: anchors, keys [M, b]; groups [M] integer ids or None; excluded int64 [M, E]: numbers of
    rows that are no negatives of row i (on both sides if symmetric), -1 for none -> scalar.
    With pseudo-labels it is the elimination of false negatives of Huynh et al. 2022.
    """

    def __init__(self, temperature: float = 0.3, symmetric: bool = False) -> None:
        super().__init__(temperature)
        self.symmetric = symmetric

    def forward(
        self,
        anchors: Tensor,
        keys: Tensor,
        groups: Tensor | None = None,
        excluded: Tensor | None = None,
    ) -> Tensor:
        _check_pairs("anchors", anchors, "keys", keys)
        size = len(anchors)
        without = torch.arange(size, device=anchors.device).unsqueeze(1)
        if excluded is not None:
            if excluded.dim() != 2 or len(excluded) != size or excluded.dtype != torch.int64:
                raise ValueError(
                    f"excluded is {excluded.dtype} {list(excluded.shape)}; expected int64 "
                    f"[{size}, E], rows of the batch or -1"
                )
            within = (excluded >= 0) & (excluded < size)
            without = torch.cat([without, excluded.where(within, -1)], 1)
        positive = _pair_logits(anchors, keys, self.temperature)
        left, right = anchors, keys
        if self.symmetric:
            left = right = torch.cat([full_precision(anchors), full_precision(keys)])
            without = torch.cat([without, torch.where(without < 0, -1, without + size)], 1)
            without, positive = without.repeat(2, 1), positive.repeat(2)
            groups = None if groups is None else groups.repeat(2)
        others = masked_contrastive(left, right, self.temperature, groups, groups, without)
        return _mean(torch.logaddexp(positive, others) - positive, anchors, keys)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, symmetric={self.symmetric}"


def _check_pairs(name: str, rows: Tensor, other_name: str, others: Tensor) -> None:
    for given, values in ((name, rows), (other_name, others)):
        if not isinstance(values, Tensor) or not values.is_floating_point():
            found = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"{given} are {found}; expected a floating-point tensor [M, b]")
    if rows.dim() != 2 or rows.shape != others.shape:
        raise ValueError(
            f"{name} are {list(rows.shape)} and {other_name} {list(others.shape)}; expected [M, b] "
            "of both, row i of one belonging to row i of the other"
        )


def _pair_logits(rows: Tensor, others: Tensor, temperature: float) -> Tensor:
    """cos(rows_i, others_i) / temperature, [M]."""
    return (normalise(rows)[0] * normalise(others)[0]).sum(1) / temperature


def _mean(losses: Tensor, *rows: Tensor) -> Tensor:
    if len(losses):
        return losses.mean()
    return sum((full_precision(r).sum() for r in rows), losses.sum())
