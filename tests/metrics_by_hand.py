"""Small collections, and the metrics' definitions written out as loops over ranked lists."""

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np

import hashfast
from hashfast.metrics import evaluate


def make_case(q=7, n=40, bits=5, classes=3, seed=0, multi_hot=False):
    """Short codes, so that most distances are shared by several items."""
    rng = np.random.default_rng(seed)
    case = SimpleNamespace(bits=bits)
    for name, size in (("query", q), ("database", n)):
        signs = rng.choice([-1.0, 1.0], (size, bits))
        labels = rng.integers(classes, size=size)
        if multi_hot:
            labels = (rng.random((size, classes)) < 0.3).astype(np.float32)
        setattr(case, f"{name}_signs", signs)
        setattr(case, f"{name}_labels", labels)
    return case


def run(case, metric=evaluate, **options):
    codes = [hashfast.pack(signs) for signs in (case.query_signs, case.database_signs)]
    return metric(*codes, case.query_labels, case.database_labels, bits=case.bits, **options)


def ranked_lists(case):
    """For each query the (distance, relevant) of every item, sorted stably by distance."""
    for signs, label in zip(case.query_signs, case.query_labels, strict=True):
        distances = (signs != case.database_signs).sum(1)
        if case.database_labels.ndim == 1:
            relevant = case.database_labels == label
        else:
            relevant = (case.database_labels * label).sum(1) > 0
        order = np.argsort(distances, kind="stable")
        yield [(int(distances[i]), bool(relevant[i])) for i in order]


def list_precision(relevant, k, denominator):
    """AP@k of one order: the definition, in exact arithmetic."""
    hits, total = 0, Fraction(0)
    for rank, hit in enumerate(relevant[:k], start=1):
        if hit:
            hits += 1
            total += Fraction(hits, rank)
    if hits == 0:
        return Fraction(0)
    return total / (hits if denominator == "hits" else min(k, sum(relevant)))


def tie_orders(ranked):
    """Every order of relevance that ties allow, each distinct one once and equally likely."""
    groups = []
    for _, group in itertools.groupby(ranked, key=lambda item: item[0]):
        flags = [hit for _, hit in group]
        places = itertools.combinations(range(len(flags)), sum(flags))
        groups.append([[i in chosen for i in range(len(flags))] for chosen in places])
    for parts in itertools.product(*groups):
        yield list(itertools.chain(*parts))


def brute_force(ranked, k, denominator):
    values = [list_precision(order, k, denominator) for order in tie_orders(ranked)]
    return {
        "expected": float(sum(values) / len(values)),
        "best": float(max(values)),
        "worst": float(min(values)),
    }
