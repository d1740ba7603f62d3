"""What the training loop asks of every hashing loss: quantisation, precision, components."""

import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hashfast.losses._functional import check_tensor, full_precision, warn_undefined
from hashfast.losses.quantization import resolve_quantization


class Criterion(nn.Module):
    """A loss over the outputs before sign, plus a weighted quantisation term.

    Everything that learns or is kept beside the network (proxies, centres, memories) lives in the
    criterion: move it to the outputs' device, and give `criterion.parameters()` to the optimiser.
    `components` holds the terms of the last call, detached: "similarity", "quantization" (before
    its weight), "loss" (the value returned), and any further term the method records.

    Args:
        bits: at least 1.
        original_weight: default weight of the method's own quantisation term; None: it has none.
        quantization, quantization_weight, quantization_on: see QuantizationOptions.

    Raises ValueError for unknown choices and a negative weight.
    """

    head = "linear"
    """The hash head the method is meant for, a name in `hashfast.hashing.heads`."""
    needs: tuple[str, ...] = ()
    """Inputs required besides those every loss of the kind takes."""
    bank: Literal["none", "optional", "default"] = "none"
    """Whether the constructor takes `bank_size`, and whether training with one is the habit."""
    components: dict[str, Tensor]

    def __init__(
        self,
        bits: int,
        *,
        original_weight: float | None = None,
        quantization: str | nn.Module = "original",
        quantization_weight: float | None = None,
        quantization_on: str = "raw",
    ) -> None:
        super().__init__()
        if bits < 1:
            raise ValueError(f"bits is {bits}; it must be at least 1")
        if quantization_on not in ("raw", "squashed"):
            raise ValueError(
                f"unknown quantization_on {quantization_on!r}; choose 'raw' or 'squashed'"
            )
        if quantization_weight is not None and not 0 <= quantization_weight < math.inf:
            raise ValueError(
                f"quantization_weight is {quantization_weight}; expected 0 or a positive number"
            )
        self.bits, self.quantization_on = bits, quantization_on
        self.quantization, self.quantizer, self.quantization_weight = resolve_quantization(
            quantization, quantization_weight, bits, original_weight
        )
        self.components = {}

    def original_quantization(self, outputs: Tensor, *args: Any, **inputs: Any) -> Tensor:
        """The method's own quantisation term before its weight, a scalar."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        """Called by the training loop before epoch 0, 1, ...; for methods with a schedule."""

    def record(self, **terms: Tensor) -> None:
        """Add detached terms to `components`."""
        for name, value in terms.items():
            self.components[name] = value.detach()

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        total = reduce(add, terms.values())
        self.record(loss=total)
        return total

    def _weighted_terms(
        self,
        outputs: Tensor,
        inputs: dict[str, Tensor],
        similarity: Callable[[Tensor], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss; `similarity` gives those without quantisation.

        It gets outputs of at least float32 with at least one row.
        """
        self.components = {}
        with torch.autocast(outputs.device.type, enabled=False):
            outputs = full_precision(outputs)
            if outputs.shape[0] == 0:
                return {"similarity": self._empty(outputs)}
            terms = similarity(outputs)
            self.record(similarity=reduce(add, terms.values()))
            if self.quantization_weight is not None:
                quantization = self._quantization(outputs, inputs)
                self.record(quantization=quantization)
                terms["quantization"] = self.quantization_weight * quantization
        return terms

    def _quantization(self, outputs: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        if self.quantizer is None:
            return self.original_quantization(outputs, **inputs)
        return self.quantizer(outputs.tanh() if self.quantization_on == "squashed" else outputs)

    def _empty(self, outputs: Tensor) -> Tensor:
        warn_undefined("the loss", 0)
        # Every parameter stays in the graph, or distributed training waits for its gradient.
        zero = outputs.sum() + sum(0 * parameter.sum() for parameter in self.parameters())
        self.record(similarity=zero)
        if self.quantization_weight is not None:
            self.record(quantization=zero)
        return zero

    def _required(self, call: str, device: torch.device, **given: Tensor | None) -> dict[str, Any]:
        """The inputs in `needs`, in full precision; raises for those missing or elsewhere.

        call: the arguments before them, as a message shows them.
        """
        inputs = {}
        for name in self.needs:
            value = given[name]
            if value is None:
                raise ValueError(
                    f"{type(self).__name__} needs {name}: call criterion({call}, {name}=...)"
                )
            check_tensor(name, value)
            if value.device != device:
                raise ValueError(f"{name} is on {value.device}, outputs on {device}: move {name}")
            inputs[name] = full_precision(value)
        return inputs

    def extra_repr(self) -> str:
        return (
            f"bits={self.bits}, quantization={self.quantization!r}, "
            f"quantization_weight={self.quantization_weight}"
        )
