"""GPU kernels that no GPU has run as they are now are reported, as warnings.

Continuous integration has no GPU, so this cannot be a failure. What fails is a record that has
fallen out of step with the files.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import verify_gpu  # noqa: E402


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


def test_green_needs_a_passed_test_on_cuda_and_no_failed_one(tmp_path):
    report = tmp_path / "junit.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase name="test_value[scan-torch.float32-cuda]"/>
        <testcase name="test_value[scan-torch.float16-cuda]"><skipped/></testcase>
        <testcase name="test_value[mean-torch.float32-cuda]"/>
        <testcase name="test_strided_inputs[mean-cuda]"><failure/></testcase>
        <testcase name="test_value[sort-torch.float32-cpu]"/>
        <testcase name="test_strided_inputs[pick-cuda]"><skipped/></testcase>
        <testcase name="test_opcheck"/>
        </testsuite></testsuites>"""
    )
    operations = {"scan", "mean", "sort", "pick"}
    assert verify_gpu.green_operations(report) & operations == {"scan"}
