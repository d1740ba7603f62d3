from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hashfast.cli._run import Output

DEFAULT_K = 10


@dataclass(frozen=True)
class Command:
    """Find the nearest pictures of a gallery, or the nearest codes of many.

    Pictures named by --image are looked for in a gallery, and what is found is printed. Codes of a
    whole file, --queries, are looked for in a gallery, an .npy file of packed codes, an index file
    or a Parquet set, and written to --out as NumPy arrays: distances int32 [q, k] and ids int64
    [q, k], or with --radius distances, ids and limits int64 [q + 1].

    Several processes hold a part of the codes each when torchrun starts them: torchrun
    --nproc-per-node 2 -m hashfast search ...
    """

    gallery: Annotated[Path, tyro.conf.Positional]
    """Folder written by `hashfast encode` or `hashfast index`; with --queries other codes too."""
    image: tuple[Path, ...] = ()
    """Pictures to look for."""
    queries: Path | None = None
    """Codes to look for, of any of the kinds that are searched."""
    k: int | None = None
    """How many to find for each (default: 10)."""
    radius: int | None = None
    """Find everything within this Hamming distance instead."""
    model: Path | None = None
    """Folder of the model that codes the pictures (default: the one that made the gallery)."""
    out: Path | None = None
    """File for what is found of --queries, such as found.npz."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one. Codes of --queries that do not fit there
    are streamed."""
    force: bool = False
    """Search although another model made the codes."""
    overwrite: bool = False
    """Replace a file that is at --out already."""

    def __post_init__(self) -> None:
        if bool(self.image) == (self.queries is not None):
            raise ValueError("name what to look for: either pictures with --image, or --queries")
        if (self.queries is None) != (self.out is None):
            raise ValueError("--queries and --out go together: codes to look for, and a file")
        if self.queries is not None and self.model is not None:
            raise ValueError("--model codes the pictures of --image, and --queries are codes")
        if self.overwrite and self.out is None:
            raise ValueError("--overwrite replaces a file at --out, which --image does not write")
        if self.k is not None and self.radius is not None:
            raise ValueError(
                "--k finds so many, --radius everything within it: leave one of the two out"
            )

    def run(self) -> Output | None:
        """None in all processes but the first, which speaks for them."""
        from hashfast import _distributed
        from hashfast.hashing.loading import resolve_device

        k = DEFAULT_K if self.k is None else self.k
        with _distributed.setup(resolve_device(self.device)) as device:
            if self.queries is None or self.out is None:
                from hashfast.cli._search_images import search_images

                return search_images(
                    self.gallery, self.image, k, self.radius, self.model, device, self.force
                )
            from hashfast.cli._search_batch import search_batch

            return search_batch(
                self.gallery,
                self.queries,
                self.out,
                k,
                self.radius,
                device,
                force=self.force,
                overwrite=self.overwrite,
            )
