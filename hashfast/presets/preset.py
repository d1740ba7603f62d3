"""What a preset is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hashfast.condense import EvaluationConfig

STAND_IN = "fashion-mnist"
"""Protocol of the presets that stand in for those of papers: data and networks for a CPU."""


@dataclass(frozen=True)
class Preset:
    """description: what it makes; source: where its settings come from; settings: options of a
    command, the others stay at their defaults; command: which one."""

    description: str
    source: str
    settings: Mapping[str, Any]
    command: Literal["train", "condense", "distill"] = "train"

    def config(self, **changes: Any) -> Any:
        """The settings with some of them changed: a TrainConfig of a preset of `train`, a
        CondenseConfig of one of `condense`, a DistillConfig of one of `distill`. Raises as these
        do."""
        from hashfast.condense import CondenseConfig
        from hashfast.distill import DistillConfig
        from hashfast.hashing import TrainConfig

        kinds = {"train": TrainConfig, "condense": CondenseConfig, "distill": DistillConfig}
        return self._made(kinds[self.command], changes)

    def evaluation(self, **changes: Any) -> "EvaluationConfig":
        """How condensed sets are evaluated, with some settings changed; raises as that does."""
        from hashfast.condense import EvaluationConfig

        return self._made(EvaluationConfig, changes)

    def _made(self, kind: Any, changes: Mapping[str, Any]) -> Any:
        """The settings that are of this kind."""
        names = {field.name for field in fields(kind)}
        return kind(**{k: v for k, v in self.settings.items() if k in names} | dict(changes))
