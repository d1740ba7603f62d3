"""Search over packed codes: exact, on the CPU and the GPU, with files that faiss reads."""

from hashfast.index.duplicates import near_duplicates
from hashfast.index.flat import IndexBinaryFlat, load_index
from hashfast.index.gallery import Gallery
from hashfast.index.pairs import pairs
from hashfast.index.search import range_search, search

__all__ = [
    "Gallery",
    "IndexBinaryFlat",
    "load_index",
    "near_duplicates",
    "pairs",
    "range_search",
    "search",
]
