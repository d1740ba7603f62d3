"""The last outputs and labels of every training image, for losses that compare a batch with all."""

from typing import Any

import torch
from torch import Tensor, nn

from hashfast.losses._functional import multi_hot


class MemoryBank(nn.Module):
    """Outputs [size, bits] and labels of `size` training images; an image not seen yet is zeros.

    Class ids are kept as [size] (-1: not seen), multi-hot labels as uint8 [size, num_classes],
    which is allocated when the first ones come. Everything is part of the state_dict.
    """

    outputs: Tensor
    ids: Tensor
    hot: Tensor

    def __init__(self, size: int, bits: int, num_classes: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"bank_size is {size}; expected the number of training images")
        self.size, self.num_classes = size, num_classes
        self.register_buffer("outputs", torch.zeros(size, bits))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("hot", torch.zeros(0, num_classes, dtype=torch.uint8))

    @property
    def labels(self) -> Tensor:
        """Class ids [size], or multi-hot [size, num_classes] once such labels have come."""
        return self.hot if len(self.hot) else self.ids

    @torch.no_grad()
    def write(self, index: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Overwrite the rows `index` [n]; nothing keeps a gradient.

        Raises ValueError for class ids after multi-hot labels.
        """
        if labels.dim() == 1 and len(self.hot):
            raise ValueError(
                f"labels are class ids {list(labels.shape)}, and the memory bank holds multi-hot "
                "labels of earlier batches: use one form for the whole run"
            )
        self.outputs.index_copy_(0, index, outputs.to(self.outputs.dtype))
        if labels.dim() == 1:
            self.ids.index_copy_(0, index, labels.long())
            return
        if not len(self.hot):
            self.hot = multi_hot(self.ids, self.num_classes, self.hot.dtype)
        self.hot.index_copy_(0, index, labels.to(self.hot.dtype))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = state_dict.get(prefix + "hot")
        if stored is not None and len(stored) != len(self.hot):
            self.hot = self.hot.new_zeros(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"size={self.size}"
