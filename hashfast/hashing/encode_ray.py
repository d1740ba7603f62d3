"""Codes of many pictures, computed by Ray Data on one machine or many, as Parquet shards."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tqdm import tqdm

from hashfast.data import FileDataset, UnreadableImage
from hashfast.hashing.encode import default_batch_size, encode_dataset
from hashfast.hashing.encode_job import (
    Job,
    Shard,
    begin,
    forget_runs,
    listed,
    pictures,
    try_shard,
    write_shard,
    written,
)
from hashfast.hashing.model import HashModel

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_SHARD = 10_000
OBJECT_STORE = 100 << 20  # bytes: only the numbers of shards travel


class Written(NamedTuple):
    """codes: how many there are; unreadable: (item, reason) of the other pictures; shards: how many
    there are; kept: how many of them were there already."""

    codes: int
    unreadable: list[tuple[str, str]]
    shards: int
    kept: int


class ShardEncoder:
    """What every actor does: load the model once, and write a file for each shard it is given."""

    def __init__(
        self,
        job: Job,
        out: Path,
        model: Path,
        device: str,
        batch_size: int | None,
        workers: int,
        strict: bool,
    ) -> None:
        self.job, self.out, self.folder, self.device = job, out, model, device
        self.options: dict[str, Any] = {"workers": workers, "strict": strict}
        self.batch_size = batch_size
        self.model: HashModel | None = None

    def __call__(self, rows: "pa.Table") -> "pa.Table":
        """Encode the shard of the one row (shard).

        Returns a row (shard, error, unreadable): what went wrong, if anything, and whether that was
        an unreadable picture. An exception would come out of Ray as a page of its own frames.
        """
        import pyarrow as pa

        (row,) = rows.to_pylist()
        error, unreadable = "", False
        try:
            try_shard(self.out, self.job, row["shard"])
            self._encode(row["shard"], *pictures(self.out, row["shard"]))
        except UnreadableImage as caught:
            error, unreadable = str(caught), True
        except Exception as caught:
            error = str(caught) or type(caught).__name__
        return pa.table({"shard": [row["shard"]], "error": [error], "unreadable": [unreadable]})

    def _encode(self, shard: int, items: list[str], labels: torch.Tensor) -> None:
        model = self.model = self.model or self._load()
        channels, size, _ = model.config.image_shape
        files = FileDataset(items, labels, image_size=size, channels=channels)
        batch_size = self.batch_size or default_batch_size(model.mean.device, size)
        encoded = encode_dataset(model, files, batch_size=batch_size, **self.options)
        write_shard(
            self.out,
            self.job,
            shard,
            encoded.codes.numpy(),
            [items[i] for i in encoded.indices.tolist()],
            files.labels[encoded.indices].numpy(),  # of the right shape even where there are none
            [(items[i], reason) for i, reason in encoded.unreadable],
        )

    def _load(self) -> HashModel:
        """Raises ValueError when the model is not the job's."""
        model = HashModel.from_pretrained(self.folder, self.device)
        found = model.fingerprint()
        if found != self.job.fingerprint:
            raise ValueError(
                f"the model in {self.folder} has fingerprint {found}; this job began with "
                f"{self.job.fingerprint}: it was replaced, or is another on this machine"
            )
        return model


def encode_with_ray(
    model: str | os.PathLike,
    files: FileDataset,
    out: str | os.PathLike,
    *,
    info: dict[str, Any] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    batch_size: int | None = None,
    actors: int | None = None,
    workers: int = 0,
    num_gpus: int | None = None,
    address: str = "local",
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Written:
    """Write the codes of `files` into the folder `out` as shards of a Parquet set.

    The codes are those of `encode_dataset`, in the same order. A run that was cut short goes on
    where it stopped: shards of the same model, list of pictures and rows_per_shard are kept. On
    several machines the model's folder, the pictures and `out` have the same paths on all.

    Args:
        model: folder of a HashModel.
        info: JSON-ready facts that the shards keep, as a gallery does.
        batch_size: pictures a step (default: `default_batch_size`).
        actors: processes that hold a model (default: as many as the cluster has room for).
        workers: processes that decode pictures for each actor; 0: the actor does it.
        num_gpus: GPUs of an actor, 0 or 1 (default: 1 where the cluster has GPUs).
        address: a Ray cluster: "local" starts one here and stops it at the end, "auto" takes the
            one that this machine belongs to or RAY_ADDRESS names. Where Ray runs in this process
            already, that is used.
        strict: raise UnreadableImage for the first unreadable picture that is met, or listed by a
            shard that is kept.
        overwrite: begin anew where `out` holds shards.

    Raises ImportError without Ray; FileExistsError where `out` holds something else; ValueError for
    images of another shape than the model's and more actors than the cluster has room for;
    RuntimeError for what goes wrong on an actor, such as outputs that are not finite. Shards that
    are written stay.
    """
    _import_ray()
    out, model = Path(out).resolve(), Path(model).resolve()
    job = begin(out, _job(model, files, rows_per_shard, info or {}), overwrite)
    forget_runs(out)
    kept = written(out, job)
    if strict:
        _refuse_unreadable(kept)
    with tqdm(total=job.items, unit="img", desc="encode", disable=not progress) as bar:
        bar.update(sum(len(job.rows(shard)) for shard in kept))
        todo = [shard for shard in range(job.shards) if shard not in kept]
        if todo:
            with _cluster(address), _quiet(), listed(out, job, files):
                pool = _pool(actors, workers, num_gpus, len(todo))
                device = "cuda" if pool["num_gpus"] else "cpu"
                encoder = (job, out, model, device, batch_size, workers, strict)
                for shard in _encoded(todo, encoder, pool):
                    bar.update(len(job.rows(shard)))
    return _summed(out, job, len(kept))


def _job(model: Path, files: FileDataset, rows_per_shard: int, info: dict[str, Any]) -> Job:
    """Raises ValueError for pictures of another shape than the model's, and as `Job.of`."""
    loaded = HashModel.from_pretrained(model)
    if tuple(files.image_shape) != tuple(loaded.config.image_shape):
        raise ValueError(
            f"the pictures are loaded as {files.image_shape} and the model takes "
            f"{loaded.config.image_shape} (channels, height, width)"
        )
    facts = {
        **info,
        "model": str(model),
        "fingerprint": loaded.fingerprint(),
        "code_spaces": list(loaded.code_spaces()),
    }
    return Job.of(files, loaded.fingerprint(), loaded.bits, rows_per_shard, facts)


def _summed(out: Path, job: Job, kept: int) -> Written:
    """Raises RuntimeError unless all shards are there."""
    done = written(out, job)
    if len(done) < job.shards:
        raise RuntimeError(
            f"{job.shards - len(done)} of {job.shards} shards were encoded and are not in {out}: "
            "on several machines it must be a folder that all share"
        )
    unreadable = [pair for shard in sorted(done) for pair in done[shard].unreadable]
    return Written(sum(s.codes for s in done.values()), unreadable, job.shards, kept)


def _refuse_unreadable(kept: dict[int, Shard]) -> None:
    """A run without `strict` may have written shards that this one does not allow."""
    for shard in kept.values():
        for _, reason in shard.unreadable:
            raise UnreadableImage(reason)


def _encoded(todo: list[int], arguments: tuple, pool: dict[str, Any]) -> Iterator[int]:
    """The numbers of shards, each once it is written.

    arguments: those of ShardEncoder; pool: what `_pool` found.
    """
    import pyarrow as pa

    ray = _import_ray()
    # A row is a shard and a block of its own: Ray neither cuts one nor joins two.
    blocks = [pa.table({"shard": [shard]}) for shard in todo]
    results = ray.data.from_arrow(blocks).map_batches(
        ShardEncoder,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool["actors"], max_tasks_in_flight_per_actor=1),
        num_cpus=pool["num_cpus"],
        num_gpus=pool["num_gpus"],
    )
    for row in results.iter_rows():
        if row["error"]:
            raise (UnreadableImage if row["unreadable"] else RuntimeError)(row["error"])
        yield row["shard"]


def _pool(actors: int | None, workers: int, num_gpus: int | None, shards: int) -> dict[str, Any]:
    """How many actors, and the CPUs and GPUs of each."""
    found = _import_ray().cluster_resources()
    gpus = min(1, int(found.get("GPU", 0))) if num_gpus is None else num_gpus
    needs = {"CPU": 1 + workers, **({"GPU": gpus} if gpus else {})}
    room = min(int(found.get(kind, 0) // need) for kind, need in needs.items())
    if room < (actors or 1):
        each = " and ".join(f"{need} {kind}" for kind, need in needs.items())
        has = " and ".join(f"{int(found.get(kind, 0))} {kind}" for kind in needs)
        raise ValueError(
            f"{actors or 1} actors take {each} each, and the Ray cluster has {has}: at most {room}"
        )
    return {"actors": min(actors or room, shards), "num_cpus": needs["CPU"], "num_gpus": gpus}


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Ray, started or reached where it does not run in this process yet."""
    ray = _import_ray()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **(own if address == "local" else {}),
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without bars, notes and a limit on how long a shard may take."""
    context = _import_ray().data.DataContext.get_current()
    settings = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "execution_no_progress_timeout_s": -1,
    }
    before = {name: getattr(context, name) for name in settings}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # errors are raised, and then said once
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "encoding with Ray needs it installed: pip install 'hashfast[ray]'"
        ) from error
    return ray
