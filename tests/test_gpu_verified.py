"""GPU kernels that no GPU has run as they are now are reported, as warnings.

Continuous integration has no GPU, so this cannot be a failure. What fails is a record that has
fallen out of step with the files.
"""

import hashlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import verify_gpu  # noqa: E402

from hashfast import _environment  # noqa: E402
from hashfast.ops import OPS  # noqa: E402
from hashfast.ops._op import Op  # noqa: E402

STAMP = ("device", "torch", "triton", "hashfast")


def test_every_kernel_is_covered_and_its_state_reported():
    records = verify_gpu.load()
    assert sorted(records) == verify_gpu.kernel_files()
    for line in verify_gpu.concerns(records):
        warnings.warn(line, stacklevel=1)


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with one kernel of each kind."""
    files = {
        "csrc/checks.h": "int check;",
        "csrc/cuda/scan.cu": '#include <tuple>\n#include "../checks.h"\nm.impl("scan", f);',
        "csrc/cuda/other.h": "not included",
        "kernels/__init__.py": "",
        "kernels/_blocks.py": "SIZE = 32",
        "kernels/mean.py": "from hashfast.kernels.rows import ROWS\nkernel = 1",
        "kernels/rows.py": "ROWS = 4",
        "kernels/unused.py": "",
        "hashfast/ops/mean.py": 'triton="hashfast.kernels.mean:forward"',
        "hashfast/ops/scan.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_sources_are_includes_shared_files_and_the_operation(checkout):
    assert verify_gpu.kernel_files(checkout) == ["csrc/cuda/scan.cu", "kernels/mean.py"]
    assert verify_gpu.sources("csrc/cuda/scan.cu", checkout) == [
        "csrc/checks.h",
        "csrc/cuda/scan.cu",
    ]
    assert verify_gpu.sources("kernels/mean.py", checkout) == [
        "hashfast/ops/mean.py",
        "kernels/_blocks.py",
        "kernels/mean.py",
        "kernels/rows.py",
    ]
    digest = verify_gpu.digests("csrc/cuda/scan.cu", checkout)["csrc/checks.h"]
    assert digest == hashlib.sha256(b"int check;").hexdigest()


def test_a_changed_header_is_noticed(checkout):
    kernel = "csrc/cuda/scan.cu"
    record = dict.fromkeys(verify_gpu.RECORD, "") | {
        "sources": verify_gpu.digests(kernel, checkout),
        "device": "a GPU",
        "date": "2026-01-01",
    }
    assert verify_gpu.concerns({kernel: record}, checkout) == []
    (checkout / "csrc/checks.h").write_text("int changed;")
    (line,) = verify_gpu.concerns({kernel: record, "kernels/mean.py": record}, checkout)[:1]
    assert "has changed (csrc/checks.h) since it was verified on a GPU, 2026-01-01" in line
    assert "never" in verify_gpu.concerns({kernel: None}, checkout)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        (json.dumps({"a.cu": {"sources": {}}}), r"a\.cu must be null or have exactly"),
        (json.dumps({"a.cu": dict.fromkeys(verify_gpu.RECORD, "")}), "must map files"),
    ],
)
def test_malformed_record(content, message, tmp_path):
    path = tmp_path / "gpu_verified.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        verify_gpu.load(path)


def report_of(path, **files):
    """A JUnit report: for each file its tests, (name, outcome)."""
    cases = "".join(
        f'<testcase classname="tests.{file}" name="{name}">{outcome and f"<{outcome}/>"}</testcase>'
        for file, tests in files.items()
        for name, outcome in tests
    )
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_green_needs_a_passed_test_on_a_gpu_and_no_failed_one(tmp_path):
    operations = {"scan", "mean", "sort", "pick"}
    one = report_of(
        tmp_path / "one.xml",
        test_ops=[
            ("test_value[scan-torch.float32-cuda]", ""),
            ("test_value[scan-torch.float16-cuda]", "skipped"),
            ("test_value[mean-torch.float32-cuda]", ""),
            ("test_strided_inputs[mean-cuda]", "failure"),
            ("test_value[sort-torch.float32-cpu]", ""),
            ("test_strided_inputs[pick-cuda]", "skipped"),
            ("test_opcheck[scan]", "failure"),  # on a CPU
            ("test_opcheck", ""),
        ],
    )
    two = report_of(
        tmp_path / "two.xml",
        test_launchers=[("test_on_a_gpu[sort]", ""), ("test_on_a_gpu[pick]", "error")],
        test_others=[("test_on_a_gpu[sort]", ""), ("test_it_compiles", "failure")],
    )
    green = {"test_ops": {"scan"}, "test_launchers": {"sort"}, "test_others": set()}
    assert verify_gpu.green_operations([one, two], operations) == green
    assert verify_gpu.green_operations([two], operations).keys() == {
        "test_launchers",
        "test_others",
    }


OPERATIONS = {"hamming_topk", "hamming_histogram", "hamming_range_count", "hamming_range"}


@pytest.fixture
def serve(monkeypatch):
    """Makes a backend serve every operation on a GPU."""

    def by(backend):
        monkeypatch.setattr(Op, "backend", lambda self, device: backend)

    return by


def test_kernels_for_searches_need_more_than_the_generic_tests(serve):
    kernel, both = "csrc/cuda/hamming_range.cu", {"hamming_range", "hamming_range_count"}
    serve("CUDA C++")
    assert verify_gpu.wanted(kernel) == (both, {"test_ops", "test_hamming_cuda"})
    assert verify_gpu.is_green(kernel, {"test_ops": both, "test_hamming_cuda": OPERATIONS})
    assert not verify_gpu.is_green(
        kernel, {"test_ops": both, "test_hamming_cuda": {"hamming_range"}}
    )
    assert not verify_gpu.is_green(kernel, {"test_ops": both})
    serve("Triton")
    assert not verify_gpu.is_green(kernel, {"test_ops": both, "test_hamming_cuda": both})


def test_triton_kernels_that_do_not_serve_are_green_by_their_launchers(serve):
    kernel, launched = "kernels/hamming.py", {"test_triton_hamming": OPERATIONS}
    serve("CUDA C++")
    assert verify_gpu.wanted(kernel) == (OPERATIONS, {"test_triton_hamming"})
    assert verify_gpu.is_green(kernel, launched)
    assert not verify_gpu.is_green(kernel, {"test_ops": OPERATIONS})
    assert not verify_gpu.is_green("kernels/class_mmd.py", {"test_ops": set(OPS)})
    serve("Triton")
    assert not verify_gpu.is_green(kernel, launched)
    assert verify_gpu.is_green(kernel, launched | {"test_ops": OPERATIONS})
    assert verify_gpu.is_green("kernels/class_mmd.py", {"test_ops": set(OPS)})


def test_further_tests_name_what_they_test_on_a_gpu():
    """As `green_operations` reads the names; on a machine with a GPU they are not skipped."""
    files = [f"tests/{file}.py" for file in verify_gpu.FURTHER.values()]
    collect = ["-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    collected = subprocess.run(
        [sys.executable, *collect, *files], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    searches = {name for name in OPS if name.startswith("hamming")}
    named = {
        (file, operation)
        for file, test, parameters in re.findall(r"/(\w+)\.py::(\w+)\[(.+)\]", collected)
        for operation in searches & set(parameters.split("-"))
        if "gpu" in test or "cuda" in parameters.split("-")
    }
    assert named == {(file, name) for file in verify_gpu.FURTHER.values() for name in searches}


def test_recorded_is_what_reports_say(serve, tmp_path, monkeypatch, capsys):
    serve("CUDA C++")
    monkeypatch.setattr(verify_gpu, "VERIFIED", tmp_path / "gpu_verified.json")
    monkeypatch.setattr(verify_gpu.load, "__defaults__", (verify_gpu.VERIFIED,))
    monkeypatch.setattr(verify_gpu.save, "__defaults__", (verify_gpu.VERIFIED,))
    monkeypatch.setattr(_environment, "environment", lambda device: dict.fromkeys(STAMP, "some"))
    verify_gpu.save({})
    found = [(f"test_all[{name}-cuda]", "") for name in OPS]
    reports = [
        report_of(tmp_path / f"{file}.xml", **{file: found})
        for file in ("test_ops", "test_hamming_cuda")
    ]
    failed = [("test_on_a_gpu[hamming_hits]", ""), ("test_in_a_graph", "failure")]
    reports.append(report_of(tmp_path / "three.xml", test_triton_hamming=failed))
    assert verify_gpu.main(["--junit", *map(str, reports)]) == 0
    green = {name for name, record in verify_gpu.load().items() if record}
    assert green == {name for name in verify_gpu.kernel_files() if name.endswith(".cu")}
    assert "csrc/cuda/hamming_topk.cu: verified" in capsys.readouterr().out
