"""`import hashfast` is light, and everything it offers can be reached."""

import os
import subprocess
import sys

import pytest

import hashfast

HEAVY = ("triton", "matplotlib", "kornia", "torchvision", "sklearn", "faiss", "timm", "tyro", "PIL")

LISTING = """
import sys, torch
before = set(sys.modules)
import hashfast
print(",".join(set(sys.modules) - before))
"""


def test_nothing_heavy_is_imported():
    out = subprocess.run(
        [sys.executable, "-c", LISTING], capture_output=True, text=True, check=True
    ).stdout
    loaded = {name.split(".")[0] for name in out.strip().split(",")}
    assert "hashfast" in loaded
    assert not loaded & set(HEAVY)


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
