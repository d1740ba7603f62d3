"""Condensed images are worth more than random ones, on real data."""

import statistics

import pytest
from condense_runs import digits

from hashfast.condense import CondenseConfig, EvaluationConfig, condense, evaluate_set

pytestmark = pytest.mark.usefixtures("one_thread")
EVALUATION = EvaluationConfig(evaluate_methods=("csq",), evaluate_bits=32, evaluate_steps=120)


def test_dm_beats_random_images_on_digits():
    splits = digits()
    found = {"random": [], "dm": []}
    for method, values in found.items():
        for seed in (0, 1):
            config = CondenseConfig(
                method=method,
                ipc=1,
                width=32,
                networks=None if method == "random" else 40,
                learning_rate=0.2,
                real_batch=25,
                device="cpu",
                seed=seed,
            )
            condensed = condense(config, splits=splits, progress=False).condensed
            values.append(evaluate_set(condensed, splits, config, EVALUATION, seed=seed)["map"])
    # About +0.15; images that do not move are worth as much as random ones.
    assert statistics.mean(found["dm"]) > statistics.mean(found["random"]) + 0.08
