"""Pages made from the docstrings: one a method, one a part of the API. Run by `make docs`."""

import importlib

import mkdocs_gen_files

from hashfast.losses import METHODS

API = {
    "losses": "The base of every loss, and the terms to drop into your own.",
    "metrics": "Retrieval quality of codes.",
    "index": "Search over packed codes, galleries, near-duplicates.",
    "ops": "The operations underneath, with a reference, a gradient and compiled kernels.",
    "hashing": "Models, training, encoding.",
    "augment": "Augmentations for training, deformations for testing.",
    "data": "Datasets and protocols.",
    "plots": "Figures.",
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

::: hashfast.losses.{title}
"""


def write(path: str, *lines: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def public(part: str) -> list[str]:
    """Names a part exports, without the methods, which have pages of their own."""
    names = importlib.import_module(f"hashfast.{part}").__all__
    methods = {method.__name__ for method in METHODS.values()} if part == "losses" else set()
    return [name for name in names if name not in methods and not name.isupper()]


rows = []
for name, method in METHODS.items():
    write(f"methods/{name}.md", METHOD.format(name=name, title=method.__name__))
    about = (method.__doc__ or "").splitlines()[0]
    rows.append(f"| [{method.__name__}]({name}.md) | `{name}` | {about} |")
head = ("Every method takes `--quantization original | hswd | swd | none`.", "", "| | name | |")
write("methods/index.md", "# Methods", "", *head, "|---|---|---|", *rows)

for part, about in API.items():
    blocks = [f"::: hashfast.{part}.{name}\n" for name in public(part)]
    write(f"api/{part}.md", f"# hashfast.{part}", "", about, "", *blocks)
rows = [f"| [`hashfast.{part}`]({part}.md) | {about} |" for part, about in API.items()]
write("api/index.md", "# API", "", "| | |", "|---|---|", *rows)
