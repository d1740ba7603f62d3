"""`import hashfast` is light, and everything it offers can be reached."""

import os
import subprocess
import sys

import pytest

import hashfast

HEAVY = ("triton", "matplotlib", "kornia", "torchvision", "sklearn", "faiss", "timm", "tyro", "PIL")

LISTING = """
import sys
before = set(sys.modules)
{}
print(",".join(set(sys.modules) - before))
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def loaded_by(code):
    return {name.split(".")[0] for name in run(LISTING.format(code)).split(",")}


def test_nothing_heavy_is_imported():
    loaded = loaded_by("import hashfast; from hashfast import cli")
    assert "hashfast" in loaded
    assert not loaded & {"torch", "numpy", *HEAVY}
    loaded = loaded_by("from hashfast import ops, pack")
    assert "torch" in loaded
    assert not loaded - loaded_by("import torch") & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import hashfast; print(len(hashfast.ops.OPS) > 0)",
        "from hashfast import ops; import hashfast; print(hashfast.ops is ops)",
        "import hashfast.ops; print(hashfast.pack is hashfast.ops.pack)",
        "from hashfast.ops import unpack; import hashfast; print(hashfast.unpack is unpack)",
        "from hashfast import *; print(callable(pack) and callable(search))",
        "from hashfast import search; import hashfast; print(search is hashfast.index.search)",
    ],
)
def test_first_use_may_be_any(code):
    assert run(code) == "True"


def test_every_public_name_can_be_reached():
    for name in hashfast.__all__:
        assert getattr(hashfast, name) is not None
    assert set(hashfast.__all__) <= set(dir(hashfast))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hashfast.nothing


def test_kernels_refuse_another_name(tmp_path):
    folder = os.path.dirname(os.path.dirname(os.path.realpath(hashfast.__file__)))
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=folder, capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONPATH": folder},
    )  # fmt: skip
    assert 'import "hashfast.kernels"' in done.stderr
