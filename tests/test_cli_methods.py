"""`hashfast methods`: hashing without labels and distillation."""

import inspect

import pytest
from cli_calls import answer, call

from hashfast.hashing import TrainConfig
from hashfast.hashing.methods import read_arguments
from hashfast.losses import DISTILLATION, METHODS, UNSUPERVISED


def first_line(loss):
    return str(loss.__doc__).splitlines()[0]


@pytest.mark.parametrize(
    ("section", "losses"),
    [("methods", METHODS), ("unsupervised", UNSUPERVISED), ("distillation", DISTILLATION)],
)
def test_each_kind_of_loss_is_a_section(capsys, section, losses):
    listed = answer(capsys, "methods")[section]
    assert listed == {name: first_line(loss) for name, loss in losses.items()}


def test_the_text_lists_each_loss_under_its_option(capsys):
    _, out, _ = call(capsys, "methods")
    sections = dict(part.split("\n", 1) for part in out.rstrip().split("\n\n"))
    for heading, losses in (
        ("methods of train without labels (--method)", UNSUPERVISED),
        ("losses of distill (--distillation)", DISTILLATION),
    ):
        (lines,) = (text for title, text in sections.items() if title.startswith(heading))
        names = [line.split()[0] for line in lines.splitlines()]
        assert names == list(losses)
    (title,) = (title for title in sections if title.startswith("losses of distill"))
    assert title.endswith("among its teacher's by brcd and kl")


@pytest.mark.parametrize(
    ("name", "head", "needs"),
    [
        ("cibhash", "mlp", ["u2"]),
        ("mecoq", "pq", ["u2", "codebooks"]),
        ("tbh", "mlp", ["features", "hidden"]),
        ("greedyhash", "linear", []),
        ("greedyhash-unsupervised", "linear", ["features"]),
    ],
)
def test_a_method_is_described_with_its_head_and_needs(capsys, name, head, needs):
    found = answer(capsys, "methods", name)
    assert (found["method"], found["head"], found["needs"]) == (name, head, needs)
    _, out, _ = call(capsys, "methods", name)
    assert f"\nhead: {head}\n" in out
    assert f"\nneeds: {' '.join(needs) or 'none'}\n" in out
    assert out.startswith(first_line({**METHODS, **UNSUPERVISED}[name]))


@pytest.mark.parametrize(
    ("name", "aligns", "views", "needs"),
    [
        ("brcd", True, "augmented", ["teacher_aug", "index"]),
        ("kl", True, None, []),
        ("crd", False, None, ["index"]),
        ("sskd", False, "rotated", ["student_aug", "teacher_aug"]),
    ],
)
def test_a_distillation_loss_is_described(capsys, name, aligns, views, needs):
    found = answer(capsys, "methods", name)
    assert (found["aligns"], found["views"], found["needs"]) == (aligns, views, needs)
    _, out, _ = call(capsys, "methods", name)
    assert out.startswith(str(inspect.getdoc(DISTILLATION[name])))
    assert f"\naligns: {aligns}\nviews: {views or 'none'}\n" in out
    assert "arguments (--distillation-options) and their defaults\n" in out


def test_arguments_of_brcd_are_those_of_the_paper(capsys):
    found = answer(capsys, "methods", "brcd")["arguments"]
    expected = {"k": 10, "alpha": 0.8, "delta": 0.5, "temperature": 0.3, "variant": "paper"}
    assert {name: found[name] for name in expected} == expected
    assert not {"bits", "teacher_bits"} & found.keys()


@pytest.mark.parametrize("name", DISTILLATION)
def test_arguments_of_distillation_can_be_given(capsys, name):
    found = answer(capsys, "methods", name)["arguments"]
    options = [f"{key}={value}" for key, value in found.items()]
    assert read_arguments(DISTILLATION[name], options, name) == found


@pytest.mark.parametrize("name", UNSUPERVISED)
def test_arguments_of_methods_without_labels_can_be_given(capsys, name):
    found = answer(capsys, "methods", name)["arguments"]
    assert not {"bits", "num_features", "num_hidden"} & found.keys()
    given = {key: value for key, value in found.items() if value is not None}
    options = tuple(f"{key}={value}" for key, value in given.items())
    assert TrainConfig(method=name, options=options).options == options
