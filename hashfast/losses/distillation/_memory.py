"""What the losses with a memory of all training images share: options, embeddings, rows."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashfast.losses._functional import unit_rows
from hashfast.losses.distillation._base import Distillation


class MemoryDistillation(Distillation):
    """Distillation of embeddings against those of other images, held in memories.

    The embeddings are learnt: unit rows of a linear layer over the codes. `prepare` makes the
    memories; without it a call raises ValueError. They are buffers, changed by every call: a
    criterion that was prepared can take up the state_dict of another.

    Args:
        bits, teacher_bits: may differ.
        width: of the embeddings.
        negatives: other images drawn for each image of a batch, at each call, by torch's generator
            of the device that `index` is on; with replacement.
        temperature: of the inner products.
        momentum: share of a memory's row that stays when its image comes again.

    Raises ValueError for options out of their range; when called, also for an `index` beyond the
    training set (the first call alone looks, and waits for the device).
    """

    needs: tuple[str, ...] = ("index",)

    def __init__(
        self,
        bits: int,
        teacher_bits: int | None,
        *,
        width: int,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__(bits, teacher_bits)
        if width < 1 or negatives < 1:
            raise ValueError(f"width={width} and negatives={negatives} must both be at least 1")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; expected 0 or a share below 1")
        self.width, self.negatives = width, negatives
        self.temperature, self.momentum = temperature, momentum
        self.embed_s = nn.Linear(bits, width)
        self.size = 0
        self._index_checked = False

    def prepare(self, teacher: Tensor, labels: Tensor | None = None) -> None:
        """Make the memories, a row for each image of the training set; see Distillation."""
        if teacher.dim() != 2 or teacher.shape[1] != self.teacher_bits or len(teacher) < 2:
            raise ValueError(
                f"the teacher's codes have shape {list(teacher.shape)}; expected "
                f"[N, {self.teacher_bits}] with N, the number of training images, at least 2"
            )
        self.size = len(teacher)
        self._index_checked = False

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # The memories of the run that is resumed count, also before `prepare`.
        for name, held in self.named_buffers(recurse=False):
            stored = state_dict.get(prefix + name)
            if stored is not None and name != "log_z" and stored.shape != held.shape:
                setattr(self, name, stored.new_empty(stored.shape, device=held.device))
                self.size = len(stored)
        self._index_checked = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def random_rows(self) -> Tensor:
        """Rows [size, width] that are uniform in +-sqrt(3 / width): of norm 1, on average."""
        bound = math.sqrt(3 / self.width)
        # Drawn on the CPU, so that a seed means the same on every device.
        return torch.empty(self.size, self.width).uniform_(-bound, bound).to(self.embed_s.weight)

    def check_calls(self, index: Tensor) -> None:
        """Raise ValueError before `prepare`, and for an index beyond the training set."""
        if not self.size:
            raise ValueError(
                f"{type(self).__name__} has no memory yet: call prepare(teacher_codes, labels) "
                "with the whole training set first"
            )
        if self._index_checked or not len(index):
            return
        if index.min() < 0 or index.max() >= self.size:
            raise ValueError(
                f"index reaches from {int(index.min())} to {int(index.max())}; prepare was given "
                f"{self.size} images: give it the whole training set"
            )
        self._index_checked = True

    @torch.no_grad()
    def moved(self, rows: Tensor, embedded: Tensor, momentum: float | Tensor) -> Tensor:
        """The rows of a memory after their images came again as `embedded`."""
        return unit_rows(momentum * rows.to(embedded.dtype) + (1 - momentum) * embedded)


def embed(layer: nn.Linear, codes: Tensor) -> Tensor:
    """Unit rows of the layer over codes [n, ...], in their precision."""
    bias = layer.bias.to(codes.dtype)
    return unit_rows(F.linear(codes, layer.weight.to(codes.dtype), bias))
