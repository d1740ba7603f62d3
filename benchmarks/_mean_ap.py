"""Mean average precision as it is computed today, and the codes and labels it is measured on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from _processes import peak_memory_mb
from threadpoolctl import threadpool_limits

import hashfast

CLASSES, FLIPPED = 10, 0.35

MeanAP = Callable[[], float]


class Retrieval(NamedTuple):
    """Bits 0 or 1, uint8 [q, b] and [n, b], and class ids int64 [q] and [n]."""

    query: np.ndarray
    database: np.ndarray
    query_labels: np.ndarray
    labels: np.ndarray

    @classmethod
    def drawn(cls, queries: int, n: int, bits: int) -> "Retrieval":
        """A code is that of its class with a share FLIPPED of its bits flipped."""
        rng = np.random.default_rng(0)
        centres = rng.integers(0, 2, (CLASSES, bits), dtype=np.uint8)

        def items(rows: int) -> tuple[np.ndarray, np.ndarray]:
            labels = rng.integers(0, CLASSES, rows)
            return centres[labels] ^ (rng.random((rows, bits), np.float32) < FLIPPED), labels

        (query, query_labels), (database, labels) = items(queries), items(n)
        return cls(query, database, query_labels, labels)

    def first(self, queries: int) -> "Retrieval":
        """The first of the queries, the same database."""
        return Retrieval(
            self.query[:queries], self.database, self.query_labels[:queries], self.labels
        )

    def packed(self) -> tuple[np.ndarray, ...]:
        """What hashfast takes: codes uint8 [q, b / 8] and [n, b / 8], then both labels."""
        codes = (np.packbits(bits, axis=1) for bits in (self.query, self.database))
        return (*codes, self.query_labels, self.labels)

    def signs(self) -> tuple[np.ndarray, ...]:
        """What loops take: codes -1 and 1 and one-hot labels, all float32, queries first."""
        codes = (2 * bits.astype(np.float32) - 1 for bits in (self.query, self.database))
        one_hot = np.eye(CLASSES, dtype=np.float32)
        return (*codes, one_hot[self.query_labels], one_hot[self.labels])


def evaluate(data: Retrieval, topk: int | None, device: str = "cpu") -> MeanAP:
    arguments: tuple = data.packed()
    if device != "cpu":
        arguments = tuple(torch.from_numpy(array).to(device) for array in arguments)
    return lambda: hashfast.evaluate(*arguments, topk=topk).map


def mean_average_precision(data: Retrieval, topk: int | None) -> MeanAP:
    arguments = data.packed()
    return lambda: hashfast.metrics.mean_average_precision(*arguments, topk=topk)


def argsort_loop(data: Retrieval, topk: int | None, kind: str | None = None) -> MeanAP:
    """What CalcTopMap of DeepHash-pytorch and its many copies do; a stable `kind` ranks by id."""
    query, database, query_labels, labels = data.signs()

    def run() -> float:
        total = 0.0
        for code, label in zip(query, query_labels, strict=True):
            relevant = np.dot(label, labels.T) > 0
            distances = 0.5 * (len(code) - np.dot(code, database.T))
            ranks = 1 + np.flatnonzero(relevant[np.argsort(distances, kind=kind)][:topk])
            if len(ranks):
                total += np.mean(np.arange(1, len(ranks) + 1) / ranks)
        return total / len(query)

    return run


def torchmetrics_map(data: Retrieval, topk: int | None, by_id: bool = False) -> MeanAP:
    """RetrievalMAP, with a score of bits - distance + 1: it takes what scores 0 or less for a miss.

    by_id: lower the scores by less than 1 in the order of ids, so that no two of a query are equal.
    """
    from torchmetrics.retrieval import RetrievalMAP

    query, database, query_labels, labels = map(torch.from_numpy, data.signs())
    (q, bits), n = query.shape, len(database)
    indexes = torch.arange(q).repeat_interleave(n)
    lower = torch.arange(n) / n if by_id else torch.zeros(1)

    def run() -> float:
        scores = (bits + query @ database.T) / 2 + 1 - lower
        metric = RetrievalMAP(top_k=topk)
        metric.update(scores.flatten(), (query_labels @ labels.T > 0).flatten(), indexes)
        return float(metric.compute())

    return run


class FreshProcess:
    """Where nothing has run yet, so that the peak of its memory is that of one evaluation."""

    def peak_mb(self, queries: int, n: int, bits: int, topk: int | None) -> tuple[float, float]:
        """Memory before and at the peak of `evaluate`, in 10^6 bytes.

        Before it are the imports, the codes and labels, and what making them took.
        """
        with threadpool_limits(1):
            torch.set_num_threads(1)
            run = evaluate(Retrieval.drawn(queries, n, bits), topk)
            before = peak_memory_mb()
            run()
            return before, peak_memory_mb()
