"""What searches have been seen to take, by two methods, and which is the better one."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

SCAN, HASH = "scan", "multi-index hash"
METHODS = (SCAN, HASH)
_SAMPLES = 3
# So much slower twice, so much slower always.
_CLEAR, _CLEAR_SAMPLES = 4.0, 2


class Kind(NamedTuple):
    """What the time of a search depends on besides the codes.

    queries: how many. what, size: "k" or "radius", and which. share: one in about 2 to this power
    of the codes is allowed; -1 without a filter. threads: that search.
    """

    queries: int
    what: str
    size: int
    share: int
    threads: int

    def by_method(self) -> dict[str, Hashable]:
        """Names, for each method, of the searches that take about the same time a query."""
        size = self.size.bit_length() if self.what == "k" else self.size
        alike = self.what, size, self.share, self.threads
        # A query in the tables does not care for the others, but for whether threads share them.
        batch, shared = min(self.queries, 1024).bit_length(), self.queries >= 16
        return {SCAN: (batch, *alike), HASH: (shared, *alike)}


@dataclass(frozen=True)
class Plan:
    """How an index searches, and why.

    Attributes:
        method: "scan", which compares all codes, or "multi-index hash".
        seconds: measured seconds a query by method; those measured.
        reason: in words.
    """

    method: str
    seconds: dict[str, float]
    reason: str

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1e3 * s:.4g} ms" for name, s in self.seconds.items())
        return f"{self.method}: {self.reason}" + (f" (a query: {times})" if times else "")


class Costs:
    """Seconds a query, by method and kind of search: the least of the last three seen.

    A kind is anything hashable: searches of one kind take about the same time a query.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Hashable], tuple[float, ...]] = {}

    def add(self, method: str, kind: Hashable, seconds: float) -> None:
        self._seen[method, kind] = (*self._seen.get((method, kind), ()), seconds)[-_SAMPLES:]

    def count(self, method: str, kind: Hashable) -> int:
        return len(self._seen.get((method, kind), ()))

    def seconds(self, method: str, kind: Hashable) -> float:
        """NaN where it has not been seen."""
        return min(self._seen.get((method, kind), ()), default=math.nan)

    def plan(self, kinds: dict[str, Hashable]) -> Plan | None:
        """The better method of one search, whose kind each method has its own name for; None while
        too little has been seen."""
        counts = [self.count(name, kind) for name, kind in kinds.items()]
        if min(counts) < _CLEAR_SAMPLES:
            return None
        seconds = {name: self.seconds(name, kind) for name, kind in kinds.items()}
        best, other = sorted(METHODS, key=seconds.__getitem__)
        ratio = seconds[other] / seconds[best]
        if min(counts) < _SAMPLES and ratio < _CLEAR:
            return None
        return Plan(best, seconds, f"measured {ratio:.1f} times faster")

    def next(self, kinds: dict[str, Hashable]) -> str:
        """The method to try next, the one seen less often."""
        return min(METHODS, key=lambda name: self.count(name, kinds[name]))

    def better(self, kinds: dict[str, Hashable]) -> str:
        """The method that was faster so far; both have been seen."""
        return min(METHODS, key=lambda name: self.seconds(name, kinds[name]))


@dataclass
class Known:
    """What was measured of about n codes: times, the better method by Kind, and whether there is no
    room for tables."""

    n: int
    costs: Costs = field(default_factory=Costs)
    chosen: dict[tuple, str] = field(default_factory=dict)
    no_room: bool = False
