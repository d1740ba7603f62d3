import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hashfast.cli._galleries import code_spaces
from hashfast.cli._items import class_of, label_of, label_text, printable
from hashfast.cli._run import Output, table

if TYPE_CHECKING:
    from hashfast.hashing import HashModel
    from hashfast.index import Gallery


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
        made_by, folder = gallery.info.get("fingerprint"), self._model_folder(gallery.info)
        model = HashModel.from_pretrained(folder, str(resolve_device(self.device)))
        if made_by is None:
            warnings.warn(
                f"{self.gallery} does not say which model made it: distances mean something only "
                f"if it was {folder}",
                stacklevel=1,
            )
        elif code_spaces(gallery).isdisjoint(model.code_spaces()) and not self.force:
            raise ValueError(
                f"{self.gallery} was made by model {made_by} and {folder} is model "
                f"{model.fingerprint()}: "
                f"distances would mean nothing{_why(model, made_by)} "
                "(--force searches all the same)"
            )
        query = model.encode(list(self.image)).numpy()
        hits = self._find(gallery.index, query)
        nothing = "nothing found" if gallery.index.ntotal else f"{self.gallery} is empty"
        text = "\n\n".join(
            f"{printable(str(image))}\n{_hit_table(gallery, found) if found else nothing}"
            for image, found in zip(self.image, hits, strict=True)
        )
        results = [
            {
                "image": str(image),
                "hits": [_hit(gallery, rank, *pair) for rank, pair in enumerate(found, 1)],
            }
            for image, found in zip(self.image, hits, strict=True)
        ]
        return Output(text, {"results": results})

    def _model_folder(self, info: dict[str, Any]) -> Path:
        if self.model is not None:
            return self.model
        if "fingerprint" not in info or "model" not in info:
            raise ValueError(f"{self.gallery} does not say which model made it: name it by --model")
        folder = Path(info["model"])
        if not folder.is_dir():
            raise FileNotFoundError(
                f"the model that made {self.gallery} is not at {folder} any more: say where it is "
                "with --model"
            )
        return folder

    def _find(self, index: Any, query: Any) -> list[list[tuple[int, int]]]:
        if not index.ntotal:
            return [[] for _ in query]
        if self.radius is None:
            distances, ids = index.search(query, min(self.k, index.ntotal))
            return [list(zip(*row, strict=True)) for row in zip(distances, ids, strict=True)]
        limits, distances, ids = index.range_search(query, self.radius)
        return [
            list(zip(distances[start:end], ids[start:end], strict=True))
            for start, end in pairwise(limits)
        ]


def _why(model: "HashModel", made_by: str) -> str:
    """What a student is to be told whose teacher made the gallery, and whose codes are its own."""
    info = model.training_info
    if info.get("teacher", {}).get("fingerprint") != made_by:
        return ""
    return (
        f": it is the student's teacher, but {info['distillation']} draws codes to no teacher's; "
        "search the gallery that the student coded"
    )


def _hit(gallery: "Gallery", rank: int, distance: int, row: int) -> dict[str, Any]:
    return {
        "rank": rank,
        "distance": int(distance),
        "item": gallery.items[row],
        "label": label_of(gallery, row),
        "class": class_of(gallery, row),
    }


def _hit_table(gallery: "Gallery", found: list[tuple[int, int]]) -> str:
    rows = [
        [
            str(rank),
            str(distance),
            printable(label_text(gallery, row)) or "-",
            printable(gallery.items[row]),
        ]
        for rank, (distance, row) in enumerate(found, 1)
    ]
    return table(["rank", "distance", "label", "item"], rows)
