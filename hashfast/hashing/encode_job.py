"""A set of pictures encoded shard by shard: what there is to do, and what of it is written.

The output folder is a Parquet set (see hashfast.index.parquet) with a description beside it:

    job.json             the model's fingerprint, a digest of the list of pictures, rows_per_shard,
                         and what the shards say about themselves
    part-00012.parquet   codes of the pictures 12 * rows_per_shard and on, without unreadable ones

The end of a shard's file says which job it belongs to and lists its unreadable pictures, so that
one rename makes all of a shard count. Until then .part-00012.tries has a byte for each process that
began with it. While a run lasts, .pictures.arrow has the list of pictures, a batch for each shard.
Nothing here needs Ray.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from hashfast._files import atomic_write, read_json, write_json
from hashfast.data import FileDataset
from hashfast.index.gallery import CODES_FILE
from hashfast.index.parquet_layout import schema, table
from hashfast.index.parquet_set import parquet_parts

if TYPE_CHECKING:
    import pyarrow as pa

JOB_FILE, LIST_FILE = "job.json", ".pictures.arrow"
FORMAT = 1
TRIES = 3
_KEY = b"hashfast.shard"


@dataclass(frozen=True)
class Job:
    """What makes shards belong together.

    fingerprint: the model's. source: digest of the pictures' paths, labels and class names (not of
    their contents). items: how many pictures. info: facts for the gallery, as the shards hold them.
    """

    fingerprint: str
    source: str
    items: int
    rows_per_shard: int
    bits: int
    class_names: tuple[str, ...] = ()
    classes: int | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        files: FileDataset,
        fingerprint: str,
        bits: int,
        rows_per_shard: int,
        info: dict[str, Any],
    ) -> Self:
        """Raises ValueError for fewer than 1 row a shard, and a path that is not UTF-8."""
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard is {rows_per_shard}; it must be at least 1")
        return cls(
            fingerprint,
            _digest(files),
            len(files),
            rows_per_shard,
            bits,
            files.class_names,
            files.labels.shape[1] if files.labels.ndim == 2 else None,
            info,
        )

    @property
    def id(self) -> str:
        """16 hexadecimal digits that change with anything that changes a shard's rows."""
        parts = [self.fingerprint, self.source, self.items, self.rows_per_shard]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def shards(self) -> int:
        return -(-self.items // self.rows_per_shard)

    def rows(self, shard: int) -> range:
        """The pictures of a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.items))

    def name(self, shard: int) -> str:
        """Names in order are shards in order, however many there are."""
        return f"part-{shard:0{max(5, len(str(self.shards - 1)))}d}.parquet"


class Shard(NamedTuple):
    """A written shard: how many codes it has, and (item, reason) of its unreadable pictures."""

    codes: int
    unreadable: list[tuple[str, str]]


def items_of(files: FileDataset, rows: Sequence[int]) -> list[str]:
    """Paths that lead to the pictures from any working folder."""
    return [os.path.abspath(files.path(row)) for row in rows]


def begin(out: Path, job: Job, overwrite: bool = False) -> Job:
    """Make `out` the folder of a job, or go on with the same one there, as it was begun.

    With `overwrite` the shards of any job there are removed. Returns the job as job.json has it:
    the facts of a run that goes on are those of its first. Raises FileExistsError for a folder that
    holds another job, a Parquet set without one, or a gallery.
    """
    advice = "--overwrite replaces them, or choose another --out"
    if (out / CODES_FILE).exists():
        raise FileExistsError(f"{out} holds a gallery, not shards: choose another --out")
    path, parts = out / JOB_FILE, parquet_parts(out)
    if overwrite:
        path.unlink(missing_ok=True)  # first: shards without a job are nobody's
        for part in parts:
            part.unlink()
    elif path.exists():
        stored = _read_job(path)
        differences = _differences(stored, job)
        if differences:
            raise FileExistsError(f"{out} holds shards of another job ({differences}): {advice}")
        return stored
    elif parts:
        raise FileExistsError(
            f"{out} holds {len(parts)} Parquet files without a {JOB_FILE}: {advice}"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, **asdict(job)})
    return job


@contextmanager
def listed(out: Path, job: Job, files: FileDataset) -> Iterator[None]:
    """Keep the list of pictures where the processes that encode them look it up."""
    import pyarrow as pa

    def batch(shard: int) -> "pa.RecordBatch":
        rows = job.rows(shard)
        labels = files.labels[rows.start : rows.stop].tolist()
        return pa.record_batch({"item": items_of(files, rows), "label": labels})

    path, first = out / LIST_FILE, batch(0)
    with atomic_write(path) as file, pa.ipc.new_file(file, first.schema) as writer:
        writer.write(first)
        for shard in range(1, job.shards):
            writer.write(batch(shard))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def pictures(out: Path, shard: int) -> tuple[list[str], torch.Tensor]:
    """The paths of a shard's pictures and their labels, where they are `listed`.

    Raises FileNotFoundError where they are not.
    """
    import pyarrow as pa

    path = out / LIST_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}, the list of pictures, is missing: on several machines {out} must be a folder "
            "that all share"
        )
    with pa.memory_map(str(path)) as file:
        rows = pa.ipc.open_file(file).get_batch(shard).to_pydict()
    return rows["item"], torch.tensor(rows["label"])


def forget_runs(out: Path) -> None:
    """Count the processes that begin with a shard from 0 again; remove what a killed run listed."""
    for path in (*out.glob(".part-*.tries"), out / LIST_FILE):
        path.unlink(missing_ok=True)


def try_shard(out: Path, job: Job, shard: int) -> None:
    """Note that a process begins with a shard.

    Raises RuntimeError when TRIES others have, and did not come to its end: a picture that crashes
    its decoder, or memory that does not suffice, would end processes for ever.
    """
    path = _tries(out, job, shard)
    with path.open("ab") as file:
        file.write(b".")
    if path.stat().st_size > TRIES:
        rows = job.rows(shard)
        raise RuntimeError(
            f"{TRIES} processes ended while they encoded shard {shard} (pictures {rows[0]} to "
            f"{rows[-1]}): memory was short (fewer actors or a smaller batch size take less), or a "
            "picture crashes its decoder (encoding these alone without Ray shows which)"
        )


def write_shard(
    out: Path,
    job: Job,
    shard: int,
    codes: np.ndarray,
    items: Sequence[str],
    labels: np.ndarray,
    unreadable: Sequence[tuple[str, str]],
) -> None:
    """Write codes uint8 [n, B], items and labels of a shard's readable pictures, in order."""
    import pyarrow.parquet as pq

    layout = schema(job.bits, job.info, job.class_names, job.classes)
    rows = table(codes, items, labels, layout)
    about = json.dumps({"job": job.id, "shard": shard, "unreadable": unreadable})
    with (
        atomic_write(out / job.name(shard)) as file,
        pq.ParquetWriter(file, layout, compression="zstd", use_dictionary=False) as writer,
    ):
        writer.write_table(rows)
        # In this file's own metadata: the schema is to be the same in all.
        writer.add_key_value_metadata({_KEY.decode(): about})
    _tries(out, job, shard).unlink(missing_ok=True)


def written(out: Path, job: Job) -> dict[int, Shard]:
    """The shards of this job that are whole; only the ends of files are read."""
    found = {shard: _read_shard(out / job.name(shard), job, shard) for shard in range(job.shards)}
    return {shard: read for shard, read in found.items() if read is not None}


def check_whole(codes: Path) -> None:
    """Raise ValueError for the folder of a job of which shards are missing or damaged.

    Files, and folders without a job, are left to others.
    """
    path = codes / JOB_FILE
    if not path.exists():
        return
    job = _read_job(path)
    done = written(codes, job)
    missing = [job.name(shard) for shard in range(job.shards) if shard not in done]
    if missing:
        raise ValueError(
            f"{codes} is not whole: {len(missing)} of {job.shards} shards are missing or damaged, "
            f"the first is {missing[0]}; the same `hashfast encode` again writes them"
        )


def _tries(out: Path, job: Job, shard: int) -> Path:
    return out / f".{job.name(shard).removesuffix('.parquet')}.tries"


def _read_shard(path: Path, job: Job, shard: int) -> Shard | None:
    """None for a file that is missing, damaged, or of another job."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        end = pq.read_metadata(path)
        about = json.loads((end.metadata or {})[_KEY])
        unreadable = [(item, reason) for item, reason in about["unreadable"]]
    except (FileNotFoundError, pa.ArrowException, KeyError, ValueError):
        return None
    except OSError as error:
        if error.errno:  # of the file system, such as a lack of permission: the file may be whole
            raise
        return None
    whole = end.num_rows + len(unreadable) == len(job.rows(shard))
    if not whole or (about["job"], about["shard"]) != (job.id, shard):
        return None
    return Shard(end.num_rows, unreadable)


def _read_job(path: Path) -> Job:
    values = read_json(path)
    found = values.pop("format", None) if isinstance(values, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} has format {found!r}; this version of hashfast reads format {FORMAT}: the "
            "file is not a job's, or a later version wrote it"
        )
    try:
        return Job(**{**values, "class_names": tuple(values["class_names"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a job: {error}") from error


def _differences(stored: Job, job: Job) -> str:
    """What a person would look for; nothing for the same job."""
    found = []
    if stored.fingerprint != job.fingerprint:
        found.append(f"of a model with fingerprint {stored.fingerprint}, not {job.fingerprint}")
    if stored.items != job.items:
        found.append(f"of {stored.items} pictures, not {job.items}")
    elif stored.source != job.source:
        found.append("of other pictures, or the same with other labels")
    if stored.rows_per_shard != job.rows_per_shard:
        found.append(f"with --rows-per-shard {stored.rows_per_shard}, not {job.rows_per_shard}")
    return "; ".join(found)


def _digest(files: FileDataset) -> str:
    digest = hashlib.sha256(json.dumps(files.class_names).encode())
    digest.update(files.labels.numpy().tobytes())
    for item in items_of(files, range(len(files))):
        try:
            digest.update(item.encode() + b"\0")
        except UnicodeEncodeError:
            raise ValueError(
                f"the path {item!r} is not UTF-8, and Parquet holds no other names: rename the file"
            ) from None
    return digest.hexdigest()[:16]
