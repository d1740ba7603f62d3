"""Arguments and memory banks of the methods, as a run names them."""

from dataclasses import replace

import pytest
from train_runs import TINY, run, small_digits

from hashfast.hashing.methods import build_criterion, read_options


@pytest.fixture(scope="module")
def small():
    return small_digits()


@pytest.mark.parametrize(
    ("method", "options", "read"),
    [
        ("dch", ("gamma=10", "variant=zoo"), {"gamma": 10.0, "variant": "zoo"}),
        ("dch", ("gamma=1e1",), {"gamma": 10.0}),
        ("dbdh", ("power=1", "balance=bit"), {"power": 1, "balance": "bit"}),
        ("dpn", ("ternary=true", "seed=3"), {"ternary": True, "seed": 3}),
        ("hashnet", ("alpha=null",), {"alpha": None}),
        ("csq", ("quantization_on=squashed",), {"quantization_on": "squashed"}),
        ("csq", (), {}),
    ],
)
def test_arguments_of_a_method_are_written_as_name_and_value(method, options, read):
    assert read_options(method, options) == read
    assert replace(TINY, method=method, options=options).options == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("gama=1",), "dch has no argument 'gama'; its arguments: gamma, variant, quantization_on"),
        (("bank_size=4",), "dch has no argument 'bank_size'"),
        (("gamma",), "'gamma' is no argument of dch: write name=value"),
        (("gamma=1", "gamma=2"), "dch got gamma twice"),
        (("gamma=many",), "dch got gamma=many; expected float"),
        (("gamma=true",), "dch got gamma=true; expected float"),
        (("gamma=[1, 2]",), "expected float"),
        (("gamma={",), "expected float"),
        (("variant=best",), r"dch got variant=best; expected .*'paper', 'zoo'"),
    ],
)
def test_wrong_arguments_of_a_method_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, method="dch", options=options)


def test_arguments_reach_the_method(small):
    config = replace(TINY, method="hashnet", options=("alpha=0.3",), quantization_weight=None)
    criterion = build_criterion(config, small)
    assert criterion.alpha == 0.3
    assert run(replace(config, epochs=1), splits=small).results["config"]["options"] == (
        "alpha=0.3",
    )


@pytest.mark.parametrize(
    ("method", "memory_bank", "size"),
    [
        ("hashnet", None, None),
        ("hashnet", True, 97),
        ("hashnet", False, None),
        ("dsdh", None, 97),
        ("dsdh", True, 97),
        ("dsdh", False, None),
    ],
)
def test_a_memory_bank_holds_the_training_set(small, method, memory_bank, size):
    criterion = build_criterion(replace(TINY, method=method, memory_bank=memory_bank), small)
    assert (criterion.memory.size if criterion.memory else None) == size
    assert ("index" in criterion.needs) == (size is not None)


def test_a_method_without_a_memory_bank_refuses_one():
    with pytest.raises(ValueError, match=r"csq compares no pairs .*, or choose .*hashnet"):
        replace(TINY, method="csq", memory_bank=True)
    assert replace(TINY, method="csq", memory_bank=False).memory_bank is False
