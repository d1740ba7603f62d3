"""The package as others get it: an sdist with every source, a wheel that works elsewhere."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs a source checkout")

USE = """
import torch, hashfast
from hashfast import _ext
from hashfast.ops import OPS
assert "_C" not in _ext.MISSING, _ext.MISSING
assert OPS["hamming_topk"].backend("cpu") == "C++"
codes = hashfast.pack(torch.eye(16))
print(hashfast.__file__, hashfast.search(codes, codes, 1)[1].ravel().tolist())
import hashfast.kernels
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist, and a wheel built from that sdist without CUDA."""
    out = tmp_path_factory.mktemp("dist")
    environment = os.environ | {"HASHFAST_CUDA": "0"}
    run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT),
        env=environment, cwd=out,
    )  # fmt: skip
    return out


def test_sdist_carries_every_source(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    tracked = [
        str(path.relative_to(ROOT))
        for folder in ("csrc", "kernels", "hashfast")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cpp", ".cu", ".h", ".cuh")
        and "hashfast/kernels" not in str(path)
    ]
    assert not [name for name in tracked if name not in names]


def test_wheel_works_in_another_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"{python}-{python}" in wheel.name  # pybind11 modules are of one version
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "hashfast/_C.abi3.so" in names
    assert any(name.startswith("hashfast/_index.") for name in names)
    assert "hashfast/kernels/class_mmd.py" in names  # Triton reads its sources at run time
    assert not [name for name in names if name.startswith(("kernels/", "csrc/", "tests/"))]
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "hashfast").rglob("*.py")]
    assert not [name for name in modules if name not in names]
    # A bare environment that borrows this one's dependencies, not this checkout.
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    packages = next(home.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "borrowed.pth").write_text(ours + "\n")
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    out = run(str(home / "bin" / "python"), "-c", code + USE, cwd=tmp_path)
    assert str(home) in out
    assert "[0, 1, 2" in out
