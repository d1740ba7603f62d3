"""hashfast: deep hashing for image retrieval, fast, complete and reproducible."""

import importlib
from typing import Any

from hashfast import ops
from hashfast.ops import pack, unpack

__version__ = "0.1.0"

# Loaded on first use, so that `import hashfast` costs little more than `import torch`.
_LAZY = {
    "data": "hashfast.data",
    "hashing": "hashfast.hashing",
    "index": "hashfast.index",
    "losses": "hashfast.losses",
    "metrics": "hashfast.metrics",
    "plots": "hashfast.plots",
    "HashModel": "hashfast.hashing:HashModel",
    "IndexBinaryFlat": "hashfast.index:IndexBinaryFlat",
    "load_index": "hashfast.index:load_index",
    "range_search": "hashfast.index:range_search",
    "search": "hashfast.index:search",
    "evaluate": "hashfast.metrics:evaluate",
}

__all__ = ["ops", "pack", "unpack", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hashfast' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value = importlib.import_module(module)
    return getattr(value, attribute) if attribute else value


def __dir__() -> list[str]:
    return sorted(__all__)
