"""Builds the native extensions; the package's metadata is in pyproject.toml.

hashfast._C       CPU kernels, always built
hashfast._C_cuda  CUDA kernels, built when torch has CUDA and a toolkit is found
hashfast._index   pybind11 module of csrc/index, always built

HASHFAST_CUDA=auto (default) builds what it can and says what it decided, 0 leaves the CUDA kernels
out, 1 insists on them. TORCH_CUDA_ARCH_LIST chooses the GPU architectures. The kernels use
torch's stable ABI, so one build loads on torch 2.11 and later.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11


def find_cuda_home() -> str | None:
    """A toolkit that has its compiler and headers; `nvcc` on PATH may be a wrapper elsewhere."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates += [nvcc and Path(nvcc).resolve().parent.parent, "/usr/local/cuda"]
    candidates += sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    for home in candidates:
        needed = ("include/cuda_runtime.h", "bin/nvcc")
        if home and all((Path(home) / name).is_file() for name in needed):
            return str(home)
    return None


def toolkit_version(home: str) -> tuple[int, int]:
    said = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True)
    found = re.search(r"release (\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


# torch's build helpers read these when they are imported.
cuda_home = find_cuda_home()
version = toolkit_version(cuda_home) if cuda_home else (0, 0)
if cuda_home:
    os.environ["CUDA_HOME"] = cuda_home
else:
    os.environ.pop("CUDA_HOME", None)
blackwell = ";10.0" if version >= (12, 8) else ""
os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"7.5;8.0;9.0{blackwell}+PTX")

import torch  # noqa: E402
from pybind11.setup_helpers import Pybind11Extension  # noqa: E402
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def sources(folder: str, ending: str) -> list[str]:
    return sorted(str(path) for path in Path("csrc", folder).glob(f"*{ending}"))


def headers() -> list[str]:
    return sorted(str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".cuh"))


cxx = ["-O3", "-g0", "-std=c++20", "-Wall", "-Wno-unknown-pragmas", STABLE_ABI]
extensions = [
    CppExtension(
        "hashfast._C",
        sources("cpu", ".cpp"),
        extra_compile_args={"cxx": cxx},
        depends=headers(),
        py_limited_api=True,
    )
]

# Knows nothing of torch; pybind11 modules are built for one version of Python.
extensions.append(
    Pybind11Extension(
        "hashfast._index",
        sources("index", ".cpp"),
        extra_compile_args=["-O3", "-g0", "-std=c++20", "-Wall", "-Wno-unknown-pragmas"],
        depends=headers(),
    )
)

mode = os.environ.get("HASHFAST_CUDA", "auto")
if mode not in ("auto", "0", "1"):
    sys.exit(f"HASHFAST_CUDA is {mode!r}; expected auto, 0 or 1")
if mode == "0":
    decision = "off (HASHFAST_CUDA=0)"
elif torch.version.cuda is None:
    decision = "off: this torch has no CUDA"
elif cuda_home is None:
    decision = "off: no CUDA toolkit with bin/nvcc and include/cuda_runtime.h was found"
elif version[0] != int(torch.version.cuda.split(".")[0]):
    decision = f"off: the toolkit is CUDA {version[0]}.{version[1]}, torch's {torch.version.cuda}"
else:
    decision = f"on: toolkit {cuda_home}, architectures {os.environ['TORCH_CUDA_ARCH_LIST']}"
    nvcc = ["-O3", "-std=c++20", "-DUSE_CUDA", "--resource-usage", STABLE_ABI]
    extensions.append(
        CUDAExtension(
            "hashfast._C_cuda",
            sources("cuda", ".cu"),
            extra_compile_args={"cxx": cxx, "nvcc": nvcc},
            depends=headers(),
            py_limited_api=True,
        )
    )
if mode == "1" and not decision.startswith("on"):
    sys.exit(f"HASHFAST_CUDA=1, but CUDA kernels are {decision}")
print(f"hashfast: torch {torch.__version__}; CUDA kernels {decision}", file=sys.stderr)

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtension})
