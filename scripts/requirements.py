"""Print the requirements of the package and of the extras named, from pyproject.toml.

`pip install -e .[extras]` would build the package first and again after each change of a kernel;
this way dependencies and the build are separate steps.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = sys.argv[1].split(",") if len(sys.argv) > 1 else []
groups = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
print("\n".join(sorted({requirement for group in groups for requirement in group})))
