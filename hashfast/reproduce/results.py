"""What the papers have in common: names in print, and what is read out of results."""

from collections.abc import Callable, Iterator

from hashfast.reproduce.experiment import Found, Result, Shown
from hashfast.reproduce.plan import Source
from hashfast.reproduce.tables import Entry, Table, tabulate

_PRINTED = {
    "cifar10": "CIFAR-10",
    "cifar10-1": "CIFAR-10",
    "cifar10-brcd": "CIFAR-10",
    "coco": "COCO",
    "imagenet10": "ImageNet10",
    "imagenet20": "ImageNet20",
    "imagenet100": "ImageNet",
    "nuswide21": "NUS-WIDE",
    "nuswide21-dhd": "NUS-WIDE",
}


def printed(protocol: str) -> str:
    """A protocol's name as papers print it."""
    return _PRINTED.get(protocol, protocol)


def data_and_bits(source: Source, bits: int) -> str:
    return f"{printed(source.name)} {bits} bits"


def mean_average_precision(result: Result) -> float:
    return result["report"]["map"]


def entries(found: Found, value: Callable[[Result], float]) -> Iterator[Entry]:
    """A table's entries: one value of every run's result, where the run stands."""
    for run, result in found.runs:
        yield Entry(run.row, run.column, value(result), run.paper, run.baseline)


def map_table(found: Found, corner: str) -> Table:
    """mAP of all runs; corner: what the rows are."""
    return tabulate(corner, entries(found, mean_average_precision))


def show_map(corner: str) -> Callable[[Found], Shown]:
    """A table of mAP and nothing else."""
    return lambda found: Shown(map_table(found, corner))


def first_seeds(found: Found) -> dict[str, Result]:
    """{row, and column where there are several: result of its first seed}, for pictures."""
    several = len({run.column for run, _ in found.runs}) > 1
    first: dict[str, Result] = {}
    for run, result in found.runs:
        first.setdefault(f"{run.row}, {run.column}" if several else run.row, result)
    return first
