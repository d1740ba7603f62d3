from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashfast.cli._run import Output, check_names
from hashfast.condense.config import CondenseConfig
from hashfast.condense.evaluation_config import EvaluationConfig

if TYPE_CHECKING:
    from hashfast.condense.comparison import Comparison
    from hashfast.data import CondensedSet, Splits

EVALUATION_FOLDER, NETWORKS_FOLDER = "evaluation", "networks"


@dataclass(frozen=True)
class Command(EvaluationConfig, CondenseConfig):
    """Condense a protocol's training set into a few images a class, and evaluate them.

    Networks that are trained on these images alone retrieve the protocol's database; beside them,
    networks trained on as many real ones.
    """

    out: Path | None = None
    """Folder for the images, metrics and checkpoint (default: runs/DATA-METHOD-ipcIPC)."""
    resume: bool = False
    """Continue the run in that folder from its checkpoint; a folder without one starts anew."""
    evaluate: bool = True
    """Evaluate the images when they are done."""
    evaluate_every: int = 0
    """Networks between quick evaluations, of part of the database; 0 makes none."""

    def __post_init__(self) -> None:
        CondenseConfig.__post_init__(self)
        EvaluationConfig.__post_init__(self)
        if self.evaluate_every < 0:
            raise ValueError(
                f"evaluate_every is {self.evaluate_every}; it must be 0 or a positive number"
            )
        check_names(self.data, self.backbone, *self.evaluate_backbones)

    def run(self) -> Output:
        from hashfast._files import write_json
        from hashfast.condense import condense
        from hashfast.condense.evaluation import quick_evaluation
        from hashfast.data import load
        from hashfast.hashing.logs import RESULTS_FILE

        out = self.out or Path("runs", f"{self.data}-{self.method}-ipc{self.ipc}")
        config = self._part(CondenseConfig)
        if config.pool_folder is None:
            config = replace(config, pool_folder=out / NETWORKS_FOLDER)
        splits = load(self.data, self.root, self.split_seed, self.image_size)
        if self.evaluate:
            self._check_baselines(splits)
        quick = None
        if self.evaluate_every:
            quick = quick_evaluation(splits, config, self._part(EvaluationConfig))
        result = condense(
            config,
            out,
            splits=splits,
            resume=self.resume,
            evaluate=quick,
            evaluate_every=self.evaluate_every,
        )
        fingerprint = result.condensed.fingerprint()
        comparison, compared = None, _compared_before(out / RESULTS_FILE, fingerprint)
        if self.evaluate:
            comparison = self._compared(config, splits, result.condensed, out)
            compared = comparison.to_dict()
        found = {
            "fingerprint": fingerprint,
            **result.condensed.info,
            "history": result.history,
            "comparison": compared,
        }
        write_json(out / RESULTS_FILE, found)
        text = _summary(result.condensed, result.seconds, out)
        return Output(f"{comparison}\n\n{text}" if comparison else text, {**found, "out": str(out)})

    def _check_baselines(self, splits: "Splits") -> None:
        """Raise ValueError for baselines that would fail once the images are learnt."""
        labels = splits.train.labels
        if not self.evaluate_baselines or labels is None or labels.ndim != 1:
            return
        counts = labels[labels >= 0].bincount(minlength=splits.num_classes)
        least = int(counts.argmin())
        if 0 < counts[least] < self.ipc:
            raise ValueError(
                f"class {splits.class_names[least]} has {int(counts[least])} training images and "
                f"ipc is {self.ipc}, too many for the baselines "
                f"({', '.join(self.evaluate_baselines)}), which keep different real ones: choose "
                f"at most {int(counts[least])}, or give --evaluate-baselines without names"
            )

    def _compared(
        self, config: CondenseConfig, splits: "Splits", condensed: "CondensedSet", out: Path
    ) -> "Comparison":
        from hashfast.condense import METHODS
        from hashfast.condense.evaluation import compare

        name = METHODS[self.method].__name__
        if self.method in self.evaluate_baselines:
            name += ", this set"
        evaluation = self._part(EvaluationConfig)
        return compare(config, evaluation, splits, {name: condensed}, out=out / EVALUATION_FOLDER)

    def _part(self, kind: type) -> Any:
        """The options of one of the classes that this one is made of."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})


def _compared_before(results: Path, fingerprint: str) -> Any:
    """What was found of the same set, if it was compared; a run without evaluation keeps it."""
    from hashfast._files import read_json

    before = read_json(results) if results.is_file() else {}
    return before.get("comparison") if before.get("fingerprint") == fingerprint else None


def _summary(condensed: "CondensedSet", seconds: float, out: Path) -> str:
    n, m = len(condensed.images), len(condensed.dataset())
    decoded = f", decoded into {m} training images" * (m > n)
    return (
        f"condensed   {n} images, {n // condensed.num_classes} a class{decoded}\n"
        f"took        {seconds:.1f} s\n"
        f"written to  {out}"
    )
