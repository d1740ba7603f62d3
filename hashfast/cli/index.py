from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from hashfast.cli._run import Output


@dataclass(frozen=True)
class Command:
    """Join codes into one gallery, or describe one.

    Sources are galleries, .npy files of packed codes (uint8 [n, bytes]), and binary index files of
    faiss.
    """

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Galleries, .npy files or faiss index files."""
    out: Path | None = None
    """Folder for the joined gallery; without it the first source is described."""
    force: bool = False
    """Join codes of different models all the same."""

    def run(self) -> Output:
        if not self.sources:
            raise ValueError("no source was given")
        galleries = [_read(path) for path in self.sources]
        first = galleries[0]
        if self.out is None:
            if len(galleries) > 1:
                raise ValueError("to join galleries, name a folder with --out")
            index = first.index
            facts = {
                "codes": index.ntotal,
                "bits": index.d,
                "distinct": len(np.unique(index.codes, axis=0)),
                "labelled": int((first.labels >= 0).sum())
                if first.labels.ndim == 1
                else index.ntotal,
                **first.info,
            }
            return Output("\n".join(f"{k:<12} {v}" for k, v in facts.items()), facts)
        joined = self._join(galleries)
        joined.save(self.out)
        text = f"{joined.index.ntotal} codes of {joined.index.d} bits in {self.out}"
        return Output(text, {"codes": joined.index.ntotal, "bits": joined.index.d, **joined.info})

    def _join(self, galleries: list):
        from hashfast.index import Gallery

        first = galleries[0]
        for path, gallery in zip(self.sources, galleries, strict=True):
            if gallery.index.d != first.index.d:
                raise ValueError(
                    f"{path} has {gallery.index.d}-bit codes and {self.sources[0]} "
                    f"{first.index.d}-bit ones"
                )
            if gallery.labels.shape[1:] != first.labels.shape[1:]:
                raise ValueError(f"{path} and {self.sources[0]} have labels of different kinds")
            made_by = gallery.info.get("fingerprint"), first.info.get("fingerprint")
            if made_by[0] != made_by[1] and not self.force:
                raise ValueError(
                    f"{path} was made by model {made_by[0]} and {self.sources[0]} by {made_by[1]}: "
                    "their distances mean nothing to each other (--force joins them all the same)"
                )
        return Gallery.of(
            np.concatenate([gallery.index.codes for gallery in galleries]),
            first.index.d,
            [item for gallery in galleries for item in gallery.items],
            np.concatenate([gallery.labels for gallery in galleries]),
            {**first.info, "source": [str(path) for path in self.sources]},
        )


def _read(path: Path):
    from hashfast._inputs import check_codes
    from hashfast.index import Gallery, load_index

    if path.is_dir():
        return Gallery.load(path)
    if path.suffix == ".npy":
        codes = np.load(path, allow_pickle=False)
        check_codes(codes, str(path))
        return Gallery.of(codes, 8 * codes.shape[1])
    index = load_index(path)
    items = [str(i) for i in index.ids]
    return Gallery.of(np.asarray(index.codes), index.d, items)
