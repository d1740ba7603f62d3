"""nvcc and the tool that shows what it made, wherever they are."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def nvcc() -> str | None:
    """The compiler of CUDA_HOME, the one on PATH, or that of the usual place."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    candidates += [Path(found)] if (found := shutil.which("nvcc")) else []
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((str(path) for path in candidates if path.is_file()), None)


def cuobjdump() -> str | None:
    """The toolkit's, or the one that Triton brings."""
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if found or spec is None or spec.origin is None:
        return found
    path = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(path) if path.is_file() else None


def compile_cuda(
    source: Path, made: Path, architectures: Sequence[str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Compile for architectures such as 80 or 90a, machine code only, the first alone if it is one.

    Raises RuntimeError, with what nvcc says, when there is none or it fails.
    """
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("no nvcc: install a CUDA toolkit, or name its folder in CUDA_HOME")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    command = [compiler, "-O3", "-std=c++20", *targets, *options, "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done
