"""hashfast: deep hashing for image retrieval, fast, complete and reproducible."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded on first use, so that `import hashfast`, and with it `hashfast --help`, costs nothing.
_LAZY = {
    "condense": "hashfast.condense",
    "data": "hashfast.data",
    "distill": "hashfast.distill",
    "hashing": "hashfast.hashing",
    "index": "hashfast.index",
    "losses": "hashfast.losses",
    "metrics": "hashfast.metrics",
    "ops": "hashfast.ops",
    "plots": "hashfast.plots",
    "presets": "hashfast.presets",
    "reproduce": "hashfast.reproduce",
    "HashModel": "hashfast.hashing:HashModel",
    "IndexBinaryAuto": "hashfast.index:IndexBinaryAuto",
    "IndexBinaryFlat": "hashfast.index:IndexBinaryFlat",
    "IndexBinaryMultiHash": "hashfast.index:IndexBinaryMultiHash",
    "IndexBinarySharded": "hashfast.index:IndexBinarySharded",
    "evaluate": "hashfast.metrics:evaluate",
    "load_index": "hashfast.index:load_index",
    "mean_average_precision": "hashfast.metrics:mean_average_precision",
    "pack": "hashfast.ops:pack",
    "pairs": "hashfast.index:pairs",
    "range_search": "hashfast.index:range_search",
    "search": "hashfast.index:search",
    "unpack": "hashfast.ops:unpack",
}

__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hashfast' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = globals()[name] = getattr(value, attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
