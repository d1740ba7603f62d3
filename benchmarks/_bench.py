"""Measuring an operation against its peers: checked first, then timed in turns, one row a figure.

Peers take turns within one process (A B A B ...), so that a busy machine or a changing clock rate
touches all of them alike. On a CPU a sample is wall time and CPU time of the whole process; on a
GPU it is the time between two CUDA events, eagerly and under a CUDA graph, and the CPU time is what
it took to issue the work. Inputs stay where they are between calls: what fits a cache is read from
it, so only shapes far larger than the cache say something about memory bandwidth.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from _peers import HASHFAST, REFERENCE, Case, Peer, as_tuple, check, leaves, results_of
from _rows import CUDA_GRAPH, EAGER, Row, commit, first_line, today
from _timing import Thunk, Timing, measure, time_cpu
from torch import Tensor

from hashfast import _ext
from hashfast._environment import environment
from hashfast.ops._op import cpu_level

# A graph holds several short calls, so that its own launch (2 to 4 us) does not count.
GRAPH_CALLS, GRAPH_SHORT_SECONDS = 10, 1e-3
# Every graph keeps its memory; where a call takes this much, launches do not matter.
GRAPH_MEMORY_MB = 4e3


# ---- timing --------------------------------------------------------------------------------


def time_cuda(thunk: Thunk, calls: int) -> tuple[float, float]:
    """(device, CPU) seconds a call; CPU time is that of issuing the work, not of waiting for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    cpu = time.process_time()
    start.record()
    for _ in range(calls):
        thunk()
    end.record()
    cpu = time.process_time() - cpu
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls, cpu / calls


def peak_memory_mb(thunk: Thunk) -> float:
    """Largest GPU memory a call takes on top of what is held before it, in 10^6 bytes."""
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    thunk()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / 1e6


# ---- what is timed -------------------------------------------------------------------------


def thunk_of(case: Case, peer: Peer, mode: str) -> Thunk:
    """One call of the mode; for "backward" the forward pass is done here, once."""
    run, arguments, inputs = peer.run, case.arguments, leaves(case)
    if mode == "forward":
        return lambda: run(*arguments)

    def gradient(output: Tensor, keep: bool) -> Any:
        return torch.autograd.grad(output, inputs, torch.ones_like(output), retain_graph=keep)

    if mode == "backward":
        output = as_tuple(run(*arguments))[0]
        return lambda: gradient(output, True)
    return lambda: gradient(as_tuple(run(*arguments))[0], False)


def captured(case: Case, peer: Peer, mode: str, calls: int) -> Thunk:
    """The same call as a CUDA graph that repeats it `calls` times."""
    return capture(lambda: thunk_of(case, peer, mode), calls)


def capture(prepare: Callable[[], Thunk], calls: int) -> Thunk:
    """What `prepare` makes as a CUDA graph that repeats it `calls` times."""
    current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        # Autograd runs on the stream of the forward pass, which has to be the captured one.
        thunk = prepare()
        for _ in range(3):
            thunk()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(calls):
                thunk()
    finally:
        torch.cuda.set_stream(current)  # a failed capture leaves its own stream in place
    return graph.replay


# ---- a case --------------------------------------------------------------------------------


def stamp(device: str, threads: int) -> Row:
    """What all rows of a run share: the machine, versions, commit and date."""
    found = environment(device)
    cpu = environment("cpu")["device"]
    if "_C" not in _ext.MISSING:
        cpu = f"{cpu} ({cpu_level()})"
    return {
        "threads": threads,
        "device": found["device"],
        "cpu": cpu,
        "torch": found["torch"],
        "triton": found["triton"],
        "hashfast": found["hashfast"],
        "commit": commit(),
        "date": today(),
    }


@dataclass
class Recorder:
    """What all rows of a run share, and what could not be measured.

    seconds: time for each measurement (all peers of one case, mode and execution together).
    graphs: whether CUDA graphs are measured; off after a capture failed.
    """

    device: str
    threads: int
    seconds: float
    graphs: bool = False
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graphs = self.on_gpu
        self.stamp = stamp(self.device, self.threads)

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def ratio_clock(self) -> str:
        """One thread's CPU time does not depend on what else the machine does."""
        if self.on_gpu:
            return "device"
        return "cpu" if self.threads == 1 else "wall"

    def rows(self, case: Case) -> list[Row]:
        """Check every peer of the case, then time those that are right."""
        label = f"{case.op} {case.shape}"
        reference = next(peer for peer in case.peers if peer.name == REFERENCE)
        try:
            expected = results_of(case, reference)
        except Exception as error:
            self.notes.append(f"{label}: not timed, the reference failed: {first_line(error)}")
            return []
        peers = []
        for peer in case.peers:
            why = "" if peer is reference else check(case, peer, expected)
            if not why:
                peers.append(peer)
                continue
            self.notes.append(f"{label}, {peer.name}: not timed, {why}")
            if peer.name == HASHFAST:
                self.wrong.append(f"{label}: {why}")
                return []
        del expected
        return [row for mode in case.modes for row in self._mode_rows(case, peers, mode)]

    def _mode_rows(self, case: Case, peers: list[Peer], mode: str) -> list[Row]:
        timer = time_cuda if self.on_gpu else time_cpu
        thunks = self._prepared(case, peers, mode, EAGER, thunk_of)
        timings = measure(thunks, timer, self.seconds)
        # Counted on one more call, when nothing is being timed.
        memory = {name: peak_memory_mb(thunk) for name, thunk in thunks.items() if self.on_gpu}
        rows = self._as_rows(case, peers, mode, EAGER, timings, memory)
        if not self.graphs:
            return rows
        calls = {
            name: GRAPH_CALLS if timing.median < GRAPH_SHORT_SECONDS else 1
            for name, timing in timings.items()
        }
        del thunks
        graphs = self._prepared(
            case,
            [p for p in peers if p.capturable and memory.get(p.name, math.inf) < GRAPH_MEMORY_MB],
            mode,
            CUDA_GRAPH,
            lambda case, peer, mode: captured(case, peer, mode, calls[peer.name]),
        )
        timings = {
            name: Timing(*(value / calls[name] for value in timing[:4]), timing.rounds)
            for name, timing in measure(graphs, timer, self.seconds).items()
        }
        return rows + self._as_rows(case, peers, mode, CUDA_GRAPH, timings, {})

    def _prepared(
        self,
        case: Case,
        peers: list[Peer],
        mode: str,
        execution: str,
        prepare: Callable[[Case, Peer, str], Thunk],
    ) -> dict[str, Thunk]:
        """Thunks that ran once; a peer that cannot is noted and left out."""
        thunks = {}
        for peer in peers:
            try:
                thunk = prepare(case, peer, mode)
                thunk()
                if self.on_gpu:
                    torch.cuda.synchronize()
            except Exception as error:
                label = f"{case.op} {case.shape}, {peer.name}, {mode}, {execution}"
                self.notes.append(f"{label}: not timed, {first_line(error)}")
                if execution == CUDA_GRAPH:
                    self.graphs = False
                    break
            else:
                thunks[peer.name] = thunk
        return thunks

    def _as_rows(
        self,
        case: Case,
        peers: list[Peer],
        mode: str,
        execution: str,
        timings: dict[str, Timing],
        memory: dict[str, float],
    ) -> list[Row]:
        baseline = case.baseline if case.baseline in timings else REFERENCE

        def ratio(timing: Timing) -> float:
            if baseline not in timings:
                return math.nan
            clock = "cpu" if self.ratio_clock == "cpu" else "median"
            ours = getattr(timing, clock)
            return getattr(timings[baseline], clock) / ours if ours else math.nan

        rows = []
        for peer in peers:
            timing = timings.get(peer.name)
            if timing is None:
                continue
            rows.append(
                self.stamp
                | {
                    "op": case.op,
                    "provider": peer.name,
                    "backend": peer.served_by(mode),
                    "mode": mode,
                    "execution": execution,
                    "shape": case.shape,
                    "size": case.size,
                    "dtype": str(case.dtype).removeprefix("torch."),
                    **timing.columns(),
                    "peak_memory_mb": memory.get(peer.name, math.nan),
                    "ratio": ratio(timing),
                    "baseline": baseline,
                    "ratio_clock": self.ratio_clock,
                }
            )
        return rows
