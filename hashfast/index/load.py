"""Any index from its file."""

import os

import torch

from hashfast.index.auto import IndexBinaryAuto
from hashfast.index.flat import IndexBinaryFlat, load_flat
from hashfast.index.multi_hash import IndexBinaryMultiHash
from hashfast.index.multi_hash_file import AUTO, is_multi_hash, read_multi_hash


def load_index(
    path: str | os.PathLike, mmap: bool = False, device: str | torch.device = "cpu"
) -> IndexBinaryFlat | IndexBinaryMultiHash | IndexBinaryAuto:
    """Load an index saved by `save` or by faiss (IndexBinaryFlat, also inside an id map).

    Args:
        path: the file.
        mmap: search the file where it lies instead of reading it first; of an IndexBinaryAuto the
            tables, while the codes to scan are copied into memory. The file must not be
            overwritten in place or cut short meanwhile; `save`, which replaces files whole, is
            safe. Adding to the index copies it into memory and leaves the file alone.
        device: where to keep the codes, as IndexBinaryFlat.to takes it: a GPU for which they are
            too many is given them from the file, block by block, in every search.

    Returns:
        An IndexBinaryFlat, IndexBinaryMultiHash or IndexBinaryAuto, as it was saved.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: the file is truncated, too long, or not such an index; says what was found. A
            multi-index hash, which is searched on the CPU only, on another device.
    """
    if os.path.isfile(path) and is_multi_hash(path):
        if torch.device(device).type != "cpu":
            raise ValueError(f"{path} is a multi-index hash, which is searched on the CPU only")
        contents = read_multi_hash(path, mmap)
        kind = IndexBinaryAuto if contents.kind == AUTO else IndexBinaryMultiHash
        return kind._holding(contents)
    return load_flat(path, mmap, device)
