"""How well a student's codes share the space of a teacher's: ISD, NRA@K and OPR."""

import torch
from torch import Tensor

from hashfast import ops
from hashfast._inputs import Array, Labels, as_codes, to_tensor
from hashfast.metrics._inputs import Collection

# Ranks that a block of students' codes may have at once.
_BLOCK = 1 << 22


def isd(student_codes: Array, teacher_codes: Array, bits: int | None = None) -> float:
    """Individual sample distance (He et al., WWW 2024, equation 12): 0 is perfect alignment.

    Mean Hamming distance, in bits, between the student's and the teacher's code of the same image.
    Packed codes uint8 [n, bytes] each, numpy or torch; bits: of a code, when that is not a multiple
    of 8. Raises TypeError for codes that are not uint8, ValueError for sizes that do not match and
    no codes.
    """
    student = as_codes(student_codes, "student_codes", bits)
    teacher = as_codes(teacher_codes, "teacher_codes", bits).to(student.device)
    if student.shape != teacher.shape or not len(student):
        raise ValueError(
            f"student_codes have shape {list(student.shape)}, teacher_codes {list(teacher.shape)}; "
            "expected both codes of the same images, at least one"
        )
    popcount = torch.tensor([i.bit_count() for i in range(256)], device=student.device)
    counts = (student ^ teacher).flatten().bincount(minlength=256)
    return int((counts * popcount).sum()) / len(student)


def nra(
    student_codes: Array,
    teacher_codes: Array,
    student_labels: Labels,
    teacher_labels: Labels,
    k: int = 100,
    bits: int | None = None,
) -> float:
    """Neighbour relevance accuracy, NRA@K (He et al., WWW 2024, equation 13), as a fraction.

    Of the k teacher's codes nearest to each of the student's, the share whose images have a class
    in common with the student's image. Neighbours are ordered by (distance, position); an image is
    its own neighbour too. `nra_total` gives the number that the equation has.

    Args:
        student_codes, teacher_codes: packed, uint8 [q, bytes] and [n, bytes], numpy or torch. The
            work is done on the device of the teacher's codes.
        student_labels, teacher_labels: class ids [q] and [n], or multi-hot [q, C] and [n, C].
        k: neighbours, at least 1; more than n are n.
        bits: bits of a code, when that is not a multiple of 8.

    Raises TypeError for codes that are not uint8 and class ids that are not integers, ValueError
    for sizes that do not match, no codes and k below 1.
    """
    total = nra_total(student_codes, teacher_codes, student_labels, teacher_labels, k, bits)
    return total / (len(student_codes) * min(k, len(teacher_codes)))


def nra_total(
    student_codes: Array,
    teacher_codes: Array,
    student_labels: Labels,
    teacher_labels: Labels,
    k: int = 100,
    bits: int | None = None,
) -> int:
    """NRA@K as equation 13 has it: the number of relevant neighbours of all images together.

    Takes, and raises, what `nra` does.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1 neighbour")
    teacher = Collection.checked(teacher_codes, teacher_labels, "teacher", bits)
    student = Collection.checked(
        student_codes, student_labels, "student", bits, teacher.codes.device
    )
    for what, one, other in (
        ("codes", student.codes, teacher.codes),
        ("labels", student.labels, teacher.labels),
    ):
        if one.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"student_{what} and teacher_{what} differ in kind or width: expected codes of one "
                "length, and class ids [n] for both or multi-hot [n, classes] of the same classes"
            )
    k = min(k, len(teacher.codes))
    step, total = max(1, _BLOCK // k), 0
    for start in range(0, len(student.codes), step):
        rows = student.rows(slice(start, start + step))
        limits, _ = ops.hamming_hits(rows.codes, teacher.codes, k, rows.labels, teacher.labels)
        total += int(limits[-1])
    return total


def opr(clusters: Array, clusters_aug: Array) -> float:
    """Offset positive rate (He et al., WWW 2024, equation 28).

    Share of the images whose augmentation falls into another cluster: integers [n] each, numpy or
    torch. Raises TypeError unless they are integers, ValueError for other shapes and no images.
    """
    one = _as_clusters(clusters, "clusters")
    other = _as_clusters(clusters_aug, "clusters_aug").to(one.device)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} clusters came with {len(other)} clusters_aug")
    return float((one != other).double().mean())


def _as_clusters(clusters: Array, name: str) -> Tensor:
    tensor = to_tensor(clusters)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} are {tensor.dtype}; expected integers, a cluster an image")
    if tensor.dim() != 1 or not len(tensor):
        raise ValueError(f"{name} have shape {list(tensor.shape)}; expected [n], not empty")
    return tensor
