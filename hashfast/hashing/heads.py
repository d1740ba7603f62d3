"""Hash heads: the layers between backbone features and the outputs whose sign is the code."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hashfast.hashing.projections import ITQ, RandomProjection
from hashfast.losses.product_quantizer import unit_vectors


def _linear(in_features: int, bits: int) -> nn.Module:
    return nn.Linear(in_features, bits)


def _batch_norm(in_features: int, bits: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, bits, bias=False), nn.BatchNorm1d(bits))


def _layer_norm(in_features: int, bits: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, bits, bias=False), nn.LayerNorm(bits), nn.Tanh())


class MLPHead(nn.Module):
    """One hidden layer: features [n, F] -> outputs [n, bits].

    `hidden` gives the hidden layer [n, num_hidden] after its ReLU, `output` the outputs from it.
    """

    def __init__(self, in_features: int, bits: int, num_hidden: int = 1024) -> None:
        super().__init__()
        self.num_hidden = num_hidden
        self.hidden = nn.Sequential(nn.Linear(in_features, num_hidden), nn.ReLU())
        self.output = nn.Linear(num_hidden, bits)

    def forward(self, features: Tensor) -> Tensor:
        return self.output(self.hidden(features))


class PQHead(nn.Module):
    """A product quantiser with two codewords a sub-codebook: features [n, F] -> logits [n, bits].

    A linear layer gives a sub-vector x for each bit; with x and the codewords c divided by their
    norms an output is alpha (<x, c_1> - <x, c_0>): the logit of the second codeword in
    softmax(alpha <x, c>), positive where it is the nearer.

    Parameter: codebooks [bits, 2, dimension], of random directions.
    """

    def __init__(
        self, in_features: int, bits: int, dimension: int = 8, alpha: float = 10.0
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.projection = nn.Linear(in_features, bits * dimension)
        self.codebooks = nn.Parameter(unit_vectors(torch.randn(bits, 2, dimension)))

    def forward(self, features: Tensor) -> Tensor:
        bits, _, dimension = self.codebooks.shape
        parts = unit_vectors(self.projection(features).unflatten(1, (bits, dimension)))
        first, second = unit_vectors(self.codebooks).unbind(1)
        return self.alpha * (parts * (second - first)).sum(2)


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": _linear,
    "bn": _batch_norm,
    "dhd": _layer_norm,
    "mlp": MLPHead,
    "pq": PQHead,
    "itq": lambda in_features, bits: ITQ(bits),
    "random": lambda in_features, bits: RandomProjection(bits),
}


def build_head(kind: str, in_features: int, bits: int) -> nn.Module:
    """Build the hash head `kind`: features [n, in_features] -> outputs [n, bits] before sign.

    `linear` is one Linear layer with bias; `bn` is Linear without bias and BatchNorm1d, the head
    of OrthoHash (kamwoh/orthohash: models/alexnet.py), which centres every bit; `dhd` is
    tanh(LayerNorm(Linear without bias)), the head of DHD (youngkyunJang/Deep-Hash-Distillation:
    main_DHD.py). `mlp` has a hidden layer of 1,024 with ReLU, the head of CIBHash
    (qiuzx2/CIBHash: model/CIBHash.py) and TBH; `pq` gives every bit a sub-codebook of two
    codewords, for MeCoQ: see MLPHead and PQHead. `itq` and `random` are fitted, not trained: see
    `hashfast.hashing.fit_projection`.

    Raises ValueError for an unknown kind or for bits < 1.
    """
    if kind not in HEADS:
        raise ValueError(f"unknown hash head {kind!r}; the heads are {', '.join(HEADS)}")
    if bits < 1:
        raise ValueError(f"a hash head needs at least 1 bit, got {bits}")
    return HEADS[kind](in_features, bits)
