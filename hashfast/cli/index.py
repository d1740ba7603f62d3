import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from hashfast.cli._galleries import check_comparable
from hashfast.cli._items import path_of
from hashfast.cli._read import read_gallery
from hashfast.cli._run import Output
from hashfast.cli.encode import check_out, list_unreadable, read_unreadable


@dataclass(frozen=True)
class Command:
    """Join codes into one gallery, or describe one.

    Sources are galleries, .npy files of packed codes (uint8 [n, bytes]), index files (those of
    faiss too), and Parquet (a file, or a folder of part-*.parquet). An item that several have with
    the same code and label is joined once.
    """

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Galleries, .npy files, index files or Parquet."""
    out: Path | None = None
    """Folder for the joined gallery; without it the first source is described."""
    force: bool = False
    """Join codes of different models all the same."""
    overwrite: bool = False
    """Replace a gallery that is there already."""

    def run(self) -> Output:
        if not self.sources:
            raise ValueError("no source was given")
        if self.out is not None:
            check_out(self.out, self.overwrite)
        galleries = [read_gallery(path) for path in self.sources]
        first = galleries[0]
        if self.out is None:
            if len(galleries) > 1:
                raise ValueError("to join galleries, name a folder with --out")
            index = first.index
            facts = {
                "codes": index.ntotal,
                "bits": index.d,
                "distinct": len(np.unique(index.codes, axis=0)),
                "labelled": first.labelled,
                **({"classes": list(first.class_names)} if first.class_names else {}),
                **first.info,
            }
            return Output("\n".join(f"{k:<12} {v}" for k, v in facts.items()), facts)
        joined = self._join(galleries)
        repeats = sum(gallery.index.ntotal for gallery in galleries) - joined.index.ntotal
        unreadable = [pair for path in self.sources for pair in read_unreadable(path)]
        joined.save(self.out)
        list_unreadable(self.out, list(dict.fromkeys(unreadable)))
        facts = {"codes": joined.index.ntotal, "bits": joined.index.d, "repeats": repeats}
        left_out = f"; {repeats} left out, as they repeat an item with its code" * bool(repeats)
        text = f"{joined.index.ntotal} codes of {joined.index.d} bits in {self.out}{left_out}"
        return Output(text, {**facts, **joined.info})

    def _join(self, galleries: list):
        from hashfast.index import Gallery
        from hashfast.index.gallery import same_classes

        first = galleries[0]
        for path, gallery in zip(self.sources, galleries, strict=True):
            check_comparable(path, gallery, self.sources[0], first, self.force)
        galleries = same_classes(galleries, self.sources)
        # Only what is true of all codes; of codes of one model, the first folder it was found in.
        info = {k: v for k, v in first.info.items() if all(g.info.get(k) == v for g in galleries)}
        if "fingerprint" in info and "model" in first.info:
            info["model"] = first.info["model"]
        codes = np.concatenate([gallery.index.codes for gallery in galleries])
        items = [item for gallery in galleries for item in gallery.items]
        labels = np.concatenate([gallery.labels for gallery in galleries])
        rows = _without_repeats(items, codes, labels)
        return Gallery.of(
            codes[rows],
            first.index.d,
            [items[row] for row in rows],
            labels[rows],
            {**info, "source": [str(path) for path in self.sources]},
            galleries[0].class_names,
        )


def _without_repeats(items: list[str], codes: np.ndarray, labels: np.ndarray) -> list[int]:
    """The rows but those whose item stands before with the same code and label."""
    rows: list[int] = []
    seen: dict[str, set[tuple[bytes, bytes]]] = {}
    for row, item in enumerate(items):
        path = path_of(item)
        if path is not None:
            content = codes[row].tobytes(), labels[row].tobytes()
            known = seen.setdefault(path, set())
            if content in known:
                continue
            known.add(content)
        rows.append(row)
    several = sum(len(known) > 1 for known in seen.values())
    if several:
        warnings.warn(
            f"{several} items have more than one code or label, and so several rows: their files "
            "have changed, or name other pictures; encode them again to have each once",
            stacklevel=1,
        )
    return rows
