"""Search over packed codes: exact, on the CPU and the GPU, with files that faiss reads."""

from hashfast.index.auto import IndexBinaryAuto
from hashfast.index.duplicates import near_duplicates
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.gallery import Gallery
from hashfast.index.load import load_index
from hashfast.index.multi_hash import IndexBinaryMultiHash
from hashfast.index.pairs import pairs
from hashfast.index.search import range_search, search
from hashfast.index.sharded import IndexBinarySharded
from hashfast.index.shards import Part, count_codes, open_part

__all__ = [
    "Gallery",
    "IndexBinaryAuto",
    "IndexBinaryFlat",
    "IndexBinaryMultiHash",
    "IndexBinarySharded",
    "Part",
    "count_codes",
    "load_index",
    "near_duplicates",
    "open_part",
    "pairs",
    "range_search",
    "search",
]
