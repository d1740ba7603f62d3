"""Table 3 of paper 004 (BRCD) on the machine at hand: milliseconds from images to codes by backbone
and batch size, and of exact search among random codes."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hashfast._environment import environment
from hashfast.hashing.model import HashModel, ModelConfig, inference
from hashfast.index import IndexBinaryFlat
from hashfast.reproduce.numbers004 import COST, INFERENCE_MS, SEARCH_MS, TABLE_3_BATCHES
from hashfast.reproduce.tables import Cell, Table

BITS = 64
BACKBONES = (*INFERENCE_MS, "efficientnet-lite0", "convnet3")
IMAGE_SIZES = {"convnet3": 32}
"""Sides of images that are not 224."""
SECONDS = 0.5
"""Spent on a cell, if its calls are short enough for MIN_CALLS in it."""
MIN_CALLS, MAX_CALLS = 3, 100
_REST = 0.01  # seconds between turns: threads of one library spin for a while after their work
_COSTS = ("params (M)", "GFLOPs")


SCALES = {"small": ((1_000_000,), 1.0), "paper": (tuple(sorted({n for n, _ in SEARCH_MS})), 60.0)}
"""{name: (numbers of codes, limit)}: two minutes on a CPU, or the paper's."""


@dataclass(frozen=True)
class Shapes:
    """What is timed. backbones: none for no inference; codes: numbers of codes searched, none for
    no search; k: neighbours; limit: seconds that a call may take, beyond which a batch, and larger
    ones, are left out; threads: None for those that torch takes."""

    backbones: tuple[str, ...]
    batches: tuple[int, ...]
    codes: tuple[int, ...]
    k: tuple[int, ...]
    limit: float
    device: torch.device
    threads: int | None = None


class Times(NamedTuple):
    """Milliseconds a call: median and percentiles of so many calls."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    calls: int


@dataclass(frozen=True)
class Row:
    """A cell of the table; paper_ms: the paper's number, where it has one."""

    name: str
    batch: int
    codes: int | None
    k: int | None
    times: Times
    paper_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """Flat, as a line of a CSV file."""
        found = asdict(self)
        return {**{key: found[key] for key in found if key != "times"}, **self.times._asdict()}


class Cost(NamedTuple):
    """Of a network: parameters; multiply-adds an image; bytes an image of its largest layer's
    input and output."""

    parameters: int
    multiply_adds: int
    layer_bytes: int


@dataclass(frozen=True)
class Speed:
    """table: ours (the paper's); rows: its times; costs: of the backbones; left_out: why cells are
    missing."""

    table: Table
    rows: list[Row]
    costs: dict[str, Cost]
    left_out: list[str]
    environment: dict[str, Any]


def measure_speed(shapes: Shapes) -> Speed:
    """Time every cell, with progress on standard error.

    Raises ValueError for codes that do not fit into memory, with the number that does, and what
    building a backbone raises.
    """
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    for n in shapes.codes:
        _check_memory(n, shapes.device)
    left_out: list[str] = []
    rows: list[Row] = []
    costs = {name: network_cost(name) for name in shapes.backbones}
    steps: list[str | int] = [*shapes.backbones, *shapes.codes]
    with _threads(shapes.threads):
        for number, step in enumerate(steps, 1):
            what = step if isinstance(step, str) else f"search among {step:,} codes"
            print(f"[{number}/{len(steps)}] {what}", file=sys.stderr)
            if isinstance(step, str):
                rows += _inference(step, costs[step], shapes, left_out)
            else:
                rows += _search(step, shapes, left_out)
        facts: dict[str, Any] = {**environment(shapes.device), "threads": torch.get_num_threads()}
    facts |= {"faiss": _faiss_version() or "not installed", "load before": load}
    return Speed(_table(shapes, rows, costs), rows, costs, left_out, facts)


def network_cost(name: str) -> Cost:
    """Count what one image costs in a hash model of the backbone; nothing is computed."""
    # Meta tensors have shapes and no values.
    with torch.device("meta"):
        model = _model(name)
    images = torch.empty(1, *model.config.image_shape, device="meta")
    largest = 0

    def keep_largest(_: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        tensors = [t for t in (*inputs, output) if isinstance(t, Tensor)]
        largest = max(largest, sum(t.numel() * t.element_size() for t in tensors))

    for module in model.modules():
        module.register_forward_hook(keep_largest)
    with inference(model), FlopCounterMode(display=False) as counter:
        model(images)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // 2, largest)


def codes_that_fit(device: torch.device) -> int:
    """How many codes can be drawn and put into the indexes with the memory that is free."""
    on_host = 1 if _faiss_version() is None else 2  # as drawn, and in faiss's index
    if device.type == "cpu":
        free = _free_memory(device) / (on_host + 1)
    else:  # there, as sent and in our index
        free = min(_free_memory(torch.device("cpu")) / on_host, _free_memory(device) / 2)
    return sys.maxsize if math.isinf(free) else int(free) // (BITS // 8)


def _check_memory(n: int, device: torch.device) -> None:
    fit = codes_that_fit(device)
    if n > fit:
        raise ValueError(
            f"{n:,} codes of {BITS} bits do not fit into the memory that is free while indexes are "
            f"filled with them: choose at most {fit:,} (--codes)"
        )


def _free_memory(device: torch.device) -> float:
    """Bytes; infinite where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return math.inf


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """So many threads of torch and faiss; torch's number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _model(name: str) -> HashModel:
    size = IMAGE_SIZES.get(name, 224)
    return HashModel(ModelConfig(name, BITS, image_shape=(3, size, size)))


def _inference(name: str, cost: Cost, shapes: Shapes, left_out: list[str]) -> list[Row]:
    model = _model(name).to(shapes.device)
    paper = dict(zip(TABLE_3_BATCHES, INFERENCE_MS.get(name, ()), strict=False))
    clock, rows = _Clock(shapes, left_out), []
    with inference(model):
        for batch in sorted(shapes.batches):
            # Twice: a residual connection, or another branch, is kept besides.
            if 2 * batch * cost.layer_bytes > _free_memory(shapes.device):
                left_out.append(f"{name} from batch {batch}: memory")
                break
            shape = (batch, *model.config.image_shape)
            images = torch.randint(0, 256, shape, dtype=torch.uint8, device=shapes.device)
            calls = {name: lambda images=images: model(images) > 0}
            for times in clock.time(calls, batch).values():
                rows.append(Row(name, batch, None, None, times, paper.get(batch)))
    return rows


def _search(n: int, shapes: Shapes, left_out: list[str]) -> list[Row]:
    """Ours and faiss, where it is installed, in turns; raises RuntimeError if they disagree."""
    rng = np.random.default_rng(0)
    codes, queries = (
        rng.integers(0, 256, (rows, BITS // 8), dtype=np.uint8) for rows in (n, max(shapes.batches))
    )
    ours = IndexBinaryFlat(BITS, shapes.device)
    ours.add(codes)
    theirs = _filled_faiss(codes)
    del codes
    rows = []
    for k in shapes.k:
        paper = dict(zip(TABLE_3_BATCHES, SEARCH_MS.get((n, k), ()), strict=False))
        clock = _Clock(shapes, left_out)
        if theirs is not None:
            _check_same(ours, theirs, queries[:4], k)
        for batch in sorted(shapes.batches):
            query = queries[:batch]
            sent = torch.from_numpy(query).to(shapes.device)
            calls = {f"hashfast, n={n:,}, k={k}": lambda q=sent, k=k: ours.search(q, k)}
            if theirs is not None:
                calls[f"faiss, n={n:,}, k={k}"] = lambda q=query, k=k: theirs.search(q, k)
            for name, times in clock.time(calls, batch).items():
                rows.append(Row(name, batch, n, k, times, paper.get(batch)))
    return rows


def _check_same(ours: IndexBinaryFlat, theirs: Any, query: np.ndarray, k: int) -> None:
    if not np.array_equal(ours.search(query, k)[0], theirs.search(query, k)[0]):
        raise RuntimeError(f"hashfast and faiss find other distances among {len(ours):,} codes")


def _filled_faiss(codes: np.ndarray) -> Any:
    """faiss's index of the codes, on the CPU; None without faiss."""
    if _faiss_version() is None:
        return None
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexBinaryFlat(BITS)
    index.add(codes)
    return index


def _faiss_version() -> str | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss.__version__


class _Clock:
    """Times growing batches; once a call would take longer than the limit, no more of its name."""

    def __init__(self, shapes: Shapes, left_out: list[str]) -> None:
        self.shapes, self.left_out = shapes, left_out
        self.last: dict[str, tuple[int, float]] = {}
        self.done: set[str] = set()

    def time(self, calls: Mapping[str, Callable[[], Any]], batch: int) -> dict[str, Times]:
        """Times of the calls, in turns, each warmed up once; without those that take too long.

        The smallest batch is always timed. A call that is longer than the limit is made once.
        """
        chosen = {name: call for name, call in calls.items() if self._within_limit(name, batch)}
        samples: dict[str, list[float]] = {}
        start = 0.0
        for turn in range(MAX_CALLS + 1 if chosen else 0):
            if turn <= 1:  # the first is the warm-up
                samples = {name: [] for name in chosen}
                start = time.perf_counter()
            for name, call in chosen.items():
                samples[name].append(self._seconds(call))
            slow = max(map(max, samples.values())) > self.shapes.limit
            spent = time.perf_counter() - start
            if turn >= (1 if slow else MIN_CALLS) and spent > SECONDS * len(chosen):
                break
        for name, seconds in samples.items():
            self.last[name] = (batch, float(np.median(seconds)))
        return {name: _summary(seconds) for name, seconds in samples.items()}

    def _within_limit(self, name: str, batch: int) -> bool:
        """As far as the batch before tells; says it, once, when not."""
        if name in self.done:
            return False
        size, seconds = self.last.get(name, (batch, 0.0))
        if seconds * batch / size <= self.shapes.limit:
            return True
        self.done.add(name)
        limit = f"a call would take more than {self.shapes.limit:g} s"
        self.left_out.append(f"{name} from batch {batch}: {limit}")
        return False

    def _seconds(self, call: Callable[[], Any]) -> float:
        time.sleep(_REST)
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.shapes.device.type != "cpu":
            torch.accelerator.synchronize(self.shapes.device)


def _summary(seconds: list[float]) -> Times:
    p20, median, p80 = (1e3 * float(p) for p in np.percentile(seconds, (20, 50, 80)))
    return Times(median, p20, p80, len(seconds))


def _table(shapes: Shapes, rows: list[Row], costs: dict[str, Cost]) -> Table:
    """Rows as timed, a column a batch size; costs of backbones at the end."""
    table: dict[str, dict[str, Cell]] = {}
    for row in rows:
        name = row.name if row.k is not None else _with_size(row.name)
        cell = Cell((row.times.median_ms,), row.paper_ms, spec=".2f")
        table.setdefault(name, {})[str(row.batch)] = cell
    for name, cost in costs.items():
        parameters, flops = COST.get(name, (None, None))
        cells = table.setdefault(_with_size(name), {})
        cells[_COSTS[0]] = Cell((cost.parameters / 1e6,), parameters, spec=".1f")
        cells[_COSTS[1]] = Cell((cost.multiply_adds / 1e9,), flops, spec=".2f")
    batches = [str(batch) for batch in sorted(shapes.batches)]
    return Table("ms by batch size", [*batches, *(_COSTS if costs else ())], table)


def _with_size(name: str) -> str:
    size = IMAGE_SIZES.get(name)
    return name if size is None else f"{name} ({size}x{size})"
