import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from hashfast.cli._items import label_of, label_text
from hashfast.cli._read import Numbers, read_gallery
from hashfast.cli._run import Output

if TYPE_CHECKING:
    from hashfast.index import Gallery, IndexBinaryFlat

_BELONGS = {
    "rows_per_file": "parquet",
    **dict.fromkeys(("collection", "token", "batch_size", "index_type", "nlist"), "milvus"),
}
"""What is exported to with each of the options that only one --to has."""


@dataclass(frozen=True)
class Command:
    """Write codes for other programs: faiss, numpy, readers of Parquet, Milvus.

    An index file for faiss and an .npy file of packed codes have a list beside them, OUT.items.csv:
    row, id, item, label and class of each code, unless it would say no more than the file itself.
    Parquet and Milvus hold all of it. `hashfast index` reads all but Milvus back.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A gallery, an .npy file of packed codes, an index file, or Parquet (a file, or a folder)."""
    to: Literal["faiss", "npy", "parquet", "milvus"]
    """What to write."""
    out: Path | None = None
    """The file to write; for Parquet a folder."""
    overwrite: bool = False
    """Replace what is there already."""
    rows_per_file: int | None = None
    """Parquet: codes a file (default: 10,000,000)."""
    uri: str | None = None
    """Milvus: the server, as http://localhost:19530, or a .db file for Milvus Lite."""
    collection: str | None = None
    """Milvus: name of the collection (default: hashfast). A failed export is continued by the same
    command."""
    token: str | None = None
    """Milvus: user:password, or a key."""
    batch_size: int | None = None
    """Milvus: codes a message (default: 10,000)."""
    index_type: Literal["BIN_FLAT", "BIN_IVF_FLAT"] | None = None
    """Milvus: compare with all codes (the default), or only with those of some of --nlist
    clusters."""
    nlist: int | None = None
    """Milvus: clusters of BIN_IVF_FLAT (default: 128)."""

    def __post_init__(self) -> None:
        place, other = ("uri", "out") if self.to == "milvus" else ("out", "uri")
        if getattr(self, place) is None or getattr(self, other) is not None:
            raise ValueError(f"--to {self.to} is told where to write by --{place}, not --{other}")
        for name, kind in _BELONGS.items():
            if self.to != kind and getattr(self, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --to {kind}")
        if self.nlist is not None and self.index_type != "BIN_IVF_FLAT":
            raise ValueError("--nlist belongs to --index-type BIN_IVF_FLAT")
        for name in ("rows_per_file", "batch_size", "nlist"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    def run(self) -> Output:
        if self.uri is not None:
            return self._to_milvus(self.uri, read_gallery(self.source))
        assert self.out is not None  # __post_init__
        files = [self.out] if self.to == "parquet" else [self.out, _beside(self.out)]
        _check_kind(self.out, self.to == "parquet")
        _check_free(files, self.overwrite)
        gallery = read_gallery(self.source)
        if self.to == "parquet":
            from hashfast.index.parquet import write_parquet

            files = write_parquet(gallery, self.out, **self._given("rows_per_file"))
        else:
            files = self._to_files(self.out, gallery)
        n, bits = gallery.index.ntotal, gallery.index.d
        names = ", ".join(map(str, files)) if len(files) < 3 else f"{len(files)} files, {self.out}"
        facts = {"codes": n, "bits": bits, "to": self.to, "files": [str(file) for file in files]}
        return Output(f"{n} codes of {bits} bits in {names}", facts)

    def _to_files(self, out: Path, gallery: "Gallery") -> list[Path]:
        """Write an index or .npy file and the list beside it: both, or neither."""
        from hashfast._files import atomic_write

        flat = _flat(gallery)
        if self.to == "faiss" and flat.d % 8:
            flat.to_faiss()  # says why there is no such index
        items = None if _says_itself(gallery, self.to == "faiss") else _item_list(gallery)
        beside = _beside(out)
        with ExitStack() as stack:
            if items is not None:
                stack.enter_context(atomic_write(beside)).write(items)
            file = stack.enter_context(atomic_write(out))
            if self.to == "faiss":
                flat.write(file)
            else:
                np.lib.format.write_array(file, np.ascontiguousarray(flat.codes))
        if items is not None:
            return [out, beside]
        beside.unlink(missing_ok=True)  # of what was there before
        return [out]

    def _to_milvus(self, uri: str, gallery: "Gallery") -> Output:
        from hashfast.index.milvus import MilvusCollection

        collection = self.collection or "hashfast"
        milvus = MilvusCollection(uri, collection, self.token or "")
        # It logs the tracebacks of errors that are reported anyway; its import has set its level.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        try:
            inserted = milvus.write(
                gallery,
                **self._given("index_type", "nlist", "batch_size"),
                overwrite=self.overwrite,
                progress=True,
            )
        finally:
            milvus.close()
        n, bits = gallery.index.ntotal, gallery.index.d
        there = f"; {n - inserted} were there already" * (inserted < n)
        return Output(
            f"{n} codes of {bits} bits in the collection {collection} of {uri}{there}",
            {"codes": n, "bits": bits, "to": self.to, "inserted": inserted},
        )

    def _given(self, *names: str) -> dict[str, Any]:
        """These options but those left to the defaults of what they are given to."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def _beside(out: Path) -> Path:
    """The list of items of an exported file."""
    return out.with_name(f"{out.name}.items.csv")


def _check_kind(out: Path, folder: bool) -> None:
    """Refuse, before anything is read, a file where there is to be a folder, and the reverse."""
    if folder and out.is_file():
        raise FileExistsError(f"{out} is a file; a Parquet set is a folder: choose another --out")
    if not folder and out.is_dir():
        raise IsADirectoryError(f"{out} is a folder: name a file with --out")


def _check_free(files: list[Path], overwrite: bool) -> None:
    """Refuse, before anything is read, to write over what is there; an empty folder is nothing."""
    there = [
        path for path in files if path.exists() and not (path.is_dir() and not any(path.iterdir()))
    ]
    if there and not overwrite:
        raise FileExistsError(
            f"{there[0]} is there already: --overwrite replaces it, or choose another --out"
        )


def _flat(gallery: "Gallery") -> "IndexBinaryFlat":
    """The gallery's codes and ids in the index whose files faiss reads."""
    from hashfast.index import IndexBinaryFlat

    if isinstance(gallery.index, IndexBinaryFlat):
        return gallery.index
    index = IndexBinaryFlat(gallery.index.d)
    if _numbered(gallery):
        index.add(gallery.index.codes)
    else:
        index.add_with_ids(gallery.index.codes, gallery.index.ids)
    return index


def _numbered(gallery: "Gallery") -> bool:
    """Whether ids are row numbers."""
    index = gallery.index
    return index.numbered or np.array_equal(index.ids, np.arange(index.ntotal))


def _says_itself(gallery: "Gallery", with_ids: bool) -> bool:
    """Whether a file of codes, and of ids if it has them, says all there is to say of the items."""
    if gallery.labelled or not (with_ids or _numbered(gallery)):
        return False
    if isinstance(gallery.items, Numbers):  # made of the ids
        return True
    return all(item == str(i) for item, i in zip(gallery.items, gallery.index.ids, strict=True))


def _item_list(gallery: "Gallery") -> bytes:
    from hashfast.index.gallery import csv_bytes

    named = bool(gallery.class_names)
    rows = []
    for row, (item, i) in enumerate(zip(gallery.items, gallery.index.ids, strict=True)):
        label = label_of(gallery, row)
        text = " ".join(map(str, label)) if isinstance(label, list) else label
        names = label_text(gallery, row) if named else ""
        rows.append([row, int(i), item, "" if text is None else text, names])
    return csv_bytes([("row", "id", "item", "label", "class"), *rows])
