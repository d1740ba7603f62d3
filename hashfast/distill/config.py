"""Settings of a distillation; the command line is made from this class."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hashfast.hashing.config import TrainConfig
from hashfast.hashing.methods import read_arguments
from hashfast.losses import DISTILLATION

Anchor = Literal["original", "augmented"]
Compared = Literal["codes", "outputs"]


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """Train a small student to code as a large teacher does, and evaluate both search paradigms."""

    teacher: Path | None = None
    """Folder of the trained model to learn from."""
    method: str = "cibhash"
    """The student's own hashing loss: `hashfast methods` lists them."""
    base_weight: float = 1.0
    """Weight of the student's own loss; 0 leaves it out."""
    distillation: str = "brcd"
    """Distillation loss: brcd, kl, sp, pkt, rkd, crd, sskd, crcd or packd."""
    distillation_options: tuple[str, ...] = ()
    """Arguments of the distillation loss, as alpha=0.7."""
    distillation_weight: float = 1.0
    """Weight of the distillation loss."""
    compare: Compared = "codes"
    """What the distillation loss sees: codes, with the gradient passed straight through sign, or
    outputs before it."""
    anchor: Anchor = "original"
    """The student's first view: the image itself, or a random view of it."""
    fixed_views: int = 0
    """Random views of each image, drawn once with the teacher's codes of them; 0 draws new ones at
    every step, which the teacher then has to see. A frozen backbone has `feature_views` of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distillation not in DISTILLATION:
            raise ValueError(
                f"unknown distillation {self.distillation!r}; known: {', '.join(DISTILLATION)}"
            )
        loss = DISTILLATION[self.distillation]
        read_arguments(loss, self.distillation_options, self.distillation)
        self._check_choice("anchor", Anchor)
        self._check_choice("compare", Compared)
        for name in ("base_weight", "distillation_weight", "fixed_views"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be 0 or a positive number"
                )
        if self.fixed_views and self.frozen:
            raise ValueError(
                "a frozen backbone has feature_views random views of each image: leave fixed_views "
                "out"
            )
        if not (self.base_weight or self.distillation_weight):
            raise ValueError(
                "base_weight and distillation_weight are both 0: nothing would be learnt"
            )
