"""ISD, NRA@K and OPR against their definitions as loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hashfast
from hashfast.metrics import isd, nra, nra_total, opr

pytestmark = pytest.mark.usefixtures("one_thread")


def isd_loops(student, teacher):
    bits = student.shape[1]
    return sum((bits - s @ t) / 2 for s, t in zip(student, teacher, strict=True)) / len(student)


def nra_loops(student, teacher, student_labels, teacher_labels, k):
    total = 0
    for code, label in zip(student, student_labels, strict=True):
        distances = [(int((code != other).sum()), i) for i, other in enumerate(teacher)]
        for _, i in sorted(distances)[:k]:
            total += bool(
                (teacher_labels[i] * label).sum() > 0
                if np.ndim(label)
                else teacher_labels[i] == label
            )
    return total


def case(n, m, bits, multi_hot, seed):
    rng = np.random.default_rng(seed)
    codes = [rng.choice([-1.0, 1.0], (size, bits)) for size in (n, m)]
    if multi_hot:
        return codes, [(rng.random((size, 4)) < 0.3).astype(int) for size in (n, m)]
    return codes, [rng.integers(3, size=size) for size in (n, m)]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    m=st.integers(1, 30),
    bits=st.integers(1, 20),
    k=st.integers(1, 40),
    multi_hot=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_nra_is_its_definition(n, m, bits, k, multi_hot, seed):
    codes, labels = case(n, m, bits, multi_hot, seed)
    packed = [hashfast.pack(c) for c in codes]
    total = nra_loops(*codes, *labels, k)
    assert nra_total(*packed, *labels, k, bits) == total
    assert nra(*packed, *labels, k, bits) == total / (n * min(k, m))
    tensors = [torch.from_numpy(c) for c in (*packed, *labels)]
    assert nra_total(*tensors, k=k) == total


def test_nra_goes_by_blocks(monkeypatch):
    codes, labels = case(23, 40, 16, False, 0)
    monkeypatch.setattr("hashfast.metrics._alignment._BLOCK", 30)
    packed = [hashfast.pack(c) for c in codes]
    assert nra_total(*packed, *labels, 7) == nra_loops(*codes, *labels, 7)


def test_nra_counts_the_image_itself_and_a_hundred_neighbours():
    codes = hashfast.pack(np.eye(8) - 0.5)
    assert nra(codes, codes, np.arange(8), np.arange(8), 1) == 1
    assert nra(codes, codes, np.arange(8), np.arange(8)) == 1 / 8
    many, ids = np.zeros((150, 1), np.uint8), np.arange(150) // 100
    assert nra_total(many, many, ids, ids) == 100 * 100
    assert nra(many, many, ids, ids) == 100 / 150


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 20), bits=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_isd_is_its_definition(n, bits, seed):
    (student, teacher), _ = case(n, n, bits, False, seed)
    packed = hashfast.pack(student), hashfast.pack(teacher)
    assert isd(*packed, bits) == pytest.approx(isd_loops(student, teacher), abs=1e-12)
    assert isd(torch.from_numpy(packed[0]), packed[1]) == isd(*packed)
    assert isd(packed[0], packed[0]) == 0
    assert isd(packed[0], hashfast.pack(-student), bits) == bits


def test_opr():
    assert opr(np.array([0, 1, 2, 2]), torch.tensor([0, 1, 1, 0])) == 0.5
    assert opr(torch.arange(5), torch.arange(5, dtype=torch.int32)) == 0
    assert opr([3], [1]) == 1


def test_wrong_input():
    codes, ids = np.zeros((4, 2), np.uint8), np.zeros(4, int)
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        nra(codes, codes, ids, ids, 0)
    with pytest.raises(ValueError, match="student_codes and teacher_codes differ"):
        nra(codes[:, :1], codes, ids, ids)
    with pytest.raises(ValueError, match="student_labels and teacher_labels differ"):
        nra(codes, codes, np.eye(4), ids)
    with pytest.raises(ValueError, match="4 teacher_codes came with 3 teacher_labels"):
        nra(codes, codes, ids, ids[:3])
    with pytest.raises(ValueError, match="student_codes are empty"):
        nra(codes[:0], codes, ids[:0], ids)
    with pytest.raises(TypeError, match="student_codes is float64; expected packed codes"):
        nra(codes.astype(float), codes, ids, ids)
    with pytest.raises(TypeError, match="teacher_codes is float64; expected packed codes"):
        isd(codes, codes.astype(float))
    for other in (codes[:3], codes[:, :1]):
        with pytest.raises(ValueError, match=r"student_codes have shape \[4, 2\], teacher_codes"):
            isd(codes, other)
    with pytest.raises(ValueError, match="at least one"):
        isd(codes[:0], codes[:0])
    with pytest.raises(ValueError, match="some of the last 4 bits of a code are set"):
        isd(codes + 1, codes, 12)
    with pytest.raises(ValueError, match="4 clusters came with 3 clusters_aug"):
        opr(ids, ids[:3])
    with pytest.raises(TypeError, match=r"clusters_aug are torch.float32; expected integers"):
        opr(ids, torch.zeros(4))
    with pytest.raises(ValueError, match=r"clusters have shape \[0\]"):
        opr(ids[:0], ids[:0])
