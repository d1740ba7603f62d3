"""Contents of an index to and from faiss's own objects."""

from typing import Any

import numpy as np

from hashfast.index.io import ID_SIZE, FlatFile


def copy_to_faiss(contents: FlatFile) -> Any:
    """Make a faiss.IndexBinaryFlat, in an IndexBinaryIDMap if there are ids.

    Raises ImportError without faiss, ValueError for codes that do not fill whole bytes.
    """
    bits, codes, ids = contents
    if bits % 8:
        whole = 8 * codes.shape[1]
        raise ValueError(
            f"faiss holds whole bytes, this index {bits}-bit codes. Distances are the same in a "
            f"{whole}-bit index of these codes: add them to IndexBinaryFlat({whole})"
        )
    faiss = _import_faiss()
    index = faiss.IndexBinaryFlat(bits)
    if ids is None:
        index.add(codes)
        return index
    index = faiss.IndexBinaryIDMap(index)
    index.add_with_ids(codes, ids.copy().view(np.int64).reshape(-1))
    return index


def copy_from_faiss(index: Any) -> FlatFile:
    """Copy a faiss.IndexBinaryFlat, or an IndexBinaryIDMap or IndexBinaryIDMap2 of one.

    Raises ImportError without faiss, TypeError for another kind of index.
    """
    faiss = _import_faiss()
    flat, ids = index, None
    if isinstance(index, faiss.IndexBinaryIDMap):
        flat = faiss.downcast_IndexBinary(index.index)
        ids = faiss.vector_to_array(index.id_map).view(np.uint8).reshape(-1, ID_SIZE)
    if not isinstance(flat, faiss.IndexBinaryFlat):
        raise TypeError(
            f"index is {type(flat).__name__}; expected faiss.IndexBinaryFlat "
            "or an IndexBinaryIDMap of one"
        )
    return FlatFile(flat.d, faiss.vector_to_array(flat.xb).reshape(-1, flat.code_size), ids)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "faiss is not installed: pip install faiss-cpu. Files need no faiss: "
            "save and load_index read and write its format"
        ) from error
    return faiss
