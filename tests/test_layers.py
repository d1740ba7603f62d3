"""Dependencies point down: each room may import only what is listed for it."""

import ast
from pathlib import Path

import pytest

import hashfast

ROOT = Path(hashfast.__file__).parent
BOTTOM = {"_cache", "_distributed", "_ext", "_files", "_inputs", "_runs"}
ALLOWED = {
    "_cache": {"_distributed", "_files", "_runs"},
    "_distributed": set(),
    "_ext": set(),
    "_files": set(),
    "_inputs": set(),
    "_runs": {"_files"},
    "_environment": {"__init__"},
    "kernels": set(),
    "ops": {"kernels", *BOTTOM},
    "augment": BOTTOM,
    "data": BOTTOM,
    "plots": BOTTOM,
    "losses": {"ops", *BOTTOM},
    "index": {"ops", *BOTTOM},
    "metrics": {"ops", "plots", *BOTTOM},
    "hashing": {"ops", "losses", "index", "metrics", "data", "augment", "_environment", *BOTTOM},
    "condense": {
        *("ops", "losses", "metrics", "data", "augment", "plots", "hashing", "_environment"),
        *BOTTOM,
    },
    "distill": {
        *("ops", "losses", "index", "metrics", "data", "augment", "hashing", "_environment"),
        *BOTTOM,
    },
    "presets": {"hashing", "condense", "distill"},
    "reproduce": {
        *(
            "presets",
            "distill",
            "hashing",
            "condense",
            "data",
            "augment",
            "plots",
            "losses",
            "index",
            "metrics",
        ),
        *("_environment", *BOTTOM),
    },
}
TOP = {"__init__", "__main__", "cli", "demo"}  # may import everything


def imported_rooms(tree):
    """First part below `hashfast` of every import, those for type checkers left out."""
    skipped = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module]
            if node.module == "hashfast":
                names = [f"hashfast.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "hashfast":
                yield rest.split(".")[0] or "__init__"


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


# rglob does not follow the link to kernels/.
FILES = sorted(
    p for p in (*ROOT.rglob("*.py"), *(ROOT / "kernels").glob("*.py")) if room(p) not in TOP
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = room(path)
    assert here in ALLOWED, f"{here}: a new room needs a line in ALLOWED"
    upward = set(imported_rooms(ast.parse(path.read_text()))) - ALLOWED[here] - {here}
    assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}"
