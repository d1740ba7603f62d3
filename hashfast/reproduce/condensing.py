"""Runs that train on condensed sets, which experiments share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hashfast._runs import digest
from hashfast.condense import CondenseConfig, EvaluationConfig, condense
from hashfast.condense.real import in_memory
from hashfast.data import Splits
from hashfast.data.condensed import IMAGES_FILE, CondensedSet
from hashfast.hashing import TrainConfig, train
from hashfast.reproduce.identity import identity

Perform = Callable[[TrainConfig, Splits, Path, bool], dict[str, Any]]
"""(settings, data, folder to keep what an interrupted run needs, progress) -> what JSON holds."""


@dataclass(frozen=True)
class Condensing:
    """What a run trains on, and for how long.

    config: of the condensed set that takes the place of the training set; evaluation: its steps
    count instead of a run's epochs; whole: the training set is kept; stops: how many times the
    unfinished set is evaluated on the way: adds "history" to the result, see `CondenseResult`.
    """

    config: CondenseConfig
    evaluation: EvaluationConfig
    whole: bool = False
    stops: int = 0

    def identity(self) -> dict[str, Any]:
        """What a result depends on besides the settings of training."""
        condensed = None if self.whole else identity(self.config.resolved())
        steps = self.evaluation.evaluate_steps
        return {"condensed": condensed, "steps": steps, "stops": self.stops}

    def perform(
        self,
        perform: Perform,
        config: TrainConfig,
        splits: Splits,
        folder: Path,
        sets: "CondensedSets",
        progress: bool,
    ) -> dict[str, Any]:
        """The result of a run: that of `perform` on the set, with "condense_seconds" added."""
        if self.whole:
            splits = in_memory(splits, config.device, config.workers)
            return perform(self._for(config, splits), splits, folder, progress)
        if not self.stops:
            condensed, history = sets.get(self.config, splits, progress), None
        else:
            condensed, history = self._follow(config, splits, folder / "condensed", sets, progress)
        data = condensed.in_place_of_training_set(splits)
        result = perform(self._for(config, data), data, folder, progress)
        result["condense_seconds"] = condensed.info["seconds"]
        return result if history is None else {**result, "history": history}

    def _for(self, config: TrainConfig, splits: Splits) -> TrainConfig:
        """The epochs that have as many steps as are asked for."""
        epochs = self.evaluation.training(self.config, len(splits.train)).epochs
        return replace(config, epochs=epochs)

    def _follow(
        self,
        config: TrainConfig,
        splits: Splits,
        out: Path,
        sets: "CondensedSets",
        progress: bool,
    ) -> tuple[CondensedSet, list[dict[str, Any]]]:
        def evaluate(condensed: CondensedSet) -> dict[str, Any]:
            data = condensed.in_place_of_training_set(splits)
            return {"map": train(self._for(config, data), splits=data, progress=False).report.map}

        networks = self.config.resolved().networks
        assert networks is not None
        result = condense(
            sets.with_pool(self.config),
            out,
            splits=splits,
            resume=True,
            progress=progress,
            evaluate=evaluate,
            evaluate_every=max(1, networks // self.stops),
        )
        return result.condensed, result.history


class CondensedSets:
    """Condensed sets by settings, each in a folder of its own, so that none is condensed twice.

    The folder also keeps the pretrained networks that they share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, config: CondenseConfig, splits: Splits, progress: bool) -> CondensedSet:
        """The set kept for these settings, or else a new one; an interrupted one is gone on with.

        Raises what `condense` raises.
        """
        settings = identity(config.resolved())
        name = f"{config.data}-{config.method}-{config.ipc}ipc-seed{config.seed}"
        path = self.folder / f"{name}-{digest(settings)}"
        if (path / IMAGES_FILE).is_file():
            return CondensedSet.load(path)
        found = condense(
            self.with_pool(config), path, splits=splits, resume=True, progress=progress
        )
        return found.condensed

    def with_pool(self, config: CondenseConfig) -> CondenseConfig:
        return replace(config, pool_folder=self.folder / "networks")
