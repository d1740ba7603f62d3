"""Sums over queries, gathered block by block, and the curves made of them at the end."""

import numpy as np
import torch
from torch import Tensor

from hashfast.metrics._report import PRCurve
from hashfast.metrics._ties import TieGroups


class RadiusTotals:
    """What lies within each Hamming radius 0 .. bits."""

    def __init__(self, bits: int, device: torch.device) -> None:
        self.queries = 0
        self.returned, self.hits, self.precision = torch.zeros(
            3, bits + 1, dtype=torch.float64, device=device
        )

    def add(self, groups: TieGroups) -> None:
        """Add a block of queries."""
        returned, hits = groups.before + groups.size, groups.hits_before + groups.relevant
        self.queries += len(returned)
        self.returned += returned.sum(0)
        self.hits += hits.sum(0)
        self.precision += (hits / returned.clamp(min=1)).sum(0)

    def pr_curve(self) -> PRCurve:
        radius = self.returned.nonzero().squeeze(1)
        returned, hits = self.returned[radius], self.hits[radius]
        recall = hits / self.hits[-1].clamp(min=1)
        return PRCurve(*(values.cpu().numpy() for values in (radius, hits / returned, recall)))

    def precision_within(self) -> np.ndarray:
        return (self.precision / self.queries).cpu().numpy()


class RankTotals:
    """Hits among the first 1 .. depth ranks."""

    def __init__(self, depth: int, device: torch.device) -> None:
        self.queries = 0
        self.depth = depth
        self.gains = torch.zeros(2, depth, dtype=torch.float64, device=device)
        self.first = torch.zeros(depth + 1, dtype=torch.int64, device=device)

    def add(self, gains: Tensor, first: Tensor) -> None:
        """Add a block of queries.

        gains: [2, depth], what each rank adds to the hits and to the recalls of these queries.
        first: [q], how many ranks come before a query's first hit; depth or more if it has none.
        """
        self.queries += len(first)
        self.gains += gains
        self.first += first.long().clamp(max=self.depth).bincount(minlength=self.depth + 1)

    def curves(self, skip_empty: bool) -> tuple[np.ndarray, np.ndarray]:
        """P@k and recall@k for k = 1 .. depth."""
        hits, recalled = self.gains.cumsum(1)
        queries = self.first[:-1].cumsum(0).clamp(min=1) if skip_empty else self.queries
        ranks = torch.arange(1, self.depth + 1, device=hits.device)
        return (hits / ranks / queries).cpu().numpy(), (recalled / queries).cpu().numpy()
