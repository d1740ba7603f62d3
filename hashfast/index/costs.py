"""What searches have been seen to take, by two methods, and which is the better one."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

SCAN, HASH = "scan", "multi-index hash"
METHODS = (SCAN, HASH)
_SAMPLES = 3
# So much slower once, so much slower always.
_CLEAR = 4.0


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
        seconds = {name: self.seconds(name, kind) for name, kind in kinds.items()}
        if any(map(math.isnan, seconds.values())):
            return None
        best, other = sorted(METHODS, key=seconds.__getitem__)
        ratio = seconds[other] / seconds[best]
        counts = [self.count(name, kind) for name, kind in kinds.items()]
        if min(counts) < _SAMPLES and ratio < _CLEAR:
            return None
        return Plan(best, seconds, f"measured {ratio:.1f} times faster")
