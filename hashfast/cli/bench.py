import csv
import io
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hashfast.cli._run import Output

if TYPE_CHECKING:
    from hashfast.reproduce.speed004 import Speed


@dataclass(frozen=True)
class Command:
    """Milliseconds on this machine beside those of a paper.

    004/3: from images in memory to 64-bit codes by backbone (weights at random) and batch size, and
    of exact search among random codes, with faiss in turns where it is installed. As it is, in
    about two minutes on a CPU: larger batches of slow backbones are left out, and said to be.
    """

    table: Literal["004/3"] = "004/3"
    """Paper and table."""
    scale: Literal["small", "paper"] = "small"
    """Defaults of --codes and --limit: 1e6 and 1, or the paper's 1e7 3e7 5e7, and 60."""
    part: Literal["all", "inference", "search"] = "all"
    """Only one half of the table."""
    backbones: tuple[str, ...] = ()
    """Networks, as of train (default: the paper's five, efficientnet-lite0 and convnet3)."""
    batches: tuple[int, ...] = ()
    """Images or queries a call (default: 4 8 16 ... 512)."""
    codes: tuple[float, ...] = ()
    """Numbers of codes that are searched, as 1e6."""
    k: tuple[int, ...] = (100, 1000)
    """Neighbours that are searched for."""
    limit: float | None = None
    """Seconds: larger batches are left out where a call would take longer."""
    threads: int | None = None
    """Threads of torch and faiss (default: what torch takes)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one. faiss is timed on the CPU."""
    out: Path | None = None
    """CSV file of the times, with percentiles and versions."""

    def __post_init__(self) -> None:
        from hashfast.hashing.backbones import backbone_statistics

        for name in ("batches", "codes", "k"):
            values = getattr(self, name)
            if not all(value >= 1 and float(value).is_integer() for value in values):
                raise ValueError(f"{name} is {values}; expected whole numbers, at least 1")
        for name in ("limit", "threads"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be positive")
        for backbone in self.backbones:
            with suppress(ImportError):  # a library that is missing is no bad usage
                backbone_statistics(backbone)
        fewest = min(self._codes())
        if not self.k or (self.part != "inference" and max(self.k) > fewest):
            raise ValueError(f"k is {self.k}; expected numbers up to that of codes, {fewest:,}")

    def _codes(self) -> tuple[int, ...]:
        from hashfast.reproduce.speed004 import SCALES

        return tuple(map(int, self.codes)) or SCALES[self.scale][0]

    def run(self) -> Output:
        from hashfast._files import write_text
        from hashfast.hashing.loading import resolve_device
        from hashfast.reproduce import speed004

        if self.out is not None and not self.out.parent.is_dir():
            raise FileNotFoundError(f"{self.out}: the folder {self.out.parent} does not exist")
        shapes = speed004.Shapes(
            backbones=() if self.part == "search" else self.backbones or speed004.BACKBONES,
            batches=self.batches or speed004.TABLE_3_BATCHES,
            codes=() if self.part == "inference" else self._codes(),
            k=self.k,
            limit=speed004.SCALES[self.scale][1] if self.limit is None else self.limit,
            device=resolve_device(self.device),
            threads=self.threads,
        )
        speed = speed004.measure_speed(shapes)
        if self.out is not None:
            write_text(self.out, _csv(speed))
        return Output(_text(speed), _data(speed))


def _text(speed: "Speed") -> str:
    facts = ", ".join(f"{name} {value}" for name, value in speed.environment.items())
    notes = [
        f"Here: {facts}.",
        "The paper: Tesla V100 and two Xeon Gold 5218; its search is faiss's.",
        "Weights are random. A call makes codes of uint8 images that are in memory, in float32, or "
        "finds the neighbours of queries.",
        "Whatever else runs (load) makes calls longer, those on several threads most.",
        "GFLOPs are multiply-adds of an image, as the paper counts them; params are those of the "
        "hash model, the paper's with ImageNet's classifier.",
    ]
    notes += [f"Left out: {what}." for what in speed.left_out]
    heading = "004 table 3: median milliseconds (the paper's)"
    return "\n".join([heading, "", speed.table.markdown(), "", *notes])


def _data(speed: "Speed") -> dict[str, Any]:
    return {
        "rows": [row.to_dict() for row in speed.rows],
        "costs": {name: cost._asdict() for name, cost in speed.costs.items()},
        "left_out": speed.left_out,
        "environment": speed.environment,
        "weights": "random",
    }


def _csv(speed: "Speed") -> str:
    """A line a cell, with what it was measured on."""
    file = io.StringIO()
    lines = [{**row.to_dict(), **speed.environment} for row in speed.rows]
    writer = csv.DictWriter(file, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
