"""What an experiment of a paper is, and how one is run."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from hashfast._files import write_json, write_text
from hashfast.data import PROTOCOLS, Splits, load
from hashfast.hashing import TrainConfig
from hashfast.presets import STAND_IN, find_preset
from hashfast.reproduce.measures import quality
from hashfast.reproduce.runs import Runs, identity
from hashfast.reproduce.tables import Table

Result = dict[str, Any]
Perform = Callable[[TrainConfig, Splits, Path, bool], Result]
"""(settings, data, folder to keep what an interrupted run needs, progress) -> what JSON holds."""


class Source(NamedTuple):
    """Images: a protocol, where they lie, and the paper's protocol that they are, or stand in
    for."""

    name: str
    root: Path | None
    like: str

    @property
    def stands_in(self) -> bool:
        return self.name != self.like


@dataclass(frozen=True)
class Run:
    """Something to train, and the place of its result in a table (see tables.Entry)."""

    config: TrainConfig
    source: Source
    row: str
    column: str
    paper: float | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class Choices:
    """What is asked of an experiment; what is left out is as the experiment has it.

    data: a protocol, which stands in for the paper's first where it is none of the paper's; root:
    where it lies, or without data a folder with one folder a protocol of the paper; epochs: of
    every run, the warm-up in proportion; device, workers: as TrainConfig has them.
    """

    data: str | None = None
    root: Path | None = None
    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    device: str = "auto"
    workers: int = 0


class Plan:
    """An experiment with what was chosen: sources, methods, bits, seeds and epochs of its runs.

    Raises ValueError for choices that the experiment does not have, FileNotFoundError for a root
    without data.
    """

    def __init__(self, experiment: "Experiment", choices: Choices) -> None:
        self.choices = choices
        self.sources = _sources(experiment.data, choices)
        for name in ("methods", "bits"):
            if getattr(choices, name) and not getattr(experiment, name):
                raise ValueError(f"{name} cannot be chosen for: {experiment.what}")
        self.methods = choices.methods or experiment.methods
        self.bits = choices.bits or experiment.bits
        self.seeds = choices.seeds or experiment.seeds
        self.epochs = experiment.epochs if choices.epochs is None else choices.epochs

    def runs(
        self,
        source: Source,
        preset: str,
        row: str,
        column: str,
        *,
        paper: float | None = None,
        baseline: str | None = None,
        **changes: Any,
    ) -> Iterator[Run]:
        """A run a seed, of a preset with some settings changed."""
        settings = find_preset(preset).settings
        changes |= {"data": source.name, "root": source.root}
        changes |= {"device": self.choices.device, "workers": self.choices.workers}
        if self.epochs is not None:
            share = self.epochs / settings["epochs"]
            changes["epochs"] = self.epochs
            changes["warmup_epochs"] = share * settings.get("warmup_epochs", 0)
        for seed in self.seeds:
            config = find_preset(preset).config(**changes, seed=seed)
            yield Run(config, source, row, column, paper, baseline)


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
    changes the data, by a named function; methods, bits, seeds: those of the paper, empty where
    there is no choice; epochs: None for those of the presets.
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
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None


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
    name: str, experiment: Experiment, choices: Choices, out: Path, progress: bool
) -> Outcome:
    """Do the runs that are not yet in `out`/runs, then write table and pictures into `out`.

    name: of the experiment, for the title. Raises what `Plan`, training and plots raise; results
    that are whole are kept whatever happens.
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
    kept, runs = Runs(out / "runs"), []
    for number, run in enumerate(planned, 1):
        config = run.config
        label = f"{config.method}-{config.quantization}-{config.bits}bits-seed{config.seed}"
        heading = f"[{number}/{len(planned)}]" if progress else None
        do = partial(_do, experiment, run, splits, heading)
        runs.append((run, kept.get(label, identity(config, **further), do)))
    shown = experiment.show(Found(plan, runs, splits, out))
    return _written(name, experiment, plan, runs, shown, out)


def _do(
    experiment: Experiment,
    run: Run,
    splits: Callable[[Source], Splits],
    heading: str | None,
    folder: Path,
) -> Result:
    """What a run finds; it is announced under a heading, if there is one."""
    if heading is not None:
        print(f"{heading} {run.row}, {run.column}, seed {run.config.seed}", file=sys.stderr)
    return experiment.perform(run.config, splits(run.source), folder, heading is not None)


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


def _sources(published: tuple[str, ...], choices: Choices) -> list[Source]:
    """The images that were chosen: the paper's, or what stands in for the first of them."""
    data, root = choices.data, choices.root
    if data is not None and data not in PROTOCOLS:
        raise ValueError(f"unknown protocol {data!r}; known: {', '.join(PROTOCOLS)}")
    if data is not None:
        return [Source(data, root, data if data in published else published[0])]
    if root is None:
        return [Source(STAND_IN, None, published[0])]
    found = [Source(name, root / name, name) for name in published if (root / name).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{root} has none of the folders {', '.join(published)}: name one data set by --data "
            "and its own folder by --root, or leave both out for a stand-in"
        )
    return found
