"""Hash heads: the layers between backbone features and the outputs whose sign is the code."""

from collections.abc import Callable

from torch import nn

from hashfast.hashing.projections import ITQ, RandomProjection


def _linear(in_features: int, bits: int) -> nn.Module:
    return nn.Linear(in_features, bits)


def _batch_norm(in_features: int, bits: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, bits, bias=False), nn.BatchNorm1d(bits))


def _layer_norm(in_features: int, bits: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, bits, bias=False), nn.LayerNorm(bits), nn.Tanh())


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": _linear,
    "bn": _batch_norm,
    "dhd": _layer_norm,
    "itq": lambda in_features, bits: ITQ(bits),
    "random": lambda in_features, bits: RandomProjection(bits),
}


def build_head(kind: str, in_features: int, bits: int) -> nn.Module:
    """Build the hash head `kind`: features [n, in_features] -> outputs [n, bits] before sign.

    `linear` is one Linear layer with bias; `bn` is Linear without bias and BatchNorm1d, the head
    of OrthoHash (kamwoh/orthohash: models/alexnet.py), which centres every bit; `dhd` is
    tanh(LayerNorm(Linear without bias)), the head of DHD (youngkyunJang/Deep-Hash-Distillation:
    main_DHD.py). `itq` and `random` are fitted, not trained: see
    `hashfast.hashing.fit_projection`.

    Raises ValueError for an unknown kind or for bits < 1.
    """
    if kind not in HEADS:
        raise ValueError(f"unknown hash head {kind!r}; the heads are {', '.join(HEADS)}")
    if bits < 1:
        raise ValueError(f"a hash head needs at least 1 bit, got {bits}")
    return HEADS[kind](in_features, bits)
