from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hashfast.cli._run import Output


@dataclass(frozen=True)
class Command:
    """Tables and figures of papers, computed again beside the paper's numbers.

    Without arguments lists them. Without --data and --root a small network on Fashion-MNIST stands
    in. Runs that are done are kept: a call that was interrupted goes on when it is repeated.
    """

    paper: Annotated[str, tyro.conf.Positional] = ""
    """Number of the paper."""
    table: str | None = None
    """Which table."""
    figure: str | None = None
    """Which figure."""
    data: str | None = None
    """Protocol; one that is not the paper's stands in for the paper's first."""
    root: Path | None = None
    """Where the data lies; without --data, a folder with one folder a protocol of the paper."""
    methods: tuple[str, ...] = ()
    """Of the paper's methods, these only."""
    bits: tuple[int, ...] = ()
    """Lengths of the code (default: the paper's)."""
    ipc: tuple[int, ...] = ()
    """Condensed images a class (default: the paper's)."""
    seeds: tuple[int, ...] = ()
    """Seeds, each a run (default: 0; of 002 and 003 0 1 2 for tables of quality; of 004 0 to 4 for
    Figure 6)."""
    epochs: int | None = None
    """Epochs of each run (default: the paper's)."""
    scale: float = 1.0
    """Do less, or more: multiplies epochs or steps of training, and networks of condensation."""
    out: Path | None = None
    """Folder for table, pictures and runs (default: reproduce/PAPER-table-N)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one."""
    workers: int = 0
    """Processes that decode pictures (in-memory data needs none)."""

    def __post_init__(self) -> None:
        from hashfast.data import PROTOCOLS
        from hashfast.reproduce import PAPERS, find_experiment
        from hashfast.reproduce.plan import Choices

        if self.paper and (self.table is not None or self.figure is not None):
            find_experiment(self.paper, self.table, self.figure)
        elif self.paper and self.paper not in PAPERS:
            raise ValueError(f"unknown paper {self.paper!r}; known: {', '.join(PAPERS)}")
        elif not self.paper and (self.table is not None or self.figure is not None):
            raise ValueError(f"name the paper first: {', '.join(PAPERS)}")
        Choices(bits=self.bits, ipc=self.ipc, scale=self.scale)  # checks them
        if self.data is not None and self.data not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.data!r}; known: {', '.join(PROTOCOLS)}")

    def run(self) -> Output:
        from hashfast.reproduce import reproduce

        if self.table is None and self.figure is None:
            return self._listed()
        outcome = reproduce(
            self.paper,
            table=self.table,
            figure=self.figure,
            data=self.data,
            root=self.root,
            methods=self.methods,
            bits=self.bits,
            ipc=self.ipc,
            seeds=self.seeds,
            epochs=self.epochs,
            scale=self.scale,
            out=self.out,
            device=self.device,
            workers=self.workers,
        )
        return Output(str(outcome), outcome.to_dict())

    def _listed(self) -> Output:
        from hashfast.reproduce import PAPERS

        papers = {name: PAPERS[name] for name in ([self.paper] if self.paper else PAPERS)}
        lines: list[str] = []
        for number, paper in papers.items():
            lines += ["", f"{number}  {paper.title}"]
            for name, experiment in paper.experiments.items():
                lines.append(f"  --{name:<18} {experiment.what} ({', '.join(experiment.data)})")
        data = {
            number: {name: experiment.what for name, experiment in paper.experiments.items()}
            for number, paper in papers.items()
        }
        return Output("\n".join(lines[1:]), data)
