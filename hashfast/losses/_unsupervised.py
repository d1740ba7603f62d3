"""The base of every unsupervised hashing loss: inputs checked, precision, quantisation."""

from typing import Any

from torch import Tensor

from hashfast.losses._criterion import Criterion
from hashfast.losses._functional import check_held, check_outputs


class UnsupervisedLoss(Criterion):
    """Loss without labels, plus weighted quantisation term, over the outputs before sign.

    `criterion(outputs, u2, features=...)` with outputs [n, bits], floating point, returns a scalar:
    float64 for float64 outputs, otherwise float32, also under autocast. An empty batch gives 0,
    attached to the graph. A method takes those of these inputs that it names in `needs`, and
    ignores the others:

        u2 [n, bits]: outputs of a second view of the same images.
        features [n, F]: of the backbone, before the hash head; no gradient flows into them.
        hidden [n, H]: of the hash head's hidden layer.
        codebooks [M, K, D]: of the hash head.

    A method implements `similarity` and, if it has a quantisation term of its own,
    `original_quantization` with `original_weight`. They get outputs of at least float32 with at
    least one row, and as keywords the inputs in `needs`.

    Raises as Criterion does; when called, TypeError or ValueError for outputs of the wrong type or
    shape, and ValueError naming an input in `needs` that is missing or does not fit.
    """

    needs: tuple[str, ...] = ()
    """Inputs required besides the outputs: "u2", "features", "hidden", "codebooks"."""

    def similarity(self, outputs: Tensor, *args: Any, **inputs: Any) -> Tensor:
        """The method's loss without quantisation, a scalar."""
        raise NotImplementedError

    def forward(
        self,
        outputs: Tensor,
        u2: Tensor | None = None,
        *,
        features: Tensor | None = None,
        hidden: Tensor | None = None,
        codebooks: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch."""
        check_outputs(outputs, self.bits)
        check_held(self, outputs.device)
        inputs = self._required(
            "outputs",
            outputs.device,
            u2=u2,
            features=features.detach() if isinstance(features, Tensor) else features,
            hidden=hidden,
            codebooks=codebooks,
        )
        self._check_rows(outputs, inputs)
        return self._total(
            self._weighted_terms(
                outputs, inputs, lambda rows: {"similarity": self.similarity(rows, **inputs)}
            )
        )

    def _check_rows(self, outputs: Tensor, inputs: dict[str, Tensor]) -> None:
        second = inputs.get("u2", outputs)
        if second.shape != outputs.shape or not second.is_floating_point():
            raise ValueError(
                f"u2 is {second.dtype} {list(second.shape)}, outputs {outputs.dtype} "
                f"{list(outputs.shape)}; expected a second view of the same images"
            )
        for name in ("features", "hidden"):
            rows = inputs.get(name)
            if rows is not None and (rows.dim() != 2 or len(rows) != len(outputs)):
                raise ValueError(
                    f"{name} have shape {list(rows.shape)}; expected [{len(outputs)}, width], a "
                    "row for each of the outputs"
                )
