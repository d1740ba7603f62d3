"""What an experiment of a paper is, and how one is run."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from hashfast._files import write_json, write_text
from hashfast._runs import Runs
from hashfast.data import Splits, load
from hashfast.distill import DistillConfig
from hashfast.reproduce.condensing import CondensedSets, Perform
from hashfast.reproduce.identity import identity
from hashfast.reproduce.measures import quality
from hashfast.reproduce.plan import Choices, Plan, Run, Source
from hashfast.reproduce.tables import Table

Result = dict[str, Any]


class Shown(NamedTuple):
    """What an experiment comes to: a table, pictures, and sentences to read them by."""

    table: Table | None = None
    pictures: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The results of a plan's runs. `splits` loads a source; `out` is where pictures go."""

    plan: Plan
    runs: list[tuple[Run, Result]]
    splits: Callable[[Source], Splits]
    out: Path


@dataclass(frozen=True)
class Experiment:
    """A table or figure: the runs that it needs, and what becomes of their results.

    what: one line; data: the protocols of the paper, the first of which stand-ins stand in for;
    network: of the paper, empty where there is none; plan: the runs, those with the same row and
    column being seeds; show: table and pictures of the results; perform: what a run does; prepare:
    changes the data, by a named function; methods, bits, ipc (images a class), seeds: those of the
    paper, empty where there is no choice; epochs: None for those of the presets; shared: its runs
    may be those of other experiments too, and are kept beside the default folder.
    """

    what: str
    data: tuple[str, ...]
    network: str
    plan: Callable[[Plan], list[Run]]
    show: Callable[[Found], Shown]
    perform: Perform = quality
    prepare: Callable[[Splits], Splits] | None = None
    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = ()
    ipc: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    shared: bool = False


@dataclass(frozen=True)
class Outcome:
    """title says what was done, and that a stand-in is one; text is for people, data for JSON."""

    title: str
    text: str
    table: Table | None
    pictures: tuple[Path, ...]
    out: Path
    data: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return self.data


def carry_out(
    name: str, experiment: Experiment, choices: Choices, out: Path, shared: Path, progress: bool
) -> Outcome:
    """Do the runs that are not yet in `out`/runs, then write table and pictures into `out`.

    name: of the experiment, for the title; shared: folder of the condensed sets, and of runs that
    are shared. Raises what `Plan`, condensing, training and plots raise; results that are whole are
    kept whatever happens.
    """
    plan = Plan(experiment, choices)
    planned = experiment.plan(plan)

    @cache
    def splits(source: Source) -> Splits:
        size = planned[0].config.image_size if planned else None
        found = load(source.name, source.root, image_size=size)
        return experiment.prepare(found) if experiment.prepare else found

    further = {"perform": experiment.perform.__name__}
    if experiment.prepare:
        further["prepare"] = experiment.prepare.__name__
    out.mkdir(parents=True, exist_ok=True)
    kept = Runs((shared if experiment.shared else out) / "runs")
    sets, runs = CondensedSets(shared / "condensed"), []
    for number, run in enumerate(planned, 1):
        heading = f"[{number}/{len(planned)}]" if progress else None
        do = partial(_do, experiment, run, splits, sets, heading)
        settings = identity(run.config, **further, **_condensing(run))
        runs.append((run, kept.get(_label(run), settings, do)))
    shown = experiment.show(Found(plan, runs, splits, out))
    return _written(name, experiment, plan, runs, shown, out)


def _label(run: Run) -> str:
    """Names a run's file, for people."""
    config = run.config
    label = f"{config.method}-{config.quantization}-{config.bits}bits-seed{config.seed}"
    if isinstance(config, DistillConfig):
        return f"{config.distillation}-{label}"
    if run.condensing is None:
        return label
    condensed = run.condensing.config
    on = "whole" if run.condensing.whole else f"{condensed.method}-{condensed.ipc}ipc"
    return f"{on}-{label}"


def _condensing(run: Run) -> dict[str, Any]:
    return {} if run.condensing is None else {"condensing": run.condensing.identity()}


def _do(
    experiment: Experiment,
    run: Run,
    splits: Callable[[Source], Splits],
    sets: CondensedSets,
    heading: str | None,
    folder: Path,
) -> Result:
    """What a run finds; it is announced under a heading, if there is one."""
    progress = heading is not None
    if progress:
        print(f"{heading} {run.row}, {run.column}, seed {run.config.seed}", file=sys.stderr)
    if run.condensing is None:
        return experiment.perform(run.config, splits(run.source), folder, progress)
    return run.condensing.perform(
        experiment.perform, run.config, splits(run.source), folder, sets, progress
    )


def _written(
    name: str,
    experiment: Experiment,
    plan: Plan,
    runs: list[tuple[Run, Result]],
    shown: Shown,
    out: Path,
) -> Outcome:
    title, source = f"{name}: {experiment.what}", plan.sources[0]
    notes = list(shown.notes)
    if source.stands_in:
        theirs = ", ".join(filter(None, (source.like, experiment.network)))
        title = f"STAND-IN on {source.name}, small network (the paper's figures: {theirs}). {title}"
        notes.insert(0, "A stand-in: compare what changes with what changed, not the values.")
    if plan.choices.epochs is not None:
        notes.append(f"Epochs of each run, as asked: {plan.choices.epochs}.")
    if plan.choices.scale != 1:
        notes.append(f"Scaled as asked: {plan.choices.scale:g} times the epochs, steps, networks.")
    if shown.table:
        notes.append(_legend(shown.table, len(plan.seeds)))
    parts = [f"# {title}", *([shown.table.markdown()] if shown.table else []), *notes]
    parts += [f"![{path.stem}]({path.name})" for path in shown.pictures]
    write_text(out / "table.md", "\n\n".join(parts) + "\n")
    if shown.table:
        write_text(out / "table.csv", shown.table.csv())
    data = {
        "title": title,
        "notes": notes,
        "stand_in": source.stands_in,
        "table": shown.table.to_dict() if shown.table else None,
        "pictures": [str(path) for path in shown.pictures],
        "runs": len(runs),
        "environments": _environments(runs),
        "out": str(out),
    }
    write_json(out / "table.json", data)
    where = f"written to {out}" + "".join(f", {path.name}" for path in shown.pictures)
    text = "\n\n".join([title, *parts[1 : len(parts) - len(shown.pictures)], where])
    return Outcome(title, text, shown.table, shown.pictures, out, data)


def _legend(table: Table, seeds: int) -> str:
    """What stands in a table's cells."""
    cells = [cell for row in table.rows.values() for cell in row.values()]
    deviation = "±deviation" * any(cell.deviation is not None for cell in cells)
    legend = f"Mean{deviation} of {seeds} seeds" if seeds > 1 else "One seed"
    if any(cell.change is not None for cell in cells):
        legend += ", change against the original"
    if any(cell.paper is not None for cell in cells):
        legend += ", in brackets the paper's"
    return f"{legend}."


def _environments(runs: list[tuple[Run, Result]]) -> list[dict[str, str]]:
    """Of all runs, each different one once: they may have been done on several machines."""
    different: list[dict[str, str]] = []
    for _, result in runs:
        if result["environment"] not in different:
            different.append(result["environment"])
    return different
