"""Hash models that need no training: a projection fitted on the features of the pictures."""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hashfast.data import ImageDataset, UnreadableImage
from hashfast.hashing.encode import Encoded, encode_dataset
from hashfast.hashing.model import HashModel, inference
from hashfast.hashing.projections import Projection
from hashfast.ops import pack

FittedHead = Literal["auto", "itq", "random"]
ROWS_PER_BIT = 2
"""ITQ is chosen from so many pictures a bit: from there on it beat random projections on pictures
that it was not fitted on. Measured with 64 bits of EfficientNet-Lite0 features on 128 drawings and
copies of two thirds of the size: 60 % of the copies within 8 bits of the drawing (random: 38 %),
0.5 % of other drawings (0.03 %)."""
ZERO_ROWS = 16
"""How strongly the mean of few pictures is drawn to 0 for random projections.

The mean of a picture and its copy lies between the two, and centred there their codes would be
opposite.
"""


class FittedCodes(NamedTuple):
    """codes of the whole dataset; pictures: how many the head was fitted on."""

    encoded: Encoded
    pictures: int


def fit_and_encode(
    model: HashModel,
    dataset: ImageDataset,
    head: FittedHead = "auto",
    *,
    sample: int = 20_000,
    seed: int = 0,
    batch_size: int = 512,
    workers: int = 0,
    strict: bool = False,
    progress: bool = False,
) -> FittedCodes:
    """Give `model` a head fitted on its features of `dataset`, and encode that; for a new backbone.

    The head is ITQ where `sample` pictures, drawn by `seed`, hold at least 2 readable ones a bit
    and the backbone has a feature a bit; otherwise a random projection, which works from the first
    picture on. Every picture goes through the network once; features are kept of the sample only.

    The other arguments and the errors are those of `encode_dataset`; UnreadableImage when no
    picture of the sample is readable, ValueError for `itq` with fewer pictures or features than
    bits.
    """
    n = len(dataset)
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:sample]
    taken = torch.zeros(n, dtype=torch.bool)
    taken[chosen] = True
    encode = partial(
        encode_dataset,
        model,
        dataset,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        progress=progress,
    )
    model.head = nn.Identity()
    first = encode(rows=taken.nonzero().flatten())
    features = first.outputs
    if not len(first.indices):
        reason = f"; the first: {first.unreadable[0][1]}" if first.unreadable else ""
        raise UnreadableImage(f"none of the {len(chosen)} pictures is readable{reason}")
    _fit(model, features, head)
    with inference(model):
        outputs = model.head(features.to(model.mean.device)).float().cpu().clone()
    first = first._replace(outputs=outputs, codes=pack(outputs))
    if n > sample:
        first = _in_order(first, encode(rows=(~taken).nonzero().flatten()))
    return FittedCodes(first, len(features))


def _fit(model: HashModel, features: Tensor, head: FittedHead) -> None:
    rows, columns = features.shape
    if head == "auto":
        enough = rows >= ROWS_PER_BIT * model.bits and columns >= model.bits
        head = "itq" if enough else "random"
    model.replace_head(head)
    if not isinstance(model.head, Projection):
        raise TypeError(f"the head {head!r} is trained, not fitted: use train")
    if head == "random":
        features = torch.cat([features, features.new_zeros(ZERO_ROWS, columns)])
    model.head.fit(features)


def _in_order(one: Encoded, other: Encoded) -> Encoded:
    """Both parts of a dataset, by index."""
    codes, outputs, labels, indices = (
        torch.cat(parts) for parts in zip(one[:4], other[:4], strict=True)
    )
    order = indices.argsort()
    unreadable = sorted(one.unreadable + other.unreadable)
    return Encoded(codes[order], outputs[order], labels[order], indices[order], unreadable)
