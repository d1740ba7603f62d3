"""Dataset condensation: a few learnt images a class, to train hash models on."""

from hashfast.condense.comparison import Comparison
from hashfast.condense.config import CondenseConfig
from hashfast.condense.evaluation import compare, evaluate_set, quick_evaluation
from hashfast.condense.evaluation_config import EvaluationConfig
from hashfast.condense.loop import CondenseResult, condense
from hashfast.condense.methods import METHODS

__all__ = [
    "METHODS",
    "Comparison",
    "CondenseConfig",
    "CondenseResult",
    "EvaluationConfig",
    "compare",
    "condense",
    "evaluate_set",
    "quick_evaluation",
]
