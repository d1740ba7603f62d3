"""The terms of every step, read from the device rarely: their means, and the first that broke."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

_READ_EVERY = 256  # steps: reading waits for the device


class DivergedError(RuntimeError):
    """A loss term, the gradient or a weight became NaN or infinite."""


class Watch:
    """Scalars of the steps of an epoch.

    learning_rate(step) and checkpoint are what an error names. tolerated: names of those that may
    be infinite without harm; such values count in no mean.
    """

    def __init__(
        self,
        learning_rate: Callable[[int], float],
        checkpoint: Path | None = None,
        tolerated: tuple[str, ...] = (),
    ) -> None:
        self.learning_rate, self.checkpoint, self.tolerated = learning_rate, checkpoint, tolerated
        self.values: dict[str, list[float]] = {}
        self._unread: list[tuple[int, tuple[str, ...], Tensor]] = []

    def see(self, step: int, terms: dict[str, Tensor]) -> None:
        """Note the terms (0-d tensors on one device) of a step; raises as `read` at some steps."""
        self._unread.append((step, tuple(terms), torch.stack([*terms.values()])))
        if len(self._unread) == _READ_EVERY:
            self.read()

    def read(self) -> None:
        """Look at what was noted. Raises DivergedError at the first step that was not finite."""
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        numbers = iter(torch.cat([values for _, _, values in unread]).tolist())
        for step, names, _ in unread:
            found = {name: next(numbers) for name in names}
            broken = [name for name, value in found.items() if not math.isfinite(value)]
            if not set(broken) <= set(self.tolerated):
                raise self.diverged(step, broken)
            for name, value in found.items():
                self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps that were read and where it was finite."""
        finite = {
            name: [value for value in values if math.isfinite(value)]
            for name, values in self.values.items()
        }
        return {name: math.fsum(values) / len(values) for name, values in finite.items() if values}

    def diverged(self, step: int, names: Iterable[str]) -> DivergedError:
        """The error that says so, and what is left."""
        kept = ""
        if self.checkpoint is not None and self.checkpoint.is_file():
            kept = f"; {self.checkpoint} holds the last epoch that was fine"
        return DivergedError(
            f"the loss was not finite at step {step} (terms: {', '.join(names)}; learning rate "
            f"{self.learning_rate(step):.3g}): lower learning_rate, or use amp=no or bf16{kept}"
        )
