"""What gpu_suite.sh asks of Python.

python benchmarks/_suite.py environment   versions, device, backends, as JSON; fails where a library
                                          is missing
python benchmarks/_suite.py architecture  the GPU's, as TORCH_CUDA_ARCH_LIST takes it
python benchmarks/_suite.py tests         test files besides those of the kernels, in order; without
                                          those that need a package this machine lacks
python benchmarks/_suite.py operations    names of the operations, gradients last
"""

import ast
import importlib
import json
import sys
from pathlib import Path

from _rows import ROOT, commit, today

KERNELS = ("test_ops", "test_hamming_cuda")
FIRST = ("test_index_gpu", "test_index_devices", "test_hamming", "test_index", "test_metrics")


def imports(path: Path) -> list[str]:
    """Modules imported at the top level of a file."""
    modules = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return modules


def missing_package(path: Path) -> str:
    """The package without which a test file cannot be imported; empty if there is none.

    A missing module of our own is no reason: that file is run, and fails.
    """
    for module in imports(path):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            if name and not (ROOT / name).exists() and not list(ROOT.glob(f"*/{name}.py")):
                return name
    return ""


def unrunnable(folder: Path = ROOT / "tests") -> dict[str, str]:
    """Test file -> the package it lacks."""
    found = {path: missing_package(path) for path in sorted(folder.glob("test_*.py"))}
    return {str(path): package for path, package in found.items() if package}


def other_tests(folder: Path = ROOT / "tests") -> list[str]:
    """Runnable test files besides those of KERNELS. Time runs out, so those on a GPU are first."""
    without = unrunnable(folder)
    files = [path for path in sorted(folder.glob("test_*.py")) if path.stem not in KERNELS]
    files.sort(key=lambda path: [not path.stem.startswith(first) for first in FIRST])
    return [str(path) for path in files if str(path) not in without]


def describe() -> dict:
    from hashfast import _ext
    from hashfast._environment import environment
    from hashfast.ops import OPS

    return {
        **environment("cuda"),
        "cpu": environment("cpu")["device"],
        "backends": {name: op.backend("cuda") for name, op in OPS.items()},
        "missing": dict(_ext.MISSING),
        "commit": commit(),
        "date": today(),
    }


def main(arguments: list[str]) -> int:
    import torch

    match arguments:
        case ["environment"]:
            found = describe()
            print(json.dumps(found, indent=2))
            return 1 if found["missing"] else 0
        case ["architecture"]:
            print("{}.{}".format(*torch.cuda.get_device_capability()))
        case ["tests"]:
            for path, package in unrunnable().items():
                print(f"{path} needs {package}", file=sys.stderr)
            print("\n".join(other_tests()))
        case ["operations"]:
            from hashfast.ops import OPS

            print("\n".join(sorted(OPS, key=lambda name: (name.endswith("_backward"), name))))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
