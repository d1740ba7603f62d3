"""Retrieval quality of a model on a protocol."""

from typing import NamedTuple

import torch

from hashfast import _distributed
from hashfast.data import ImageDataset, Splits
from hashfast.hashing.encode import Encoded, encode_dataset
from hashfast.hashing.features import FeatureCache, encode_features
from hashfast.hashing.model import HashModel
from hashfast.metrics import Report, evaluate, quantization_error
from hashfast.ops import pack


class Evaluation(NamedTuple):
    """report: of the database's ranking for the queries; quantization_error: of the database, in
    radians; unreadable: why pictures were left out."""

    report: Report
    quantization_error: float
    unreadable: list[str]


def evaluate_model(
    model: HashModel, splits: Splits, workers: int = 0, features: FeatureCache | None = None
) -> Evaluation:
    """Encode queries and database, and evaluate. Several processes share the encoding.

    features: of a frozen backbone; they are then computed once and kept.
    """
    query, database = (
        encode_part(model, splits, part, workers, features) for part in ("query", "database")
    )
    return evaluate_codes(query, database, splits, model.bits)


def evaluate_codes(query: Encoded, database: Encoded, splits: Splits, bits: int) -> Evaluation:
    """Retrieval quality of codes, of one model or of two that code alike."""
    report = evaluate(
        query.codes,
        database.codes,
        query.labels,
        database.labels,
        topk=splits.topk,
        bits=bits,
    )
    unreadable = [reason for part in (query, database) for _, reason in part.unreadable]
    return Evaluation(report, quantization_error(database.outputs), unreadable)


def encode_part(
    model: HashModel,
    splits: Splits,
    part: str,
    workers: int = 0,
    features: FeatureCache | None = None,
) -> Encoded:
    """Codes of the set called `part`: "query", "train" or "database"."""
    if features is not None:
        return encode_features(model, features.of(splits, part))
    return _encode_together(model, getattr(splits, part), workers)


def _encode_together(model: HashModel, dataset: ImageDataset, workers: int) -> Encoded:
    rows = _distributed.own_share(torch.arange(len(dataset)))
    own = encode_dataset(model, dataset, rows=rows, workers=workers)
    outputs, indices = map(_distributed.gather_rows, (own.outputs, own.indices))
    if dataset.labels is None:
        labels = _distributed.gather_rows(own.labels)
    else:
        labels = dataset.labels[indices]
    unreadable = [item for part in _distributed.gather_objects(own.unreadable) for item in part]
    return Encoded(pack(outputs), outputs, labels, indices, unreadable)
