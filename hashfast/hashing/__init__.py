"""Hash models: backbones, hash heads, the training loop, encoding."""

from hashfast.hashing.backbones import backbone_statistics, build_backbone, list_backbones
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.encode import Encoded, encode_dataset, fit_projection
from hashfast.hashing.fit import fit_and_encode
from hashfast.hashing.heads import build_head
from hashfast.hashing.model import HashModel, ModelConfig
from hashfast.hashing.projections import ITQ, RandomProjection
from hashfast.hashing.train import TrainResult, train
from hashfast.hashing.watch import DivergedError

__all__ = [
    "ITQ",
    "DivergedError",
    "Encoded",
    "HashModel",
    "ModelConfig",
    "RandomProjection",
    "TrainConfig",
    "TrainResult",
    "backbone_statistics",
    "build_backbone",
    "build_head",
    "encode_dataset",
    "fit_and_encode",
    "fit_projection",
    "list_backbones",
    "train",
]
