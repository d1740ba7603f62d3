"""What a ranking is worth when ties are ordered by database position: ranks of the hits suffice."""

from typing import NamedTuple

import torch
from torch import Tensor


class RankedHits(NamedTuple):
    """Ranks of each query's hits in the top K, as `ops.hamming_hits` gives them.

    The ranks int32 of query i, ascending from 1, are at [limits[i], limits[i + 1]).
    """

    limits: Tensor
    ranks: Tensor

    def average_precision(self, k: int, relevant: Tensor | None = None) -> Tensor:
        """AP@k of every query, float64 [q]: precisions at the hits, added up, divided by the number
        of hits or, given `relevant` [q] items in the database, by min(k, relevant).

        A query without hits has 0.
        """
        # Hit j of a query has the precision j / rank; j starts again with every query.
        steps = self.ranks.new_ones(len(self.ranks) + 1, dtype=torch.float64)
        steps.index_add_(0, self.limits[1:], -self.limits.diff().double())
        precisions = steps.cumsum_(0)[:-1].div_(self.ranks)
        sums = torch.segment_reduce(precisions, "sum", offsets=self.limits)
        divisor = self.limits.diff() if relevant is None else relevant.clamp(max=k)
        return sums / divisor.clamp(min=1)

    def before_first_hit(self, k: int) -> Tensor:
        """Ranks before each query's first hit, int64 [q]; k if it has none."""
        first = self.limits.new_full((len(self.limits) - 1,), k)
        found = self.limits.diff() > 0
        first[found] = self.ranks[self.limits[:-1][found]].long() - 1
        return first

    def gains(self, weights: Tensor, k: int) -> Tensor:
        """Hits each rank adds, and the weights [q] of their queries added up: float64 [2, k]."""
        weights = weights.repeat_interleave(self.limits.diff(), output_size=len(self.ranks))
        hits = self.ranks.bincount(minlength=k + 1)
        return torch.stack([hits.double(), self.ranks.bincount(weights, minlength=k + 1)])[:, 1:]
