from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from hashfast.cli._run import Output, table


@dataclass(frozen=True)
class Command:
    """Find the nearest pictures of a gallery."""

    gallery: Annotated[Path, tyro.conf.Positional]
    """Folder written by `hashfast encode` or `hashfast index`."""
    image: tuple[Path, ...]
    """Pictures to look for."""
    k: int = 10
    """How many to find for each."""
    radius: int | None = None
    """Find everything within this Hamming distance instead."""
    model: Path | None = None
    """Folder of the model (default: the one that made the gallery)."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    force: bool = False
    """Search although another model made the gallery."""

    def run(self) -> Output:
        from hashfast.hashing import HashModel
        from hashfast.hashing.loading import resolve_device
        from hashfast.index import Gallery

        gallery = Gallery.load(self.gallery, mmap=True)
        folder = self.model or gallery.info.get("model")
        if folder is None:
            raise ValueError(f"{self.gallery} does not say which model made it: name it by --model")
        model = HashModel.from_pretrained(folder, str(resolve_device(self.device)))
        made_by, ours = gallery.info.get("fingerprint"), model.fingerprint()
        if made_by != ours and not self.force:
            raise ValueError(
                f"{self.gallery} was made by model {made_by} and {folder} is model {ours}: "
                "distances would mean nothing (--force searches all the same)"
            )
        query = model.encode(list(self.image)).numpy()
        hits = [
            [
                {
                    "rank": rank,
                    "distance": int(distance),
                    "item": gallery.items[row],
                    "label": _label(gallery.labels[row]),
                }
                for rank, (distance, row) in enumerate(found, 1)
            ]
            for found in self._find(gallery.index, query)
        ]
        text = "\n\n".join(
            f"{image}\n{_hit_table(found)}" for image, found in zip(self.image, hits, strict=True)
        )
        results = [
            {"image": str(image), "hits": found}
            for image, found in zip(self.image, hits, strict=True)
        ]
        return Output(text, {"results": results})

    def _find(self, index: Any, query: Any) -> list[list[tuple[int, int]]]:
        if self.radius is None:
            distances, ids = index.search(query, min(self.k, max(index.ntotal, 1)))
            return [
                [(d, i) for d, i in zip(*row, strict=True) if i >= 0]
                for row in zip(distances, ids, strict=True)
            ]
        limits, distances, ids = index.range_search(query, self.radius)
        return [
            list(zip(distances[start:end], ids[start:end], strict=True))
            for start, end in pairwise(limits)
        ]


def _hit_table(hits: list[dict[str, Any]]) -> str:
    if not hits:
        return "nothing found"
    rows = [
        [str(hit["rank"]), str(hit["distance"]), str(hit["label"]), hit["item"]] for hit in hits
    ]
    return table(["rank", "distance", "label", "item"], rows)


def _label(label: Any) -> Any:
    import numpy as np

    if np.ndim(label):
        return np.flatnonzero(label).tolist()
    return int(label) if label >= 0 else None
