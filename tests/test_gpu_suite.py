"""The suite for machines with a GPU, run with a Python that only says what it was asked for."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import _sanitized  # noqa: E402
import _suite  # noqa: E402

from hashfast.ops import OPS  # noqa: E402

# As a Python that is asked to run a script: what the suite reads, and a failure where FAIL says.
PYTHON = """#!/bin/sh
echo "$@" >>asked
case "$*" in
    *architecture) echo 9.0 ;;
    *operations) printf 'hamming_topk\\nclass_mmd\\nhamming_hits\\n' ;;
    *"_suite.py tests") printf 'tests/test_this.py\\ntests/test_that.py\\n' ;;
    *pytest*) echo "tested $*"; touch "$(echo "$*" | sed -n 's/.*--junitxml=//p')" ;;
esac
case "$*" in *"${FAIL:-no such script}"*) exit 3 ;; esac
"""
SANITIZER = """#!/bin/sh
shift 4
exec "$@"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def suite(tmp_path):
    """Runs a copy of the suite; returns what was done, what Python was asked, and the status."""
    checkout = tmp_path / "checkout"
    for folder in ("benchmarks", "tests", "tools"):
        (checkout / folder).mkdir(parents=True)
    shutil.copy(BENCHMARKS / "gpu_suite.sh", checkout / "benchmarks")
    (checkout / "tests" / "gpu_verified.json").write_text("{}")
    (tmp_path / "temporary").mkdir()

    def tool(name, text):
        path = checkout / "tools" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(seconds=500, sanitizer=True, **environment):
        python = tool("python", PYTHON)
        if sanitizer:
            tool("compute-sanitizer", SANITIZER)
        path = f"{checkout / 'tools'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", checkout / "benchmarks" / "gpu_suite.sh", tmp_path / "out", str(seconds)],
            env=os.environ
            | {"PYTHON": str(python), "PATH": path, "TMPDIR": str(tmp_path / "temporary")}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        asked = (checkout / "asked").read_text().splitlines()
        assert not list((tmp_path / "temporary").iterdir())
        return done.stdout, asked, done.returncode

    return run


SETS = ["tests-class", "tests-hamming", "tests-sizes", "tests-triton"]


def reports(asked):
    """The names of the reports that kernels are verified by."""
    (line,) = (line for line in asked if "verify_gpu" in line)
    return [Path(path).stem for path in line.partition("--junit")[2].split()]


def test_steps_come_in_order_and_fit_their_time(suite, tmp_path):
    said, asked, status = suite()
    assert status == 0, said
    limits = re.findall(r"^\[\d+s\] (.*) \(at most (\d+) s\)$", said, re.MULTILINE)
    steps = [name for name, _ in limits]
    assert sorted(steps[2:6]) == SETS  # side by side
    assert steps[:2] + steps[6:] == [
        *("build", "environment", "verify", "instruction rates"),
        *("benchmark of searches", "searches of paper 004", "benchmark of mAP"),
        *("benchmark of hamming operations", "benchmark of other operations"),
        *("memcheck", "racecheck", "other tests"),
    ]
    assert all(int(limit) < 500 for _, limit in limits)
    (search,) = (line for line in asked if "--set bars" in line)
    stop, limit = int(re.search(r"--stop (\d+)", search)[1]), dict(limits)["benchmark of searches"]
    assert stop == 2 * int(limit) // 3
    assert reports(asked) == SETS
    assert any("tests/test_ops.py -k cuda and class " in line for line in asked)
    groups = [line.split()[4:-4] for line in asked if "bench_ops" in line]
    assert groups == [["hamming_topk", "hamming_hits"], ["class_mmd"]]
    assert sum(line == "benchmarks/_sanitized.py" for line in asked) == 2
    assert any("tests/test_this.py tests/test_that.py" in line for line in asked)


def test_few_files_are_left_and_the_log_has_what_all_tests_said(suite, tmp_path):
    suite()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"suite.log", "build.log", "environment.json", "gpu_verified.json"}
    log = (tmp_path / "out" / "suite.log").read_text()
    assert log.count("tested -m pytest") == len(SETS) + 1


def test_a_step_that_fails_leaves_the_others_alone(suite):
    said, asked, status = suite(FAIL="instruction_rates")
    assert status == 1
    assert "instruction rates: FAILED with 3" in said
    assert "other tests: done" in said
    assert len(asked) == len(suite()[1]) - len(asked)


def test_tests_that_break_off_verify_nothing(suite):
    """A report of one is not whole; those of the others are."""
    said, asked, status = suite(FAIL="test_hamming_cuda")
    assert status == 1
    assert "tests-sizes: FAILED with 3" in said
    assert reports(asked) == [name for name in SETS if name != "tests-sizes"]


def test_without_the_cuda_library_the_others_are_built(suite):
    said, _, status = suite(FAIL="setup.py")
    assert status == 1
    assert "build: FAILED with 3" in said
    assert "build for the CPU alone (at most" in said


def test_without_a_sanitizer_its_steps_are_skipped(suite):
    said, asked, status = suite(sanitizer=False, CUDA_HOME="/no/such/folder")
    if shutil.which("compute-sanitizer"):
        pytest.skip("there is one")
    assert status == 0
    assert "memcheck, racecheck: skipped, there is no compute-sanitizer" in said
    assert "benchmarks/_sanitized.py" not in asked


def test_without_time_steps_are_skipped(suite):
    said, _, status = suite(seconds=20)
    assert status == 1
    assert "instruction rates: skipped, no time is left" in said


def test_other_tests_are_runnable_and_those_of_the_gpu_first(tmp_path):
    for name in ("ops", "a", "metrics", "hamming_cuda", "index", "index_devices", "hamming_b"):
        (tmp_path / f"test_{name}.py").write_text("import torch")
    (tmp_path / "test_c.py").write_text("import no_such_package")
    found = [Path(path).stem for path in _suite.other_tests(tmp_path)]
    expected = ["index_devices", "hamming_b", "index", "metrics", "a"]
    assert found == [f"test_{name}" for name in expected]


def test_a_missing_library_is_a_failure(monkeypatch, capsys):
    for missing, status in (({}, 0), ({"_C_cuda": "not built"}, 1)):
        monkeypatch.setattr(_suite, "describe", lambda missing=missing: {"missing": missing})
        assert _suite.main(["environment"]) == status
        assert json.loads(capsys.readouterr().out) == {"missing": missing}


def test_searches_for_the_sanitizer_are_of_every_hamming_operation():
    found = list(_sanitized.searches())
    assert {name for name, _ in found} == {name for name in OPS if name.startswith("hamming_")}
    for name, arguments in found:
        made = OPS[name](*arguments)
        assert all(part.numel() for part in ((made,) if isinstance(made, torch.Tensor) else made))
