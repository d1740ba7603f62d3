"""Whatever holds codes, read as a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hashfast.index import Gallery


def read_gallery(path: Path) -> "Gallery":
    """The gallery in a folder, a Parquet set, or the codes of an .npy or index file.

    Codes of an .npy file are named by their rows, those of an index file by their ids.
    """
    from hashfast._inputs import check_codes
    from hashfast.hashing.encode_job import JOB_FILE, check_whole
    from hashfast.index import Gallery, load_index
    from hashfast.index.gallery import INFO_FILE
    from hashfast.index.parquet import parquet_parts, read_parquet

    if not (path / INFO_FILE).exists() and parquet_parts(path):
        if (path / JOB_FILE).exists():  # shards of `hashfast encode --engine ray`
            check_whole(path)
        return read_parquet(path)
    if path.is_dir():
        return Gallery.load(path)
    if path.suffix == ".npy":
        try:
            codes = np.load(path, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path} is not a readable .npy file: {error}") from error
        check_codes(codes, str(path))
        return Gallery.of(codes, 8 * codes.shape[1])
    index = load_index(path)
    return Gallery(index, [str(i) for i in index.ids], np.full(index.ntotal, -1))
