"""What a ranking is worth when items at equal distance may come in any order.

Only the numbers of items and of relevant items at each distance matter. The items of a group of
`size` places that follow `before` others, `relevant` of them hits after `hits_before` earlier hits,
come in an order that is uniformly random ("expected"), hits first ("best") or hits last ("worst").
Sums of the precisions at the ranks of hits then have closed forms in harmonic numbers:

    expected   relevant / size * sum_{j=1..size} (hits_before + 1 + (j - 1) growth) / (before + j),
               growth = (relevant - 1) / (size - 1), the share of hits among the other places
    best       sum_{i=1..relevant} (hits_before + i) / (before + i)
    worst      sum_{i=1..relevant} (hits_before + i) / (before + size - relevant + i)

Where K cuts a group, the number h of hits in its first places follows the hypergeometric law; given
h their order among those places is uniform again, so the same sums hold there with h in place of
`relevant`. Average precision divides by a number that depends on h, hence the explicit sum (or the
maximum, or the minimum: fewer hits can give the better average precision) over h.
"""

from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Order = Literal["expected", "best", "worst"]
Denominator = Literal["hits", "min"]
ORDERS: tuple[Order, ...] = ("expected", "best", "worst")

# Rank up to which reciprocals are added one by one.
_SMALL = 64


class TieGroups(NamedTuple):
    """Items at each distance and relevant ones, and both before it: float64 [q, distances]."""

    size: Tensor
    relevant: Tensor
    before: Tensor
    hits_before: Tensor

    @classmethod
    def from_histograms(cls, size: Tensor, relevant: Tensor) -> Self:
        """Groups from int64 [q, distances] counts of all items and of relevant items."""
        size, relevant = size.double(), relevant.double()
        return cls(size, relevant, size.cumsum(1) - size, relevant.cumsum(1) - relevant)

    def before_first_hit(self) -> Tensor:
        """Items that come before the first hit in the most favourable order, [q]; all if none."""
        return self.size.where(self.hits_before + self.relevant == 0, 0).sum(1)

    def at_rank(self, k: int) -> tuple[Tensor, Self]:
        """The group that holds rank k: its column [q, 1], and its four numbers, each [q, 1]."""
        column = (self.before + self.size < k).sum(1, keepdim=True)
        return column, type(self)(*(values.gather(1, column) for values in self))


def average_precision(groups: TieGroups, k: int, order: Order, denominator: Denominator) -> Tensor:
    """AP@k of every query, float64 [q]: its mean, maximum or minimum over the orders of ties.

    k is at most the number of items. A query without hits has 0.
    """
    column, last = groups.at_rank(k)
    whole = torch.arange(groups.size.shape[1], device=column.device) < column
    sums = _sum_of_precisions(order, *groups).where(whole, 0).sum(1, keepdim=True)
    places = k - last.before
    fewest = (places - (last.size - last.relevant)).clamp(min=0)
    most = torch.minimum(places, last.relevant)
    cases = int((most - fewest).max()) + 1
    # Rows with fewer cases repeat their last one.
    hits = torch.minimum(fewest + torch.arange(cases, device=column.device), most)
    sums = sums + _sum_of_precisions(order, places, hits, last.before, last.hits_before)
    if denominator == "hits":
        values = sums / (last.hits_before + hits).clamp(min=1)
    else:
        values = sums / groups.relevant.sum(1, keepdim=True).clamp(min=1, max=k)
    if order == "expected":
        return (_hypergeometric(last, places, hits) * values).sum(1)
    return values.amax(1) if order == "best" else values.amin(1)


def _sum_of_precisions(
    order: Order, size: Tensor, relevant: Tensor, before: Tensor, hits_before: Tensor
) -> Tensor:
    """Precisions at the ranks of a group's hits, added up: the sums at the top of this file."""
    if order == "expected":
        reciprocals = _reciprocals(before, size)
        # sum of (j - 1) / (before + j) over the places j
        later = size - (before + 1) * reciprocals
        growth = (relevant - 1) / (size - 1).clamp(min=1)
        return relevant / size.clamp(min=1) * ((hits_before + 1) * reciprocals + growth * later)
    start = before if order == "best" else before + size - relevant
    return relevant + (hits_before - start) * _reciprocals(start, relevant)


def _reciprocals(start: Tensor, count: Tensor) -> Tensor:
    """1/(start + 1) + ... + 1/(start + count), to full precision however far down the ranking.

    Differences in a table of harmonic numbers H would lose as many digits as `start` has. Above
    _SMALL the series of H_n - log(n + 1/2) in 1/(n + 1/2)^2 takes over; its next term is < 2e-17.
    """
    end = start + count
    middle = torch.maximum(start, end.clamp(max=_SMALL))
    small = torch.arange(_SMALL + 1, dtype=start.dtype, device=start.device)
    harmonic = small.reciprocal().where(small > 0, 0).cumsum(0)
    below = harmonic[middle.clamp(max=_SMALL).long()] - harmonic[start.clamp(max=_SMALL).long()]
    above = torch.log1p((end - middle) / (middle + 0.5))
    return below + above + _tail(end + 0.5) - _tail(middle + 0.5)


def _tail(z: Tensor) -> Tensor:
    square = z.square().reciprocal()
    return square * (1 / 24 - square * (7 / 960 - square * 31 / 8064))


def _hypergeometric(group: TieGroups, places: Tensor, hits: Tensor) -> Tensor:
    """P(hits) when `places` items are drawn from the group; hits [q, cases] in rising order.

    Built from the ratios of neighbouring probabilities: log-gamma would lose digits that matter
    here, as its values grow with the group while the ratios do not. A repeated last case follows
    a ratio of 0 and so has probability 0.
    """
    more = (group.relevant - hits) * (places - hits)
    fewer = (hits + 1) * (group.size - group.relevant - places + hits + 1)
    logs = (more / fewer)[:, :-1].log().cumsum(1)
    return torch.nn.functional.pad(logs, (1, 0)).softmax(1)


def hit_gains(groups: TieGroups, order: Order, weights: Tensor, depth: int) -> Tensor:
    """Hits that each of the first `depth` ranks adds, summed over queries with each row of weights:
    [w, q] -> [w, depth].

    The expected (or most, or fewest) hits among the first k ranks grow linearly with k inside a
    group, so a query costs two entries a distance whatever the number of ranks.
    """
    start, end = groups.before, groups.before + groups.size
    slope = groups.relevant / groups.size.clamp(min=1)
    if order != "expected":
        slope = (groups.relevant > 0).double()
        if order == "best":
            end = start + groups.relevant
        else:
            start = end - groups.relevant
    slope = (weights.unsqueeze(2) * slope).flatten(1)
    steps = slope.new_zeros(len(weights), depth + 1)
    steps.index_add_(1, start.clamp(max=depth).long().flatten(), slope)
    steps.index_add_(1, end.clamp(max=depth).long().flatten(), -slope)
    return steps.cumsum(1)[:, :-1]
