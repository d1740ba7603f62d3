"""Retrieval metrics over packed codes: one evaluator, with an explicit rule for tied distances."""

from hashfast.metrics._alignment import isd, nra, nra_total, opr
from hashfast.metrics._code_quality import quantization_error
from hashfast.metrics._evaluate import evaluate, mean_average_precision
from hashfast.metrics._report import PRCurve, Report

__all__ = [
    "PRCurve",
    "Report",
    "evaluate",
    "isd",
    "mean_average_precision",
    "nra",
    "nra_total",
    "opr",
    "quantization_error",
]
