"""Keep track of which GPU kernels have passed their tests on a GPU, and in which state.

python benchmarks/verify_gpu.py                   say what is verified, changed, never verified
python benchmarks/verify_gpu.py --junit a.xml ... record the kernels whose tests were green

tests/gpu_verified.json holds, for each kernel, the SHA-256 of its sources at its last green run on
a GPU, with device, versions, commit and date; null means it never ran on one. Continuous
integration has no GPU, so this is how a changed kernel that nobody has run is noticed.
"""

import argparse
import hashlib
import itertools
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from _rows import ROOT, commit, today

VERIFIED = ROOT / "tests" / "gpu_verified.json"
CUDA, TRITON = "CUDA C++", "Triton"
# Tests of whatever serves an operation, and further ones by how a kernel's name begins. Those of
# Triton call the launchers themselves, so they tell of kernels that do not serve here, too.
GENERIC = "test_ops"
FURTHER = {"csrc/cuda/hamming_": "test_hamming_cuda", "kernels/hamming": "test_triton_hamming"}
RECORD = ("sources", "device", "torch", "triton", "hashfast", "commit", "date")

Records = dict[str, dict[str, Any] | None]


def kernel_files(root: Path = ROOT) -> list[str]:
    """Files with an operation's GPU kernel, relative to the checkout; others are parts of these."""
    cuda = (root / "csrc" / "cuda").glob("*.cu")
    named = "".join(path.read_text() for path in (root / "hashfast" / "ops").glob("*.py"))
    triton = (p for p in (root / "kernels").glob("*.py") if _named(p) in named)
    return sorted(str(path.relative_to(root)) for path in (*cuda, *triton))


def sources(kernel: str, root: Path = ROOT) -> list[str]:
    """A kernel and what it is made of.

    CUDA C++: the headers of ours it includes, and theirs. Triton: what kernels share, modules that
    it imports, and the operation's file, which holds its gradient and decides when it runs.
    """
    path = root / kernel
    if path.suffix == ".cu":
        found = _with_includes(path)
    else:
        users = (root / "hashfast" / "ops").glob("*.py")
        found = _with_imports(path) | {p for p in users if _named(path) in p.read_text()}
        found |= {p for p in path.parent.glob("_*.py") if p.name != "__init__.py"}
    return sorted(str(p.resolve().relative_to(root.resolve())) for p in found)


def _named(kernel: Path) -> str:
    """How an operation names a Triton kernel's module."""
    return f'"hashfast.kernels.{kernel.stem}:'


def _with_imports(path: Path) -> set[Path]:
    found, left = set(), [path]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            names = re.findall(r"^(?:from|import) hashfast\.kernels\.(\w+)", file.read_text(), re.M)
            left += [path.parent / f"{name}.py" for name in names]
    return found


def _with_includes(path: Path) -> set[Path]:
    found, left = set(), [path.resolve()]
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(), re.MULTILINE):
            header = (file.parent / name).resolve()
            if header.is_file():
                left.append(header)
    return found


def digests(kernel: str, root: Path = ROOT) -> dict[str, str]:
    return {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in sources(kernel, root)
    }


def load(path: Path = VERIFIED) -> Records:
    """Raises ValueError when the file is malformed."""
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected an object")
    for kernel, record in found.items():
        if record is None:
            continue
        if not isinstance(record, dict) or set(record) != set(RECORD):
            raise ValueError(f"{path}: {kernel} must be null or have exactly {', '.join(RECORD)}")
        if not isinstance(record["sources"], dict) or not record["sources"]:
            raise ValueError(f"{path}: the sources of {kernel} must map files to SHA-256")
    return found


def save(records: Records, path: Path = VERIFIED) -> None:
    path.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")


def concerns(records: Records, root: Path = ROOT) -> list[str]:
    """A line for each kernel that no GPU has run as it is now."""
    lines = []
    for kernel, record in sorted(records.items()):
        if record is None:
            lines.append(f"{kernel} has never been verified on a GPU")
            continue
        now, then = digests(kernel, root), record["sources"]
        changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
        if changed:
            lines.append(
                f"{kernel} has changed ({', '.join(changed)}) since it was verified on "
                f"{record['device']}, {record['date']}"
            )
    return lines


def green_operations(reports: Iterable[Path], operations: Set[str]) -> dict[str, set[str]]:
    """Test file -> operations whose tests on a GPU all passed, at least one of them.

    reports: JUnit, of pytest. A test's parameters name its operations; it is on a GPU when they
    name `cuda`, or the test `gpu`. A failed one that names no operation is of all of its file's.
    """
    passed: dict[str, set[str]] = {}
    failed: dict[str, set[str]] = {}
    for case in itertools.chain(
        *(ElementTree.parse(report).iter("testcase") for report in reports)
    ):
        file = case.get("classname", "").rpartition(".")[2]
        test, _, parameters = case.get("name", "").rstrip("]").partition("[")
        words = set(parameters.split("-"))
        named = words & operations
        on_gpu = "cuda" in words or "gpu" in test
        if case.find("failure") is not None or case.find("error") is not None:
            if on_gpu or not named:
                failed.setdefault(file, set()).update(named or operations)
        elif on_gpu and case.find("skipped") is None:
            passed.setdefault(file, set()).update(named)
    return {file: names - failed.get(file, set()) for file, names in passed.items()}


def wanted(kernel: str, root: Path = ROOT) -> tuple[set[str], set[str]]:
    """A kernel's operations, and the files whose tests of them say whether it is right.

    No files where no test runs it on this machine: another kernel serves one of its operations.
    """
    from hashfast.ops import OPS

    path = root / kernel
    files = {file for begin, file in FURTHER.items() if kernel.startswith(begin)}
    if path.suffix == ".cu":
        names = set(re.findall(r'\bm\.impl\("(\w+)"', path.read_text()))
        backend = CUDA
    else:
        module = f"hashfast.kernels.{path.stem}:"
        names = {name for name, op in OPS.items() if (op.triton or "").startswith(module)}
        backend = TRITON
    if all(name in OPS and OPS[name].backend("cuda") == backend for name in names):
        return names, files | {GENERIC}
    return names, files if backend == TRITON else set()


def is_green(kernel: str, green: dict[str, set[str]], root: Path = ROOT) -> bool:
    names, files = wanted(kernel, root)
    return bool(names and files) and all(names <= green.get(file, set()) for file in files)


def record_green(reports: Iterable[Path]) -> list[str]:
    """Update the file from test runs on this machine's GPU; returns the kernels that are green."""
    from hashfast._environment import environment
    from hashfast.ops import OPS

    green = green_operations(reports, set(OPS))
    found = environment("cuda")
    stamp = {key: found[key] for key in ("device", "torch", "triton", "hashfast")}
    records: Records = dict.fromkeys(kernel_files()) | load()
    updated = []
    for kernel in kernel_files():
        if is_green(kernel, green):
            records[kernel] = {
                "sources": digests(kernel),
                **stamp,
                "commit": commit(),
                "date": today(),
            }
            updated.append(kernel)
    save(records)
    return updated


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = ", ".join(f"tests/{name}.py" for name in (GENERIC, *FURTHER.values()))
    parser.add_argument("--junit", type=Path, nargs="+", help=f"reports on a GPU of {files}")
    options = parser.parse_args(arguments)
    if options.junit:
        updated = record_green(options.junit)
        print("\n".join(f"{kernel}: verified" for kernel in updated) or "no kernel was green")
    lines = concerns(load())
    print("\n".join(lines) or "every GPU kernel is verified as it is")
    return 0


if __name__ == "__main__":
    sys.exit(main())
