"""The base of every supervised hashing loss: checks, precision, quantisation, components."""

from typing import Any

import torch
from torch import Tensor, nn

from hashfast._inputs import check_label_form, check_labels
from hashfast.losses._bank import MemoryBank
from hashfast.losses._criterion import Criterion
from hashfast.losses._functional import check_held, check_outputs


class HashLoss(Criterion):
    """Similarity loss plus weighted quantisation term, over the outputs before sign.

    `criterion(outputs, labels)` with outputs [n, bits], floating point, and labels as integer class
    ids [n] or multi-hot [n, num_classes] returns a scalar: float64 for float64 outputs, otherwise
    float32, also under autocast. An empty batch gives 0, attached to the graph. Class targets
    (centres, codebooks, proxies) are buffers or parameters of the criterion: move it to the
    outputs' device, and give `criterion.parameters()` to the optimiser.

    `components` holds the terms of the last call, detached: "similarity", "quantization" (before
    its weight), "loss" (the value returned), and any further term the method records.

    A method implements `similarity` (or `similarity_terms`, where its parts are of interest) and,
    if it has a quantisation term of its own, `original_quantization` with `original_weight`. They
    get outputs of at least float32, checked labels in the form given, and as keywords the further
    inputs named in `needs`; they are called with at least one row.

    Args:
        num_classes, bits: at least 1.
        original_weight: default weight of the method's own quantisation term; None: it has none.
        quantization, quantization_weight, quantization_on: see QuantizationOptions.

    Raises ValueError for unknown choices and a negative weight; when called, TypeError or
    ValueError for outputs or labels of the wrong type or shape, and ValueError naming an input in
    `needs` that is missing. The values of the labels are checked at the first call (see
    `check_labels`): that waits for the device once.
    """

    needs: tuple[str, ...] = ()
    """Inputs required besides outputs and labels: "u_student", "index"."""
    memory: MemoryBank | None

    def __init__(
        self,
        num_classes: int,
        bits: int,
        *,
        original_weight: float | None = None,
        quantization: str | nn.Module = "original",
        quantization_weight: float | None = None,
        quantization_on: str = "raw",
    ) -> None:
        if num_classes < 1 or bits < 1:
            raise ValueError(f"num_classes={num_classes} and bits={bits} must both be at least 1")
        super().__init__(
            bits,
            original_weight=original_weight,
            quantization=quantization,
            quantization_weight=quantization_weight,
            quantization_on=quantization_on,
        )
        self.num_classes = num_classes
        self.memory = None
        self._labels_checked = self._index_checked = False

    def similarity(self, outputs: Tensor, labels: Tensor, *args: Any, **inputs: Any) -> Tensor:
        """The method's loss without quantisation, a scalar."""
        raise NotImplementedError

    def similarity_terms(
        self, outputs: Tensor, labels: Tensor, *args: Any, **inputs: Any
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss without quantisation, by name; at least one."""
        return {"similarity": self.similarity(outputs, labels, **inputs)}

    def use_bank(self, size: int | None) -> None:
        """Keep a memory bank of `size` training images; `index` is then needed. None: keep none."""
        if size is not None:
            self.memory = MemoryBank(size, self.bits, self.num_classes)
            self.needs = (*self.needs, "index")

    def compared_with(
        self, outputs: Tensor, labels: Tensor, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the batch is paired with: the bank, after the batch is written to it, or itself."""
        if self.memory is None or index is None:
            return outputs, labels
        self.memory.write(index, outputs, labels)
        # A copy: the graph of this batch may outlive the next batch's write.
        return self.memory.outputs.to(outputs.dtype, copy=True), self.memory.labels

    def check_labels(self, labels: Tensor) -> None:
        """Raise ValueError unless the values of `labels` fit num_classes; waits for the device.

        Given all labels of a run before its first step, no step checks its own. Otherwise the first
        call checks its batch, unless it is compiled or captured in a CUDA graph.
        """
        check_labels(labels, self.num_classes)
        self._labels_checked = True

    def forward(
        self,
        outputs: Tensor,
        labels: Tensor,
        *,
        u_student: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        u_student [n, bits]: outputs of a second, stronger augmented view of the same images;
        index int64 [n]: positions of the images in the training set. Methods that do not list them
        in `needs` ignore them.
        """
        return self._total(self.terms(outputs, labels, u_student=u_student, index=index))

    def terms(
        self,
        outputs: Tensor,
        labels: Tensor,
        *,
        u_student: Tensor | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch as its weighted terms, which add up to it, in the graph.

        Called as the loss is. The quantisation term is "quantization", if there is one; the others
        are "similarity", or what the method names them.
        """
        inputs = self._checked_inputs(outputs, labels, u_student=u_student, index=index)

        def similarity(outputs: Tensor) -> dict[str, Tensor]:
            if not (torch.compiler.is_compiling() or self._labels_checked or _captured(labels)):
                self.check_labels(labels)
            return self.similarity_terms(outputs, labels, **inputs)

        return self._weighted_terms(outputs, inputs, similarity)

    def _checked_inputs(
        self, outputs: Tensor, labels: Tensor, **given: Tensor | None
    ) -> dict[str, Tensor]:
        """The inputs in `needs`, in full precision; raises on anything a call can get wrong."""
        check_outputs(outputs, self.bits)
        if not isinstance(labels, Tensor):
            raise TypeError(
                f"labels are a {type(labels).__name__}; expected a torch.Tensor of class ids [n] "
                f"or multi-hot [n, {self.num_classes}]"
            )
        check_label_form(labels, self.num_classes)
        if labels.shape[0] != outputs.shape[0]:
            raise ValueError(
                f"{labels.shape[0]} labels for {outputs.shape[0]} outputs; expected one per row"
            )
        if labels.device != outputs.device:
            raise ValueError(
                f"labels are on {labels.device}, outputs on {outputs.device}: move the labels"
            )
        check_held(self, outputs.device)
        inputs = self._required("outputs, labels", outputs.device, **given)
        student = inputs.get("u_student", outputs)
        if student.shape != outputs.shape or not student.is_floating_point():
            raise ValueError(
                f"u_student is {student.dtype} {list(student.shape)}, outputs {outputs.dtype} "
                f"{list(outputs.shape)}; expected a second view of the same images"
            )
        if "index" in inputs:
            self._check_index(inputs["index"], len(outputs))
        return inputs

    def _check_index(self, index: Tensor, rows: int) -> None:
        if index.shape != (rows,) or index.dtype != torch.int64:
            raise ValueError(
                f"index is {index.dtype} {list(index.shape)}; expected int64 [{rows}], the "
                "positions of the images in the training set"
            )
        if torch.compiler.is_compiling() or self._index_checked or _captured(index) or not rows:
            return
        assert self.memory is not None
        if index.min() < 0 or index.max() >= self.memory.size:
            raise ValueError(
                f"index reaches from {int(index.min())} to {int(index.max())}; the memory bank has "
                f"{self.memory.size} rows: set bank_size to the number of training images"
            )
        self._index_checked = True

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, {super().extra_repr()}"


def _captured(values: Tensor) -> bool:
    """Whether a CUDA graph is being captured, which allows no look at values."""
    return values.is_cuda and torch.cuda.is_current_stream_capturing()
