import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from hashfast.cli._run import Output, table

OPTIONAL = {
    "timm": "more backbones: pip install 'hashfast[train]'",
    "matplotlib": "plots: pip install 'hashfast[plot]'",
    "faiss-cpu": "comparison with faiss: pip install 'hashfast[bench]'",
    "pyarrow": "Parquet: pip install 'hashfast[parquet]'",
    "pymilvus": "export to Milvus: pip install 'hashfast[milvus]'",
    "ray": "encoding on many machines: pip install 'hashfast[ray]'",
    "triton": "GPU kernels without a CUDA toolkit: comes with torch's CUDA builds",
}


@dataclass(frozen=True)
class Command:
    """Which backend serves each operation on each device, and why a faster one is missing."""

    def run(self) -> Output:
        import torch

        from hashfast import _ext
        from hashfast._environment import environment
        from hashfast.ops import OPS
        from hashfast.ops._op import cpu_level

        gpu = torch.cuda.is_available()
        facts = environment("cuda" if gpu else "cpu")
        facts["cpu kernels"] = (
            f"C++ for {cpu_level()}" if "_C" not in _ext.MISSING else f"none: {_ext.MISSING['_C']}"
        )
        facts["cuda kernels"] = _ext.MISSING.get("_C_cuda", "loaded")
        facts["hash tables"] = _module(_ext.index)
        facts["gpu"] = "available" if gpu else "none"
        operations = {
            name: {
                device: {"backend": op.backend(device), "why": op.why_reference(device)}
                for device in ("cpu", "cuda")
            }
            for name, op in OPS.items()
        }
        packages = {name: _version(name) for name in OPTIONAL}
        text = "\n".join(
            [
                *(f"{name:<13} {value}" for name, value in facts.items()),
                "",
                table(
                    ["operation", "cpu", "cuda"],
                    [
                        [name, *(_cell(**found[device]) for device in ("cpu", "cuda"))]
                        for name, found in operations.items()
                    ],
                ),
                "",
                *(
                    f"{name:<13} {version or f'not installed ({OPTIONAL[name]})'}"
                    for name, version in packages.items()
                ),
            ]
        )
        data = {"environment": facts, "operations": operations, "packages": packages}
        return Output(text, data)


def _module(load: Callable[[], object]) -> str:
    try:
        load()
    except ImportError as error:
        return f"none: {error}"
    return "loaded"


def _cell(backend: str, why: str) -> str:
    return f"{backend} ({why})" if why else backend


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
