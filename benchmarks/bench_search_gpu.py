"""Time exact Hamming top-k on a CUDA GPU beside what else searches there, and its limits.

python benchmarks/bench_search_gpu.py [--set bars|table3|small|full] [--bits 64] [--codes learned]

hashfast, by each kind of kernel that is there, eagerly and in a CUDA graph; products of codes as
int8 (torch._int_mm) or their distances by a plain Triton kernel, each with torch.topk by chunks;
faiss's GpuIndexBinaryFlat where it is installed. They take turns on the same codes, timed by CUDA
events. A ratio is how many times faster than the int8 products, called eagerly. `of limit` is the
least time that memory, products of bits or integer operations leave any exact search, over the time
that was measured (_gpu_search_cases.py has the arithmetic).

--set bars takes about a minute on an H200, small seconds, table3 (the searches of Table 3 of paper
004, beside its figures) and full a few minutes each. Exits with 1 when hashfast finds something
wrong, whose speed is then not printed, and with 2 without a GPU.
"""

import argparse
import gc
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch
from _bench import GRAPH_CALLS, GRAPH_SHORT_SECONDS, capture, peak_memory_mb, stamp, time_cuda
from _gpu_search import (
    Answer,
    Contender,
    Search,
    codes,
    faiss_gpu,
    gemm,
    has_faiss_gpu,
    judge,
    popcount,
)
from _gpu_search_cases import BARS, KINDS, SETS, Case, Limits, cases, device_limits
from _peers import HASHFAST, disagreement, poisoned
from _rows import (
    CUDA_GRAPH,
    EAGER,
    RESULTS,
    Row,
    aligned,
    append_rows,
    duration,
    first_line,
    machine_slug,
)
from _search_cases import add_options, bar_verdicts
from _timing import MIN_ROUNDS, Timing, measure, time_cpu
from torch import Tensor

from hashfast import ops
from hashfast.ops import OPS

BASELINE = "int8 products + topk"
KERNELS = "hashfast.kernels.hamming"
SECONDS_EACH = {"bars": 0.5, "small": 0.2, "table3": 0.3, "full": 0.3}
# A round of so many pairs takes most of a second; three of them must do.
MANY_PAIRS, FEW_ROUNDS = 2e10, 3
COPIED_BYTES = 2**31

COLUMNS = (
    *("provider", "backend", "execution", "codes", "n", "bits", "queries", "k"),
    *("median_ms", "p20_ms", "p80_ms", "cpu_median_ms", "rounds", "peak_memory_mb"),
    *("tpairs_s", "limit", "limit_ms", "of_limit", "ratio", "baseline", "ratio_clock"),
    *("paper_ms", "paper_ratio"),
    *("device", "cpu", "torch", "triton", "hashfast", "commit", "date"),
)


def contenders(kind: str) -> list[Contender]:
    """Everything here that searches on a device, the baseline first."""
    backend = OPS["hamming_topk"].backend(kind)
    found = [
        Contender(BASELINE, f"torch {torch.__version__}", gemm),
        Contender("popcount + topk", "Triton", popcount),
        Contender(HASHFAST, backend, partial(_ours, ops.hamming_topk), backend != "reference"),
    ]
    if has_faiss_gpu():
        found.append(Contender("faiss", "GpuIndexBinaryFlat", faiss_gpu))
    # The kernel that does not serve the operation is measured all the same.
    if backend == "CUDA C++" and importlib.util.find_spec("triton"):
        launch = importlib.import_module(KERNELS).topk
        found.append(Contender(f"{HASHFAST} (Triton)", "Triton", partial(_ours, launch), True))
    return found


def _ours(search, query: Tensor, database: Tensor) -> Search:
    return lambda k: search(query, database, k, None)


class GpuSearchBench:
    """Checks and times cases; `notes` and `wrong` say what could not be measured.

    contenders: the first decides which distances are right. seconds: for all of one case and
    execution. limits: of the device; None where they are not known.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        device: str,
        seconds: float,
        limits: Limits | None,
    ) -> None:
        self.contenders, self.device = contenders, device
        self.seconds, self.limits = seconds, limits
        self.on_gpu = torch.device(device).type == "cuda"
        self.stamp = stamp(device, 1)
        self.notes: list[str] = []
        self.wrong: list[str] = []
        self.uncaptured: set[str] = set()  # a failed capture is not tried again

    def rows(self, case: Case) -> list[Row]:
        """Rows for every way of searching that is right; none when one of ours is not."""
        query, database = codes(case, self.device)
        searches: dict[str, Search] = {}
        answers: dict[str, Answer] = {}
        for contender in self.contenders:
            name = contender.provider
            try:
                search = contender.prepare(query, database)
                answers[name] = self._first_answer(name, search, case.k)
                why = self._why_wrong(name, query, database, answers)
            except Exception as error:
                why = first_line(error)
            if not why:
                searches[name] = search
                continue
            self._leave_out(case, name, why)
            if name == self.contenders[0].provider or name.startswith(HASHFAST):
                return []
        eager = self._eager(case, searches)
        memory = {}
        if self.on_gpu:
            for name, search in searches.items():
                memory[name] = peak_memory_mb(partial(search, case.k))
        graphs = self._graphs(case, searches, answers, eager)
        for name, search in searches.items():
            if name.startswith(HASHFAST) and not _equal(search(case.k), answers[name]):
                self._leave_out(case, name, "a later call does not find the same")
                return []
        return [
            self._row(case, name, execution, timing, eager, memory)
            for execution, timings in ((EAGER, eager), (CUDA_GRAPH, graphs))
            for name, timing in timings.items()
        ]

    def _first_answer(self, name: str, search: Search, k: int) -> Answer:
        if not name.startswith(HASHFAST):
            return search(k)
        with poisoned():
            return search(k)

    def _why_wrong(
        self, name: str, query: Tensor, database: Tensor, answers: dict[str, Answer]
    ) -> str:
        truth = self.contenders[0].provider
        why = disagreement(answers[name][0].to(self.device), answers[truth][0])
        if why:
            return f"distances are not those of {truth}: {why}"
        return judge(query, database, answers[name]) if name.startswith(HASHFAST) else ""

    def _leave_out(self, case: Case, name: str, why: str) -> None:
        text = f"{case}: {name}: not timed, {why}"
        self.notes.append(text)
        if name.startswith(HASHFAST):
            self.wrong.append(text)

    def _eager(self, case: Case, searches: dict[str, Search]) -> dict[str, Timing]:
        timer = time_cuda if self.on_gpu else time_cpu
        thunks = {name: partial(search, case.k) for name, search in searches.items()}
        rounds = FEW_ROUNDS if case.n * case.queries > MANY_PAIRS else MIN_ROUNDS
        return measure(thunks, timer, self.seconds, rounds)

    def _graphs(
        self,
        case: Case,
        searches: dict[str, Search],
        answers: dict[str, Answer],
        eager: dict[str, Timing],
    ) -> dict[str, Timing]:
        """Of those that a graph can hold, which must find the same in it."""
        thunks, calls = {}, {}
        for contender in self.contenders:
            name = contender.provider
            capturable = self.on_gpu and contender.capturable and name not in self.uncaptured
            if not capturable or name not in searches:
                continue
            calls[name] = GRAPH_CALLS if eager[name].median < GRAPH_SHORT_SECONDS else 1
            made: list[Answer] = []

            def call(search: Search = searches[name], made: list[Answer] = made) -> None:
                made[:] = [search(case.k)]

            try:
                thunk = capture(lambda call=call: call, calls[name])
                for tensor in made[0]:
                    tensor.zero_()
                thunk()
                why = "" if _equal(made[0], answers[name]) else "it finds something else"
            except Exception as error:
                why = first_line(error)
                self.uncaptured.add(name)
            if why:
                self._leave_out(case, f"{name} in a CUDA graph", why)
            else:
                thunks[name] = thunk
        return {
            name: Timing(*(value / calls[name] for value in timing[:4]), timing.rounds)
            for name, timing in measure(thunks, time_cuda, self.seconds).items()
        }

    def _row(
        self,
        case: Case,
        name: str,
        execution: str,
        timing: Timing,
        eager: dict[str, Timing],
        memory: dict[str, float],
    ) -> Row:
        limit, least = self.limits.binding(case) if self.limits else ("", math.nan)
        paper = math.nan if case.paper_ms is None else case.paper_ms
        backends = {contender.provider: contender.backend for contender in self.contenders}
        return {key: self.stamp[key] for key in COLUMNS if key in self.stamp} | {
            "provider": name,
            "backend": backends[name],
            "execution": execution,
            **{axis: getattr(case, axis) for axis in ("codes", "n", "bits", "queries", "k")},
            **timing.columns(),
            "peak_memory_mb": memory.get(name, math.nan) if execution == EAGER else math.nan,
            "tpairs_s": case.n * case.queries / timing.median / 1e12,
            "limit": limit,
            "limit_ms": 1e3 * least,
            "of_limit": least / timing.median,
            "ratio": eager[self.contenders[0].provider].median / timing.median,
            "baseline": self.contenders[0].provider,
            "ratio_clock": "device" if self.on_gpu else "wall",
            "paper_ms": paper,
            "paper_ratio": paper / 1e3 / timing.median,
        }


def _equal(found: Answer, expected: Answer) -> bool:
    return all(map(torch.equal, found, expected))


def copy_rate() -> float:
    """Bytes a second of a copy within the GPU's memory, read and written."""
    source = torch.randint(256, (COPIED_BYTES,), dtype=torch.uint8, device="cuda")
    to = torch.empty_like(source)
    timing = measure({"copy": lambda: to.copy_(source)}, time_cuda, 0.1)["copy"]
    return 2 * COPIED_BYTES / timing.median


def table(rows: list[Row]) -> str:
    """The rows of one case."""
    head = ("provider", "backend", "execution", "median", "p20 .. p80", "CPU", "MB")
    head += ("Tpairs/s", "of limit", "ratio", "x the paper's")
    lines = [head]
    for row in rows:
        lines.append(
            (
                *(row["provider"], row["backend"], row["execution"], duration(row["median_ms"])),
                f"{duration(row['p20_ms'])} .. {duration(row['p80_ms'])}",
                duration(row["cpu_median_ms"]),
                _shown(row["peak_memory_mb"], "{:,.0f}"),
                f"{row['tpairs_s']:.3g}",
                _shown(row["of_limit"], "{:.0%}"),
                f"{row['ratio']:.2f}x",
                _shown(row["paper_ratio"], "{:.1f}"),
            )
        )
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    return aligned(list(zip(*columns, strict=True)))


def _shown(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)


def heading(case: Case, row: Row) -> str:
    parts = [f"{case}  (ratio to {row['baseline']}"]
    if row["limit"]:
        parts.append(f"limit {duration(row['limit_ms'])} by {row['limit']}")
    if case.paper_ms is not None:
        parts.append(f"paper 004 {case.paper_ms} ms")
    return "; ".join(parts) + ")"


def verdicts(rows: list[Row]) -> list[str]:
    """A line for every bar that something was measured for."""
    return bar_verdicts(BARS, rows, 3)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, SETS, ("n", "bits", "queries", "k"), "GPU")
    parser.add_argument("--codes", nargs="+", choices=KINDS, help="instead of the set's own")
    parser.add_argument("--stop", type=float, default=math.inf, help="start no case after so long")
    options = parser.parse_args(arguments)
    axes = {axis: getattr(options, axis) for axis in ("n", "bits", "queries", "k", "codes")}
    options.changed = any(axes.values())
    options.cases = cases(options.set, **axes)
    options.seconds = SECONDS_EACH[options.set] if options.seconds is None else options.seconds
    for case in options.cases:
        if case.bits % 32 or case.queries < 1 or not 0 < case.k <= case.n:
            parser.error(f"{case}: bits come in 32s, queries from 1, k from 1 to n")
    return options


def main(arguments: list[str] | None = None) -> int:
    start = time.perf_counter()
    options = parse(arguments)
    if not torch.cuda.is_available():
        print("this torch sees no CUDA GPU; bench_search.py measures CPUs", file=sys.stderr)
        return 2
    limits = device_limits(copy_rate())
    bench = GpuSearchBench(contenders("cuda"), "cuda", options.seconds, limits)
    if not has_faiss_gpu():
        bench.notes.append("no faiss for GPUs is installed: left out")
    out = options.out
    if out is None and options.set != "small" and not options.changed:
        out = RESULTS / f"search-gpu-{machine_slug(options.machine or bench.stamp['device'])}.csv"
    made = bench.stamp
    print(f"hashfast {made['hashfast']}, torch {made['torch']}, triton {made['triton']}")
    print(f"{made['device']}; commit {made['commit']}; {made['date']}")
    print(
        f"limits: {limits.bytes / 1e12:.2f} TB/s (a copy), {limits.products / 1e15:.2f}e15 "
        f"products of bits a second, {limits.operations / 1e12:.1f}e12 operations a second"
    )
    if out:
        print(f"rows are appended to {out}")
    rows: list[Row] = []
    for number, case in enumerate(options.cases):
        if time.perf_counter() - start > options.stop:
            bench.notes.append(f"time is up: {len(options.cases) - number} cases not run")
            break
        found = bench.rows(case)
        if found:
            print(f"\n{heading(case, found[0])}\n{table(found)}", flush=True)
            if out:
                append_rows(out, found, COLUMNS)
        rows += found
        gc.collect()
        torch.cuda.empty_cache()
    for note in bench.notes:
        print(f"note: {note}")
    for wrong in bench.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    print("\n".join(["", *verdicts(rows)]))
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
