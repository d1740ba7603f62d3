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
`relevant`. Average precision divides by a number that depends on h, hence the explicit mean (or the
maximum, or the minimum: fewer hits can give the better average precision) over h. Best or worst, a
further hit adds more to the sum the more hits there are already, so that, as h grows, the average
falls and then rises: it is highest at an end of the range, and lowest where it begins to rise.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Order = Literal["expected", "best", "worst"]
Denominator = Literal["hits", "min"]
ORDERS: tuple[Order, ...] = ("expected", "best", "worst")

# Rank up to which reciprocals are added one by one.
_SMALL = 64

# By Hoeffding's inequality h is further than sqrt(_REACH * draws) from its mean with a probability
# of at most 2 exp(-2 * _REACH) = 2e-16: expectations leave such cases out.
_REACH = 18.5


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

    def all_relevant(self) -> Tensor:
        """Relevant items at any distance, [q]."""
        return self.hits_before[:, -1] + self.relevant[:, -1]

    def before_first_hit(self) -> Tensor:
        """Items that come before the first hit in the most favourable order, [q]; all if none."""
        return self.size.where(self.hits_before + self.relevant == 0, 0).sum(1)

    def at_rank(self, k: int) -> tuple[Tensor, Self]:
        """The group that holds rank k: its column [q, 1], and its four numbers, each [q, 1]."""
        column = (self.before + self.size < k).sum(1, keepdim=True)
        return column, type(self)(*(values.gather(1, column) for values in self))

    def first(self, columns: int) -> Self:
        """The groups of the nearest distances, the first so many columns."""
        return type(self)(*(values[:, :columns] for values in self))


def average_precision(groups: TieGroups, k: int, order: Order, denominator: Denominator) -> Tensor:
    """AP@k of every query, float64 [q]: its mean, maximum or minimum over the orders of ties.

    k is at most the number of items. A query without hits has 0.
    """
    column, last = groups.at_rank(k)
    whole = groups.first(int(column.max()))
    counts = torch.arange(whole.size.shape[1], device=column.device) < column
    sums = _sum_of_precisions(order, *whole).where(counts, 0).sum(1, keepdim=True)
    divisor = groups.all_relevant().clamp(min=1, max=k).unsqueeze(1)
    places = k - last.before

    def value(hits: Tensor) -> Tensor:
        """AP@k if the first places of the last group hold so many hits, [q, cases]."""
        total = sums + _sum_of_precisions(order, places, hits, last.before, last.hits_before)
        if denominator == "hits":
            return total / (last.hits_before + hits).clamp(min=1)
        return total / divisor

    fewest = (places - (last.size - last.relevant)).clamp(min=0)
    most = torch.minimum(places, last.relevant)
    if order == "expected":
        hits = _likely_hits(last, places, fewest, most)
        return (_hypergeometric(last, places, hits) * value(hits)).sum(1)
    if order == "best":
        return value(torch.cat([fewest, most], 1)).amax(1)
    return value(_lowest(value, fewest, most)).squeeze(1)


def _lowest(value: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where between low and high [q, 1] a function that falls and then rises is least."""
    for _ in range(int((high - low).max()).bit_length()):
        middle = ((low + high) / 2).floor()
        here, after = value(torch.cat([middle, torch.minimum(middle + 1, high)], 1)).split(1, 1)
        rises = after >= here
        low, high = low.where(rises, middle + 1), middle.where(rises, high)
    return low


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


def most_cases(items: int) -> int:
    """At most how many cases average_precision holds a query in the order "expected"."""
    return 2 * math.ceil(math.sqrt(_REACH * items / 2)) + 3


def _likely_hits(group: TieGroups, places: Tensor, fewest: Tensor, most: Tensor) -> Tensor:
    """Numbers of hits [q, cases] that `places` items drawn from the group may hold, rising by 1.

    Rows with fewer cases repeat their last one.
    """
    mean = places * group.relevant / group.size
    # Places drawn for hits, hits drawn for places, and their complements have the same law.
    draws = torch.minimum(places, group.size - places)
    draws = torch.minimum(draws, torch.minimum(group.relevant, group.size - group.relevant))
    reach = (_REACH * draws).sqrt()
    low = torch.maximum(fewest, (mean - reach).floor())
    high = torch.minimum(most, (mean + reach).ceil())
    cases = int((high - low).max()) + 1
    return torch.minimum(low + torch.arange(cases, device=low.device), most)


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
    """How many hits, and how much weight [q] of their queries, each of the first `depth` ranks
    adds: float64 [2, depth].

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
    slope = torch.stack([slope, slope * weights.unsqueeze(1)]).flatten(1)
    steps = slope.new_zeros(2, depth + 1)
    steps.index_add_(1, start.clamp(max=depth).long().flatten(), slope)
    steps.index_add_(1, end.clamp(max=depth).long().flatten(), -slope)
    return steps.cumsum(1)[:, :-1]
