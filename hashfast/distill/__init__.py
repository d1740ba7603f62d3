"""Distillation of hash models: a small student that codes as a large teacher does."""

from hashfast.distill.config import DistillConfig
from hashfast.distill.loop import DistillResult, distill
from hashfast.distill.paradigms import Alignment, Paradigms, alignment, evaluate_paradigms
from hashfast.distill.teacher import Teacher

__all__ = [
    "Alignment",
    "DistillConfig",
    "DistillResult",
    "Paradigms",
    "Teacher",
    "alignment",
    "distill",
    "evaluate_paradigms",
]
