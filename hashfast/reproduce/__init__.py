"""Tables and figures of papers, computed again: `hashfast reproduce 002 --table 3`.

    from hashfast.reproduce import reproduce
    outcome = reproduce("002", table="1", data="cifar10", root="/data/cifar10", seeds=(0, 1, 2))
    print(outcome)

To add a paper: `numbersNNN.py` with the numbers it prints, and `paperNNN.py` with TITLE and
EXPERIMENTS, {"table 1" or "figure 2": Experiment}, and its line in PAPERS. An `Experiment` names
the runs that it needs, as presets with some settings changed (`plan`), and makes a table or
pictures of their results (`show`). A run trains and evaluates, on a condensed set where it has a
`Condensing` (runs000.py plans such runs); an experiment that measures more
brings a function of its own (`perform`, as in measures.py, distilling.py and timing.py) which
returns JSON, so that what was found is kept and no model has to be.
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hashfast.reproduce import paper000, paper001, paper002, paper003, paper004
from hashfast.reproduce.experiment import Experiment, Outcome, carry_out
from hashfast.reproduce.plan import Choices
from hashfast.reproduce.tables import Cell, Table

__all__ = [
    "PAPERS",
    "Cell",
    "Experiment",
    "Outcome",
    "Paper",
    "Table",
    "find_experiment",
    "reproduce",
]


class Paper(NamedTuple):
    """experiments: {"table 1": ..., "figure 2": ...}."""

    title: str
    experiments: dict[str, Experiment]


PAPERS: dict[str, Paper] = {
    "000": Paper(paper000.TITLE, paper000.EXPERIMENTS),
    "001": Paper(paper001.TITLE, paper001.EXPERIMENTS),
    "002": Paper(paper002.TITLE, paper002.EXPERIMENTS),
    "003": Paper(paper003.TITLE, paper003.EXPERIMENTS),
    "004": Paper(paper004.TITLE, paper004.EXPERIMENTS),
}


def find_experiment(paper: str, table: str | None, figure: str | None) -> str:
    """Name of the paper's experiment. Raises ValueError, with what there is, for any other."""
    if paper not in PAPERS:
        raise ValueError(f"unknown paper {paper!r}; known: {', '.join(PAPERS)}")
    known = {name.lower(): name for name in PAPERS[paper].experiments}
    if (table is None) == (figure is None):
        raise ValueError(f"name one table or one figure of {paper}: {', '.join(known.values())}")
    asked = f"table {table}" if figure is None else f"figure {figure}"
    if asked.lower() not in known:
        close = difflib.get_close_matches(asked.lower(), known, n=3)
        hint = f"; close: {', '.join(known[name] for name in close)}" if close else ""
        raise ValueError(f"{paper} has no {asked}; it has {', '.join(known.values())}{hint}")
    return known[asked.lower()]


def reproduce(
    paper: str,
    *,
    table: str | None = None,
    figure: str | None = None,
    data: str | None = None,
    root: str | os.PathLike | None = None,
    methods: Sequence[str] = (),
    bits: Sequence[int] = (),
    ipc: Sequence[int] = (),
    seeds: Sequence[int] = (),
    epochs: int | None = None,
    scale: float = 1.0,
    out: str | os.PathLike | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: bool = True,
) -> Outcome:
    """Do what a table or a figure of a paper needs, beside the paper's numbers.

    `out` (default: reproduce/002-table-3) receives table.md, table.csv, table.json, the pictures,
    and runs/ with a JSON file a run: what is in there is not done again, so that an interrupted
    call goes on where it stopped. Condensed sets are kept for all experiments: in condensed/ beside
    the default `out`, and in another `out`. There are runs/, teachers/ and cache/ of 004 too, whose
    experiments share them. Without `data` and `root` a small network on
    Fashion-MNIST stands in; see Choices for them and the other arguments.

    Raises ValueError for what the paper or the experiment does not have, and what loading the data,
    training and drawing raise.
    """
    name = find_experiment(paper, table, figure)
    chosen = Choices(
        data=data,
        root=None if root is None else Path(root),
        methods=tuple(methods),
        bits=tuple(bits),
        ipc=tuple(ipc),
        seeds=tuple(seeds),
        epochs=epochs,
        scale=scale,
        device=device,
        workers=workers,
    )
    folder = Path("reproduce", f"{paper}-{name.replace(' ', '-')}") if out is None else Path(out)
    shared = folder.parent if out is None else folder
    experiment = PAPERS[paper].experiments[name]
    return carry_out(f"{paper} {name}", experiment, chosen, folder, shared, progress)
