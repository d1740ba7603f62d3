"""Time HSWD, forward and backward, beside the sort that a user would write in plain torch.

python benchmarks/bench_hswd.py [--rows 64 1024] [--bits 64] [--threads 1] [--seconds 300]

Two modes. "module": `HSWD(bits)(outputs).backward()`, against sorting the outputs and a random +-1
target along dim 0, their mean squared difference and `.backward()`. "operations": the forward and
the backward operation called below autograd, against the arithmetic of the same reference, that is
two sorts, the differences, and their gradient put back in the order of the rows. Exits with 1 when
value or gradient disagree: nothing is timed then.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _bench import stamp
from _peers import disagreement
from _rows import EAGER, RESULTS, Row, append_rows, machine_slug, table
from _timing import measure, time_cpu
from torch import Tensor

from hashfast import ops
from hashfast.losses import HSWD
from hashfast.ops import OPS

ROWS, BITS = (32, 64, 128, 256, 1024, 8192, 65536), (16, 64, 128)
SECONDS_EACH = 2.0
PLAIN = "plain torch"


def random_target(outputs: Tensor) -> Tensor:
    return torch.randint_like(outputs, 2).mul_(2).sub_(1)


def plain_hswd(outputs: Tensor, target: Tensor) -> Tensor:
    """Sort both along dim 0: the mean squared difference."""
    return (outputs.sort(dim=0).values - target.sort(dim=0).values).square().mean()


def plain_operations(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Its value and gradient without autograd."""
    values, order = outputs.sort(dim=0)
    gaps = values - random_target(outputs).sort(dim=0).values
    loss = gaps.square().mean()
    return loss, torch.empty_like(gaps).scatter_(0, order, gaps.mul_(2 / gaps.numel()))


def our_operations(outputs: Tensor, seed: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        loss, target = OPS["binary_wasserstein"](outputs, None, seed, True)
        return loss, OPS["binary_wasserstein_backward"](one, outputs, target)


def wrong(outputs: Tensor) -> str:
    """Why ours is not the reference's for the same target; empty if it is."""
    target = random_target(outputs)
    found = []
    for call in (
        lambda x: plain_hswd(x, target),
        lambda x: ops.binary_wasserstein(x, (target < 0).sum(0).int(), mean=True)[0],
    ):
        leaf = outputs.clone().requires_grad_()
        loss = call(leaf)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    pairs = zip(("value", "gradient"), *reversed(found), strict=True)
    return "; ".join(f"{name}: {why}" for name, a, b in pairs if (why := disagreement(a, b)))


def modes(outputs: Tensor) -> dict[str, dict[str, Callable]]:
    """For each mode one call of ours and of the reference."""
    leaf = outputs.clone().requires_grad_()
    module, seed, one = HSWD(outputs.shape[1]), torch.tensor(1), torch.ones(())

    def backward(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            leaf.grad = None
            loss().backward()

        return call

    return {
        "module": {
            "hashfast": backward(lambda: module(leaf)),
            PLAIN: backward(lambda: plain_hswd(leaf, random_target(leaf))),
        },
        "operations": {
            "hashfast": lambda: our_operations(outputs, seed, one),
            PLAIN: lambda: plain_operations(outputs),
        },
    }


def rows_of(outputs: Tensor, threads: int, seconds: float) -> list[Row]:
    n, bits = outputs.shape
    shared = stamp("cpu", threads)
    clock = "cpu" if threads == 1 else "median"
    rows = []
    for mode, thunks in modes(outputs).items():
        timings = measure(thunks, time_cpu, seconds)
        for name, timing in timings.items():
            rows.append(
                shared
                | {
                    "op": "hswd",
                    "provider": name,
                    "backend": "PyTorch" if name == PLAIN else "C++",
                    "mode": mode,
                    "execution": EAGER,
                    "shape": f"n={n} b={bits}",
                    "size": outputs.numel(),
                    "dtype": "float32",
                    **timing.columns(),
                    "peak_memory_mb": float("nan"),
                    "ratio": getattr(timings[PLAIN], clock) / getattr(timing, clock),
                    "baseline": PLAIN,
                    "ratio_clock": "cpu" if threads == 1 else "wall",
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--bits", type=int, nargs="+", default=BITS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300, help="start nothing new after this")
    parser.add_argument("--each", type=float, default=SECONDS_EACH, help="seconds a mode and shape")
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    for n, bits in ((n, bits) for n in options.rows for bits in options.bits):
        if time.perf_counter() - start > options.seconds:
            print(f"time is up before n={n} b={bits}")
            break
        torch.manual_seed(0)
        outputs = torch.randn(n, bits)
        why = wrong(outputs)
        if why:
            print(f"WRONG: n={n} b={bits}: {why}", file=sys.stderr)
            return 1
        rows = rows_of(outputs, options.threads, options.each)
        print(f"\nn={n} b={bits}\n{table(rows)}", flush=True)
        append_rows(options.out or RESULTS / f"{machine_slug(rows[0]['device'])}.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
