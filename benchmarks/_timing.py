"""Samples taken in turns and summarised; without torch, for processes that have none."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

# A sample lasts at least this long, or clocks and launches would be what is measured.
SAMPLE_SECONDS = 1e-3
MIN_ROUNDS, MAX_ROUNDS = 5, 200

T = TypeVar("T")
Thunk = Callable[[], Any]


class Timing(NamedTuple):
    """Seconds a call: median and percentiles over the rounds; `cpu` is the median of CPU time."""

    median: float
    p20: float
    p80: float
    cpu: float
    rounds: int

    def columns(self) -> dict[str, float]:
        """As they stand in a row of results, in milliseconds."""
        return {
            "median_ms": 1e3 * self.median,
            "p20_ms": 1e3 * self.p20,
            "p80_ms": 1e3 * self.p80,
            "cpu_median_ms": 1e3 * self.cpu,
            "rounds": self.rounds,
        }


def summarise(elapsed: Sequence[float], cpu: Sequence[float]) -> Timing:
    """Percentiles interpolate linearly between samples."""
    p20, median, p80 = np.percentile(elapsed, (20, 50, 80))
    return Timing(float(median), float(p20), float(p80), float(np.median(cpu)), len(elapsed))


def time_cpu(thunk: Thunk, calls: int) -> tuple[float, float]:
    """(wall, CPU) seconds a call; CPU time adds up over the threads of the process."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        thunk()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def measure(
    thunks: Mapping[str, T],
    timer: Callable[[T, int], tuple[float, float]],
    seconds: float,
    min_rounds: int = MIN_ROUNDS,
    sample_seconds: float = SAMPLE_SECONDS,
) -> dict[str, Timing]:
    """Time the thunks in turns for about `seconds`, in no fewer than `min_rounds` rounds.

    A turn repeats a shorter thunk until it lasts about `sample_seconds`.
    """
    calls = {}
    for name, thunk in thunks.items():
        timer(thunk, 1)
        once, _ = timer(thunk, 1)
        calls[name] = min(max(math.ceil(sample_seconds / max(once, 1e-9)), 1), 10_000)
    elapsed: dict[str, list[float]] = {name: [] for name in thunks}
    cpu: dict[str, list[float]] = {name: [] for name in thunks}
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(MAX_ROUNDS):
            if done >= min_rounds and time.perf_counter() - start > seconds:
                break
            for name, thunk in thunks.items():
                sample = timer(thunk, calls[name])
                elapsed[name].append(sample[0])
                cpu[name].append(sample[1])
    finally:
        gc.enable()
    return {name: summarise(elapsed[name], cpu[name]) for name in thunks}
