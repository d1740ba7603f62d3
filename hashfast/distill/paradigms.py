"""Search with a student: alone, or against codes that its teacher made (paper 004, section 3.2)."""

from typing import NamedTuple

import torch

from hashfast.data import Splits
from hashfast.distill.teacher import Teacher
from hashfast.hashing.encode import Encoded
from hashfast.hashing.evaluation import Evaluation, encode_part, evaluate_codes
from hashfast.hashing.features import FeatureCache
from hashfast.hashing.model import HashModel
from hashfast.metrics import isd, nra

NEIGHBOURS = 100
"""K of NRA@K."""


class Paradigms(NamedTuple):
    """sshp: the student codes both queries and database (symmetric). ashp: the teacher codes the
    database, the student the queries (asymmetric); None where their codes differ in length.
    database, teacher_database: the student's codes of it, and the teacher's where there is ASHP."""

    sshp: Evaluation
    ashp: Evaluation | None
    database: Encoded
    teacher_database: Encoded | None


class Alignment(NamedTuple):
    """How near the student's code of a training image is to the teacher's.

    isd: mean Hamming distance in bits (equation 12); nra: share of relevant images among the
    NEIGHBOURS nearest codes of the teacher (equation 13).
    """

    isd: float
    nra: float


def evaluate_paradigms(
    model: HashModel,
    splits: Splits,
    teacher: Teacher,
    workers: int = 0,
    features: FeatureCache | None = None,
) -> Paradigms:
    """Encode and evaluate a student on a protocol; the teacher's codes are computed once."""
    query, database = (
        encode_part(model, splits, part, workers, features) for part in ("query", "database")
    )
    sshp = evaluate_codes(query, database, splits, model.bits)
    if teacher.bits != model.bits:
        return Paradigms(sshp, None, database, None)
    theirs = teacher.encoded(splits, "database")
    ashp = evaluate_codes(query, theirs, splits, model.bits)
    return Paradigms(sshp, ashp, database, theirs)


def alignment(
    model: HashModel,
    splits: Splits,
    teacher: Teacher,
    workers: int = 0,
    features: FeatureCache | None = None,
) -> Alignment | None:
    """ISD and NRA@100 over the training set; None where the codes differ in length."""
    if teacher.bits != model.bits:
        return None
    ours = encode_part(model, splits, "train", workers, features)
    theirs = teacher.encoded(splits, "train")
    both = torch.isin(ours.indices, theirs.indices), torch.isin(theirs.indices, ours.indices)
    student, codes = ours.codes[both[0]], theirs.codes[both[1]]
    labels = ours.labels[both[0]]
    return Alignment(
        isd(student, codes, model.bits),
        nra(student, theirs.codes, labels, theirs.labels, NEIGHBOURS, model.bits),
    )
