"""Classification accuracy, beside retrieval quality."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hashfast.condense.networks import fit
from hashfast.data import Splits
from hashfast.hashing import HashModel, TrainConfig, encode_dataset
from hashfast.hashing.learner import Learner
from hashfast.hashing.loading import resolve_device, shuffled
from hashfast.hashing.normalisation import model_config
from hashfast.losses import HashLoss


class CrossEntropy(HashLoss):
    """Softmax cross-entropy of class scores: outputs [n, num_classes], class ids [n]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, bits=num_classes)

    def similarity(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels.long())


def classify(settings: TrainConfig, splits: Splits) -> float:
    """Train a network with a linear classifier on `splits.train`; its accuracy on the queries.

    settings: of a hashing run, whose loss and code length do not count and whose views are made as
    for a loss that compares none. Accuracy is the share of queries, in [0, 1], whose highest score
    is that of their class. torch's global generators are seeded.
    """
    device = resolve_device(settings.device)
    torch.manual_seed(settings.seed)
    settings = replace(settings, bits=splits.num_classes)
    model = HashModel(model_config(settings, splits, "linear")).to(device)
    criterion = CrossEntropy(splits.num_classes)
    steps_per_epoch = len(shuffled(len(splits.train), settings.batch_size, 0, 0))
    learner = Learner(settings, model, criterion, device, steps_per_epoch)
    fit(learner, splits.train)
    scores = encode_dataset(model, splits.query, workers=settings.workers)
    return float((scores.outputs.argmax(1) == scores.labels).float().mean())
