"""Sphinx settings. Pages of methods and of the API are made from the docstrings at each build."""

import importlib
import inspect
from pathlib import Path

from sphinx.application import Sphinx

import hashfast
from hashfast import condense
from hashfast.losses import DISTILLATION, METHODS, UNSUPERVISED, Distillation

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
    "exclude-members": "aligns, bank, distance, extra_repr, head, logits, needs, num_views, "
    "original_quantization, similarity, views",
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
    "distill": "Distillation of hash models.",
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
UNSUPERVISED_METHOD = """# {title}

```bash
hashfast train --method {name} --out runs/{name}
```

```python
criterion = hashfast.losses.{title}({arguments})
loss = criterion({inputs})
```

How it is called and what it checks are those of [every loss](../api/losses.md); which method is for
what: [Without labels](../../guides/unsupervised.md).

{documented}
"""
DISTILLATION_LOSS = """# {title}

```bash
hashfast distill --teacher runs/teacher --distillation {name} --out runs/{name}
```

```python
criterion = hashfast.losses.{title}(bits=32)
criterion.prepare(teacher_codes, labels)  # of the whole training set, once
loss = criterion({inputs})
```

How it is called and what it checks are those of [every loss](../api/losses.md); which loss is for
what: [Distillation](../../guides/distillation.md).

{documented}
"""
# Arguments of constructors, for the examples.
WIDTHS = {"bits": 32, "num_features": 512, "num_hidden": 1024}
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


def documented(path: str, *options: str) -> str:
    kind = "autoclass" if isinstance(_resolve(path), type) else "autofunction"
    lines = "".join(f"   :{option}:\n" for option in options)
    return f"```{{eval-rst}}\n.. {kind}:: {path}\n{lines}```\n"


def _resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public(part: str) -> list[str]:
    """Names a part exports, without tables and without the methods, which have their own pages."""
    names = importlib.import_module(f"hashfast.{part}").__all__
    tables = (METHODS, UNSUPERVISED, DISTILLATION) if part == "losses" else ()
    methods = {method.__name__ for table in tables for method in table.values()}
    paths = [f"hashfast.{part}.{name}" for name in names if name not in methods]
    return [path for path in paths if callable(_resolve(path))]


def pages() -> dict[str, str]:
    """File name under `generated` -> Markdown."""
    made = {}
    for folder, title, methods, page in (
        ("methods", "Methods", METHODS, _method),
        ("unsupervised", "Methods without labels", UNSUPERVISED, _unsupervised),
        ("distillation", "Losses of distillation", DISTILLATION, _distillation),
    ):
        rows = []
        for name, method in methods.items():
            made[f"{folder}/{name}.md"] = page(name, method)
            about = (method.__doc__ or "").splitlines()[0]
            rows.append(f"| [{method.__name__}]({folder}/{name}.md) | `{name}` | {about} |")
        made[f"{folder}.md"] = _table_page(title, rows, [f"{folder}/{name}" for name in methods])
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


def _method(name: str, method: type) -> str:
    title = method.__name__
    return METHOD.format(name=name, title=title, documented=documented(f"hashfast.losses.{title}"))


def _unsupervised(name: str, method: type) -> str:
    title = method.__name__
    given = inspect.signature(method).parameters
    return UNSUPERVISED_METHOD.format(
        name=name,
        title=title,
        arguments=", ".join(f"{key}={width}" for key, width in WIDTHS.items() if key in given),
        inputs=", ".join(["outputs", *(f"{key}={key}" for key in method.needs)]),
        documented=documented(f"hashfast.losses.{title}"),
    )


def _distillation(name: str, loss: type) -> str:
    """Its page has the bases too that it shares with others, whose options are its own."""
    title = loss.__name__
    bases = [base for base in loss.__mro__[1:] if Distillation in base.__mro__[1:]]
    shared = [
        documented(f"{base.__module__}.{base.__name__}", "no-index", "no-members") for base in bases
    ]
    return DISTILLATION_LOSS.format(
        name=name,
        title=title,
        inputs=", ".join(["student", "teacher", *(f"{key}={key}" for key in loss.needs)]),
        documented="\n".join([documented(f"hashfast.losses.{title}"), *shared]),
    )


def _condensation(name: str) -> str:
    method, ipc = condense.METHODS[name], condense.CondenseConfig.ipc
    return CONDENSATION_METHOD.format(
        name=name,
        documented=documented(f"{method.__module__}.{method.__name__}", "no-members"),
        ipc=ipc,
        defaults=", ".join(f"`{key}={value}`" for key, value in method.defaults(ipc).items()),
    )


def _table_page(title: str, rows: list[str], children: list[str]) -> str:
    tree = "\n".join(["```{toctree}", ":hidden:", *children, "```"])
    return "\n".join([f"# {title}", "", "| | | |", "|---|---|---|", *rows, "", tree, ""])


def plain_to_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]):
    """Keep indented formulas as they are written, and bars as bars: docstrings are plain text."""
    formula = None
    made = []
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if formula is not None and (not line.strip() or indent > formula):
            made.append(line)
            continue
        formula = None
        made.append(line.replace("|", "\\|"))
        following = lines[i + 1 : i + 3]
        if line.strip() and len(following) == 2 and not following[0].strip():
            start = following[1]
            if len(start) - len(start.lstrip()) > indent:
                formula = indent
                if line.endswith(":"):
                    made[-1] += ":"
                else:
                    made += ["", f"{line[:indent]}::"]
    lines[:] = made


def generate(app: Sphinx) -> None:
    for name, text in pages().items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", plain_to_rst, priority=400)  # before napoleon
