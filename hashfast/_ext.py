"""Loads the compiled libraries; `MISSING` keeps why one is not there.

`_C` holds the CPU kernels, `_C_cuda` the CUDA ones. They register themselves with PyTorch's
dispatcher when loaded, so there is nothing to import from them. `_index`, which knows nothing of
torch, is a module of its own.
"""

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("_C", "_C_cuda")
MISSING: dict[str, str] = {}


def _load(name: str) -> None:
    library = Path(__file__).with_name(f"{name}.abi3.so")
    if not library.is_file():
        MISSING[name] = "not built"
        return
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        MISSING[name] = f"built, but failed to load: {error} {error.__cause__ or ''}".strip()
        warnings.warn(f"hashfast.{name}: {MISSING[name]}", RuntimeWarning, stacklevel=2)


for _name in LIBRARIES:
    _load(_name)


def index() -> Any:
    """The compiled module of multi-index hashing; raises ImportError saying how to get it."""
    try:
        return importlib.import_module("hashfast._index")
    except ImportError as error:
        raise ImportError(
            f"the compiled module hashfast._index cannot be loaded ({error}): build the package "
            "again, `make build` in a checkout or `pip install -e .`"
        ) from error
