"""Networks of other libraries as backbones: RGB in, features out."""

import torch
from torch import Tensor, nn


class LibraryBackbone(nn.Module):
    """A network without its classifier, from RGB [n, 3, S, S] to features [n, F].

    Grey images [n, 1, S, S] are repeated to RGB. Raises ValueError when the network, called `name`,
    cannot take images of `image_size`, naming the smallest size it takes.
    """

    def __init__(self, network: nn.Module, name: str, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.in_channels = in_channels
        self.num_features = _probe_num_features(network, name, image_size)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"the backbone got images {list(images.shape)}, expected [n, {self.in_channels}, "
                "H, W]: build it with the in_channels of your images"
            )
        return self.network(images.expand(-1, 3, -1, -1))


def size_error(
    name: str, image_size: int, *, reason: Exception, smallest: int | None = None
) -> ValueError:
    detail = f"the smallest it takes is {smallest}x{smallest}" if smallest else str(reason)
    return ValueError(
        f"{name} cannot take {image_size}x{image_size} images ({detail}): resize the images or "
        "use convnet3"
    )


def _probe_num_features(network: nn.Module, name: str, image_size: int) -> int:
    try:
        shape = _feature_shape(network, image_size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise size_error(
            name, image_size, reason=error, smallest=_smallest_size(network, image_size)
        ) from error
    if len(shape) != 2:
        raise ValueError(f"{name} gives {list(shape)} outputs, expected [n, F]: use another")
    return shape[1]


def _feature_shape(network: nn.Module, image_size: int) -> torch.Size:
    # Meta tensors: only shapes are computed, and batch statistics of the network stay untouched.
    tensors = [*network.named_parameters(), *network.named_buffers()]
    meta = {key: tensor.to("meta") for key, tensor in tensors}
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    with torch.no_grad():
        return torch.func.functional_call(network, meta, (images,)).shape


def _smallest_size(network: nn.Module, too_small: int, enough: int = 224) -> int | None:
    def fits(image_size: int) -> bool:
        try:
            _feature_shape(network, image_size)
        except (AssertionError, RuntimeError, ValueError):
            return False
        return True

    if too_small >= enough or not fits(enough):
        return None
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if fits(middle) else (middle, enough)
    return enough
