"""Search over packed codes: exact, on the CPU and the GPU, in one process or many, with files that
other engines read."""

from hashfast.index.auto import IndexBinaryAuto
from hashfast.index.base import IndexBinary
from hashfast.index.costs import Plan
from hashfast.index.duplicates import near_duplicates
from hashfast.index.flat import IndexBinaryFlat
from hashfast.index.gallery import Gallery
from hashfast.index.load import load_index
from hashfast.index.milvus import MilvusCollection
from hashfast.index.multi_hash import IndexBinaryMultiHash
from hashfast.index.pairs import pairs
from hashfast.index.parquet import read_parquet, write_parquet
from hashfast.index.search import range_search, search
from hashfast.index.sharded import IndexBinarySharded
from hashfast.index.shards import Part, count_codes, open_part

__all__ = [
    "Gallery",
    "IndexBinary",
    "IndexBinaryAuto",
    "IndexBinaryFlat",
    "IndexBinaryMultiHash",
    "IndexBinarySharded",
    "MilvusCollection",
    "Part",
    "Plan",
    "count_codes",
    "load_index",
    "near_duplicates",
    "open_part",
    "pairs",
    "range_search",
    "read_parquet",
    "search",
    "write_parquet",
]
