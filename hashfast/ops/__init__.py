"""The four hot paths, each in one file with its reference; `OPS` lists every operation."""

from hashfast.ops._op import OPS
from hashfast.ops.binary_wasserstein import binary_wasserstein
from hashfast.ops.class_mmd import ClassRows, class_mmd, class_rows
from hashfast.ops.codes import pack, unpack
from hashfast.ops.hamming import hamming_histogram, hamming_range, hamming_topk
from hashfast.ops.hamming_hits import hamming_hits
from hashfast.ops.masked_contrastive import masked_contrastive

__all__ = [
    "OPS",
    "ClassRows",
    "binary_wasserstein",
    "class_mmd",
    "class_rows",
    "hamming_histogram",
    "hamming_hits",
    "hamming_range",
    "hamming_topk",
    "masked_contrastive",
    "pack",
    "unpack",
]
