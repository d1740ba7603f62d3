"""`hashfast search --image`: the nearest pictures of a gallery."""

import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashfast.cli._galleries import code_spaces
from hashfast.cli._items import class_of, label_of, label_text, printable
from hashfast.cli._run import Output, table

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hashfast.hashing import HashModel
    from hashfast.index import Gallery
    from hashfast.index.sharded import IndexBinarySharded


def search_images(
    folder: Path,
    images: Sequence[Path],
    k: int,
    radius: int | None,
    model: Path | None,
    device: "torch.device",
    force: bool,
) -> Output | None:
    """Look for pictures in a gallery, of whose codes each process holds a part.

    The first process codes the pictures and names what is found. Before, it checks the gallery's
    digest, for which all codes are read once, and so does the first process of every other machine,
    where the files may be copies; for the processes beside it the check would be the same.
    """
    from hashfast import _distributed
    from hashfast.index import Gallery
    from hashfast.index.sharded import IndexBinarySharded

    gallery = query = None
    with _distributed.all_or_none():
        if _distributed.rank() == 0:
            gallery = Gallery.load(folder, mmap=True)
            query = _coded(folder, gallery, images, model, device, force)
        elif os.environ.get("LOCAL_RANK") == "0":
            Gallery.load(folder, mmap=True)
    hits = _find(IndexBinarySharded.open(folder), query, len(images), k, radius)
    if gallery is None:
        return None
    nothing = "nothing found" if gallery.items else f"{folder} is empty"
    text = "\n\n".join(
        f"{printable(str(image))}\n{_hit_table(gallery, found) if found else nothing}"
        for image, found in zip(images, hits, strict=True)
    )
    results = [
        {
            "image": str(image),
            "hits": [_hit(gallery, rank, *pair) for rank, pair in enumerate(found, 1)],
        }
        for image, found in zip(images, hits, strict=True)
    ]
    return Output(text, {"results": results})


def _coded(
    folder: Path,
    gallery: "Gallery",
    images: Sequence[Path],
    model_folder: Path | None,
    device: "torch.device",
    force: bool,
) -> "np.ndarray":
    """The pictures' codes by the gallery's model, or by another that codes as it does."""
    from hashfast.hashing import HashModel

    if model_folder is None:
        model_folder = _model_folder(folder, gallery.info)
    made_by = gallery.info.get("fingerprint")
    model = HashModel.from_pretrained(model_folder, str(device))
    if made_by is None:
        warnings.warn(
            f"{folder} does not say which model made it: distances mean something only if it was "
            f"{model_folder}",
            stacklevel=1,
        )
    elif code_spaces(gallery).isdisjoint(model.code_spaces()) and not force:
        raise ValueError(
            f"{folder} was made by model {made_by} and {model_folder} is model "
            f"{model.fingerprint()}: "
            f"distances would mean nothing{_why(model, made_by)} "
            "(--force searches all the same)"
        )
    return model.encode(list(images)).numpy()


def _model_folder(folder: Path, info: dict[str, Any]) -> Path:
    if "fingerprint" not in info or "model" not in info:
        raise ValueError(f"{folder} does not say which model made it: name it by --model")
    model = Path(info["model"])
    if not model.is_dir():
        raise FileNotFoundError(
            f"the model that made {folder} is not at {model} any more: say where it is with --model"
        )
    return model


def _find(
    index: "IndexBinarySharded",
    query: "np.ndarray | None",
    q: int,
    k: int,
    radius: int | None,
) -> list[list[tuple[int, int]]]:
    if not index.ntotal:
        return [[] for _ in range(q)]
    if radius is None:
        distances, ids = index.search(query, min(k, index.ntotal))
        return [list(zip(*row, strict=True)) for row in zip(distances, ids, strict=True)]
    limits, distances, ids = index.range_search(query, radius)
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
