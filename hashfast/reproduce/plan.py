"""What an experiment of a paper runs: chosen images, methods, bits and seeds, and single runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hashfast.data import PROTOCOLS
from hashfast.hashing import TrainConfig
from hashfast.presets import STAND_IN, find_preset
from hashfast.reproduce.condensing import Condensing

if TYPE_CHECKING:
    from hashfast.reproduce.experiment import Experiment


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
    """Something to train, and the place of its result in a table (see tables.Entry).

    condensing: what it trains on, if not on the training set for `config.epochs`.
    """

    config: TrainConfig
    source: Source
    row: str
    column: str
    paper: float | None = None
    baseline: str | None = None
    condensing: Condensing | None = None


@dataclass(frozen=True)
class Choices:
    """What is asked of an experiment; what is left out is as the experiment has it.

    data: a protocol, which stands in for the paper's first where it is none of the paper's; root:
    where it lies, or without data a folder with one folder a protocol of the paper; ipc: condensed
    images a class; epochs: of every training, the warm-up in proportion; scale: multiplies the
    epochs or steps of training and the networks of condensation; device, workers: as TrainConfig
    has them.
    """

    data: str | None = None
    root: Path | None = None
    methods: tuple[str, ...] = ()
    bits: tuple[int, ...] = ()
    ipc: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    scale: float = 1.0
    device: str = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}; it must be positive")
        for name in ("bits", "ipc"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; all must be at least 1")


class Plan:
    """An experiment with what was chosen: sources, methods, bits, images a class, seeds and epochs
    of its runs.

    Raises ValueError for choices that the experiment does not have, FileNotFoundError for a root
    without data.
    """

    def __init__(self, experiment: "Experiment", choices: Choices) -> None:
        self.choices = choices
        self.sources = _sources(experiment.data, choices)
        for name in ("methods", "bits", "ipc"):
            if getattr(choices, name) and not getattr(experiment, name):
                raise ValueError(f"{name} cannot be chosen for: {experiment.what}")
        self.methods = choices.methods or experiment.methods
        self.bits = choices.bits or experiment.bits
        self.ipc = choices.ipc or experiment.ipc
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
        """A run a seed, of a preset of `hashfast train` with some settings changed."""
        settings = find_preset(preset, "train").settings
        changes |= self.machine(source)
        epochs = self.scaled(settings["epochs"]) if self.epochs is None else self.epochs
        share = epochs / settings["epochs"]
        changes |= {"epochs": epochs, "warmup_epochs": share * settings.get("warmup_epochs", 0)}
        for seed in self.seeds:
            config = find_preset(preset).config(**changes, seed=seed)
            yield Run(config, source, row, column, paper, baseline)

    def machine(self, source: Source) -> dict[str, Any]:
        """Settings that say where a run is done, and where its images are."""
        return {
            "data": source.name,
            "root": source.root,
            "device": self.choices.device,
            "workers": self.choices.workers,
        }

    def scaled(self, amount: int) -> int:
        """Epochs, steps or networks, made fewer or more as was asked; at least 1."""
        return max(1, round(self.choices.scale * amount))


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
