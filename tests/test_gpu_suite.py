"""The suite for machines with a GPU, run with a Python that only says what it was asked for."""

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

from hashfast.ops import OPS  # noqa: E402

# As a Python that is asked to run a script: what the suite reads, and a failure where FAIL says.
PYTHON = """#!/bin/sh
echo "$@" >>asked
case "$*" in
    *architecture) echo 9.0 ;;
    *operations) printf 'hamming_topk\\nclass_mmd\\n' ;;
    *unrunnable) echo tests/test_that.py ;;
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
            env=os.environ | {"PYTHON": str(python), "PATH": path} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        asked = (checkout / "asked").read_text().splitlines()
        return done.stdout, asked, done.returncode

    return run


def test_steps_come_in_order_and_fit_their_time(suite):
    said, asked, status = suite()
    assert status == 0, said
    limits = re.findall(r"^\[\d+s\] (.*) \(at most (\d+) s\)$", said, re.MULTILINE)
    steps = [name for name, _ in limits]
    assert steps == [
        *("build", "environment", "kernels", "verify", "instruction rates"),
        *("benchmark of searches", "searches of paper 004", "benchmark of mAP"),
        *("benchmark of hamming_topk", "benchmark of class_mmd"),
        *("memcheck", "racecheck", "other tests"),
    ]
    assert all(int(limit) < 500 for _, limit in limits)
    (search,) = (line for line in asked if "--set bars" in line)
    stop, limit = int(re.search(r"--stop (\d+)", search)[1]), dict(limits)["benchmark of searches"]
    assert stop == 2 * int(limit) // 3
    assert sum(line == "benchmarks/_sanitized.py" for line in asked) == 2
    assert any("--ignore=tests/test_that.py" in line for line in asked)


def test_a_step_that_fails_leaves_the_others_alone(suite):
    said, asked, status = suite(FAIL="instruction_rates")
    assert status == 1
    assert "instruction rates: FAILED with 3" in said
    assert "other tests: done" in said
    assert len(asked) == 16


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


def test_searches_for_the_sanitizer_are_of_every_hamming_operation():
    found = list(_sanitized.searches())
    assert {name for name, _ in found} == {name for name in OPS if name.startswith("hamming_")}
    for name, arguments in found:
        made = OPS[name](*arguments)
        assert all(part.numel() for part in ((made,) if isinstance(made, torch.Tensor) else made))
