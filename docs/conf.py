"""Sphinx settings. Pages of methods and of the API are made from the docstrings at each build."""

import importlib
from pathlib import Path

from sphinx.application import Sphinx

import hashfast
from hashfast import condense
from hashfast.losses import METHODS

project = "hashfast"
release = hashfast.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["generated/*/_*"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Losses inherit their call and checks: described once, with the base.
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "bank, head, needs, similarity, original_quantization",
}
napoleon_custom_sections = [("Results", "params_style")]


GENERATED = Path(__file__).parent / "generated"
API = {
    "losses": "The base of every loss, and the terms to drop into your own.",
    "metrics": "Retrieval quality of codes.",
    "index": "Search over packed codes, galleries, near-duplicates.",
    "ops": "The operations underneath, with a reference, a gradient and compiled kernels.",
    "hashing": "Models, training, encoding.",
    "condense": "Condensation of training sets.",
    "augment": "Augmentations for training, deformations for testing.",
    "data": "Datasets and protocols.",
    "plots": "Figures.",
    "reproduce": "Tables and figures of papers.",
}
METHOD = """# {title}

```bash
hashfast train --method {name} --quantization hswd --out runs/{name}
```

```python
criterion = hashfast.losses.{title}(num_classes=10, bits=32)
```

How it is called, what it checks and the choices of quantisation are those of
[every loss](../api/losses.md).

{documented}
"""
CONDENSATION = """# Methods of condensation

```bash
hashfast condense --method iem --ipc 10 --out runs/ten
```

Options that a method leaves open are those of [every condensation](../guides/condensation.md).

{methods}
"""
CONDENSATION_METHOD = """## {name}

{documented}
Its own settings, with {ipc} images a class: {defaults}.
"""


def documented(path: str) -> str:
    kind = "autoclass" if isinstance(_resolve(path), type) else "autofunction"
    return f"```{{eval-rst}}\n.. {kind}:: {path}\n```\n"


def _resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public(part: str) -> list[str]:
    """Names a part exports, without tables and without the methods, which have their own pages."""
    names = importlib.import_module(f"hashfast.{part}").__all__
    methods = {method.__name__ for method in METHODS.values()} if part == "losses" else set()
    paths = [f"hashfast.{part}.{name}" for name in names if name not in methods]
    return [path for path in paths if callable(_resolve(path))]


def pages() -> dict[str, str]:
    """File name under `generated` -> Markdown."""
    made = {}
    rows = []
    for name, method in METHODS.items():
        title = method.__name__
        body = documented(f"hashfast.losses.{title}")
        made[f"methods/{name}.md"] = METHOD.format(name=name, title=title, documented=body)
        about = (method.__doc__ or "").splitlines()[0]
        rows.append(f"| [{title}](methods/{name}.md) | `{name}` | {about} |")
    made["methods.md"] = _table_page("Methods", rows, [f"methods/{name}" for name in METHODS])
    made["condensation.md"] = CONDENSATION.format(
        methods="\n".join(_condensation(name) for name in condense.METHODS)
    )
    rows = []
    for part, about in API.items():
        blocks = "\n".join(documented(path) for path in public(part))
        made[f"api/{part}.md"] = f"# hashfast.{part}\n\n{about}\n\n{blocks}"
        rows.append(f"| [`hashfast.{part}`](api/{part}.md) | | {about} |")
    made["api.md"] = _table_page("API", rows, [f"api/{part}" for part in API])
    return made


def _condensation(name: str) -> str:
    method, ipc = condense.METHODS[name], condense.CondenseConfig.ipc
    documented = f"```{{eval-rst}}\n.. autoclass:: {method.__module__}.{method.__name__}\n"
    return CONDENSATION_METHOD.format(
        name=name,
        documented=f"{documented}   :no-members:\n```\n",
        ipc=ipc,
        defaults=", ".join(f"`{key}={value}`" for key, value in method.defaults(ipc).items()),
    )


def _table_page(title: str, rows: list[str], children: list[str]) -> str:
    tree = "\n".join(["```{toctree}", ":hidden:", *children, "```"])
    return "\n".join([f"# {title}", "", "| | | |", "|---|---|---|", *rows, "", tree, ""])


def plain_to_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]):
    """Keep indented formulas as they are written, and bars as bars: docstrings are plain text."""
    formula = None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if formula is not None and (not line.strip() or indent > formula):
            continue
        formula = None
        lines[i] = line.replace("|", "\\|")
        following = lines[i + 1 : i + 3]
        if line.endswith(":") and len(following) == 2 and not following[0].strip():
            start = following[1]
            if len(start) - len(start.lstrip()) > indent:
                lines[i], formula = lines[i] + ":", indent


def generate(app: Sphinx) -> None:
    for name, text in pages().items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", plain_to_rst, priority=400)  # before napoleon
