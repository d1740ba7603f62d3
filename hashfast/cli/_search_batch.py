"""`hashfast search --queries`: the nearest codes of many, written to a file."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashfast._files import atomic_write
from hashfast.cli._run import Output

if TYPE_CHECKING:
    import torch

    from hashfast.index.sharded import IndexBinarySharded

_RESULTS = 1 << 24  # distances and ids that the processes are handed at once: 200 MB
_RANGE_QUERIES = 1 << 14  # at once, where it shows only later how much is found


def search_batch(
    path: Path,
    queries: Path,
    out: Path,
    k: int,
    radius: int | None,
    device: "torch.device",
    force: bool,
    overwrite: bool,
) -> Output | None:
    """Search codes for those of a file, the codes in parts over all processes.

    The first process reads the queries, block by block, and keeps what is found. Ids are rows of
    the codes, or their own, so of a gallery nothing but the codes counts: its digest, which would
    take a reading of all codes, is compared between the processes but not checked.
    """
    from hashfast import _distributed
    from hashfast.hashing.encode_job import check_whole
    from hashfast.index.checks import as_integer, check_k
    from hashfast.index.sharded import IndexBinarySharded
    from hashfast.index.shards import count_codes, open_part

    first, asked = _distributed.rank() == 0, None
    with _distributed.all_or_none():
        if first:
            _check_out(out, overwrite)
            for codes in (path, queries):
                check_whole(codes)
            if radius is None:
                check_k(k, count_codes(path)[0])
            else:
                as_integer(radius, "radius", 0)
            _check_comparable(path, queries, force)
            asked = open_part(queries).codes
    index = IndexBinarySharded.open(path, device)
    q = _distributed.from_first(lambda: 0 if asked is None else len(asked))
    began = time.perf_counter()
    found = _nearest(index, asked, q, k) if radius is None else _within(index, asked, q, radius)
    seconds = time.perf_counter() - began
    with _distributed.all_or_none():
        if first:
            with atomic_write(out) as file:
                np.savez(file, **found)  # type: ignore[arg-type]
    return _summary(index, q, k, radius, seconds, out) if first else None


def _nearest(
    index: "IndexBinarySharded", asked: np.ndarray | None, q: int, k: int
) -> dict[str, np.ndarray]:
    from hashfast import _distributed

    kept = q if asked is not None else 0
    with _distributed.all_or_none():
        distances, ids = np.empty((kept, k), np.int32), np.empty((kept, k), np.int64)
    for some in _blocks(asked, q, max(1, _RESULTS // k)):
        found = index.search(None if asked is None else asked[some], k)
        if asked is not None:
            distances[some], ids[some] = found
    return {"distances": distances, "ids": ids}


def _within(
    index: "IndexBinarySharded", asked: np.ndarray | None, q: int, radius: int
) -> dict[str, np.ndarray]:
    nothing = (np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))
    blocks: list[tuple[Any, ...]] = [nothing]
    for some in _blocks(asked, q, _RANGE_QUERIES):
        limits, distances, ids = index.range_search(None if asked is None else asked[some], radius)
        if asked is not None:
            blocks.append((np.diff(limits), distances, ids))
    counts, *hits = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
    return {"limits": np.cumsum(counts), "distances": hits[0], "ids": hits[1]}


def _blocks(asked: np.ndarray | None, q: int, size: int) -> Iterator[slice]:
    """Rows of the queries, block by block; the first process shows how far it is."""
    from tqdm import tqdm

    with tqdm(total=q, unit="query", desc="search", disable=asked is None) as bar:
        for start in range(0, q, size):
            yield slice(start, min(start + size, q))
            bar.update(min(size, q - start))


def _check_out(out: Path, overwrite: bool) -> None:
    """Before anything is computed."""
    if not out.resolve().parent.is_dir():
        raise FileNotFoundError(f"{out}: the folder {out.resolve().parent} does not exist")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder: name a file with --out")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: --overwrite replaces it, or choose another --out")


def _check_comparable(path: Path, queries: Path, force: bool) -> None:
    """Raise ValueError for codes of different widths, or of different models unless `force`."""
    from hashfast.index.shards import count_codes, read_facts

    (_, bits), (_, other_bits) = count_codes(path), count_codes(queries)
    # An .npy file says how many bytes its codes have, and the search checks their padding.
    unsure = ".npy" in (path.suffix, queries.suffix)
    if bits != other_bits and not (unsure and -(-bits // 8) == -(-other_bits // 8)):
        raise ValueError(
            f"{path} has {bits}-bit codes and {queries} {other_bits}-bit ones: encode one of them "
            "again, with the model of the other"
        )
    facts = [read_facts(codes) for codes in (path, queries)]
    made_by = [fact.get("fingerprint") for fact in facts]
    spaces = [{fact.get("fingerprint"), *fact.get("code_spaces", ())} for fact in facts]
    if None not in made_by and spaces[0].isdisjoint(spaces[1]) and not force:
        raise ValueError(
            f"{path} was made by model {made_by[0]} and {queries} by {made_by[1]}: their distances "
            "mean nothing to each other (--force goes ahead all the same)"
        )


def _summary(
    index: "IndexBinarySharded", q: int, k: int, radius: int | None, seconds: float, out: Path
) -> Output:
    from hashfast import _distributed

    rate, processes = q / seconds, _distributed.world()
    data = {
        "queries": q,
        "codes": index.ntotal,
        "bits": index.d,
        **({"k": k} if radius is None else {"radius": radius}),
        "processes": processes,
        "seconds": seconds,
        "queries_per_second": rate,
        "gpairs_per_second": rate * index.ntotal / 1e9,
        "out": str(out),
    }
    together = f" in {processes} processes" * (processes > 1)
    text = (
        f"{q} queries among {index.ntotal} codes of {index.d} bits{together}\n"
        f"searched    {seconds:.3g} s: {rate:.3g} queries/s, "
        f"{data['gpairs_per_second']:.3g} Gpairs/s\n"
        f"written to  {out}"
    )
    return Output(text, data)
