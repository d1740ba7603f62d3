"""What every command shares: options from a file, errors, warnings and interruptions."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
import tyro

from hashfast import cli
from hashfast.cli import main
from hashfast.cli._run import Output, table


@dataclass(frozen=True)
class Command:
    """A command with an option of every kind.

    Its second paragraph
    has two lines.
    """

    source: Annotated[Path, tyro.conf.Positional]
    image: tuple[Path, ...]
    learning_rate: float = 0.1
    epochs: int = 5
    compile: bool = False
    verbose: bool = True
    amp: Literal["no", "bf16"] = "bf16"
    root: Path | None = None
    quantization: str = "original"
    bank: bool | None = None

    def run(self) -> Output:
        return Output("done", vars(self))


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Exit status, standard output and standard error of `Command` as `hashfast demo`."""

    def call(*arguments, config=None, command=Command):
        module = SimpleNamespace(Command=command)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
        if config is not None:
            path = tmp_path / "options.yaml"
            path.write_text(config)
            arguments = (*arguments, "--config", str(path))
        status = main(["demo", *arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def options(call):
    """The options that come of arguments and a file."""

    def options(config, *arguments):
        status, out, err = call(*arguments, "--json", config=config)
        assert status == 0, err
        return json.loads(out)

    return options


def test_the_file_and_the_command_line_complete_each_other(options):
    found = options("image: a.png\nlearning-rate: 1e-3\nepochs: 7\n", "here", "--epochs", "8")
    assert found["source"] == "here"
    assert found["image"] == ["a.png"]
    assert found["learning_rate"] == 0.001
    assert found["epochs"] == 8
    assert found["compile"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ["here", "--epochs", "8"],
        ["--epochs", "8", "here"],
        ["here", "--epochs=8"],
    ],
)
def test_lists_do_not_swallow_what_follows(options, arguments):
    found = options("image: [a.png, b.png]", *arguments)
    assert (found["source"], found["epochs"]) == ("here", 8)
    assert found["image"] == ["a.png", "b.png"]
    found = options("image: [a.png, b.png]", *arguments, "--image", "c.png")
    assert found["image"] == ["c.png"]


def test_positional_arguments_of_the_file_count_when_none_is_given(options):
    config = "image: [a.png, b.png]\nsource: there\n"
    assert options(config)["source"] == "there"
    assert options(config, "--epochs", "8")["source"] == "there"
    assert options(config, "here")["source"] == "here"


def test_values_are_read_as_on_the_command_line(options, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = options(
        "source: ~/pictures\nimage: ['~/a.png']\nroot: ~/data\ncompile: 'yes'\nverbose: no\n"
        "amp: no\nquantization: none\nlearning_rate: -1\n"
    )
    assert found["source"] == "/home/me/pictures"
    assert found["image"] == ["/home/me/a.png"]
    assert found["root"] == "/home/me/data"
    assert (found["compile"], found["verbose"]) == (True, False)
    assert (found["amp"], found["quantization"]) == ("no", "none")
    assert found["learning_rate"] == -1
    empty = options("source: x\nimage: a\nroot: ~\nepochs: null\ncompile:\nverbose: ''\n")
    assert (empty["root"], empty["epochs"]) == (None, 5)
    assert (empty["compile"], empty["verbose"], empty["bank"]) == (False, True, None)
    for word, value in (("yes", True), ("false", False)):
        assert options(f"source: x\nimage: a\nbank: {word}\n")["bank"] is value


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("epochs: 1.5", "--epochs"),
        ("epochs: [1, 2]", "options.yaml: epochs is ['1', '2']; expected one value"),
        ("source: {a: 1}", "options.yaml: source is {'a': '1'}; expected one value"),
        ("compile: perhaps", "options.yaml: compile is perhaps; expected true or false"),
        ("bank: perhaps", "options.yaml: bank is perhaps; expected true or false"),
        ("compile: [true]", "options.yaml: compile is ['true']; expected one value"),
        ("amp: fp8", "fp8"),
        ("bitz: 3", "options.yaml: unknown option(s) bitz; known: source, image"),
        ("- a\n- b", "options.yaml holds no options"),
        ("", "options.yaml holds no options"),
        ("a: [", "options.yaml"),
    ],
)
def test_a_wrong_file_is_bad_usage(call, config, said):
    status, out, err = call("here", "--image", "a.png", config=config)
    assert status == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_wrong_values_are_traced_to_the_file(call):
    status, _, err = call("here", "--image", "a.png", config="epochs: many")
    assert status == 2
    assert "options.yaml gives --epochs=many" in err


def test_help_reads_as_the_docstring_does(call):
    status, out, _ = call("--help")
    assert status == 0
    paragraphs = out.split("\n\n")[1:4]
    assert paragraphs[:2] == [Command.__doc__.split("\n")[0], "Its second paragraph has two lines."]
    assert paragraphs[2].startswith("With --json")


def failing(error, **attributes):
    def run(self):
        raise error

    return dataclass(frozen=True)(type("Command", (), {"run": run, **attributes}))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("bits is 3"), "hashfast demo: bits is 3\n"),
        (EOFError(), "hashfast demo: EOFError\n"),
        (KeyboardInterrupt(), "hashfast demo: interrupted\n"),
    ],
)
def test_errors_are_one_line(call, error, said):
    assert call(command=failing(error)) == (1, "", said)


def test_an_interrupted_run_can_be_resumed(call):
    resumable = failing(KeyboardInterrupt(), __annotations__={"resume": bool}, resume=False)
    status, _, err = call(command=resumable)
    assert status == 1
    assert "interrupted; --resume continues" in err


def test_interrupted_while_modules_load(capsys, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "hashfast train: interrupted\n"


def test_warnings_are_one_line_without_a_path(call):
    def run(self):
        warnings.warn("three pictures\n  are unreadable", stacklevel=1)
        return Output("done", {})

    show = warnings.showwarning
    warns = dataclass(frozen=True)(type("Command", (), {"run": run}))
    status, out, err = call(command=warns)
    assert (status, out) == (0, "done\n")
    assert err == "hashfast demo: warning: three pictures are unreadable\n"
    assert warnings.showwarning is show


def program(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "hashfast", *arguments],
        stderr=subprocess.PIPE, text=True, env=os.environ, **options,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["train", "--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with program(*arguments, stdout=writer) as process:
        os.close(writer)
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_tables_align_numbers_right_and_text_left():
    rows = [["9", "cat", "1.5", "-"], ["10", "a dog", "-20", "3"]]
    assert table(["rank", "class", "x", "id"], rows).splitlines() == [
        "rank  class    x  id",
        "----  -----  ---  --",
        "   9  cat    1.5  -",
        "  10  a dog  -20  3",
    ]
