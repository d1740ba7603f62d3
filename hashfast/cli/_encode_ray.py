"""`hashfast encode --engine ray`: a folder of pictures to Parquet shards of codes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hashfast.cli._run import Output
from hashfast.cli._sources import read_source

if TYPE_CHECKING:
    from hashfast.cli.encode import Command

GPUS = {"auto": None, "cpu": 0, "cuda": 1}
"""GPUs of an actor, by --device."""


def check(command: "Command") -> None:
    """Raise ValueError for options that the engine does not have."""
    if command.model is None:
        raise ValueError(
            "--engine ray needs --model: fit one on a sample of the pictures first, `hashfast "
            "encode SAMPLE --out sample`, and encode all with --model sample/model"
        )
    for name, default in (("split", "database"), ("root", None), ("split_seed", 0)):
        if getattr(command, name) != default:
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to protocols, and --engine ray encodes "
                "folders of pictures: leave one of the two out"
            )
    if command.device not in GPUS:
        raise ValueError(
            f"device is {command.device}; --engine ray takes {', '.join(GPUS)}: Ray chooses the "
            "GPU of each actor"
        )
    for name in ("actors", "rows_per_shard"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def encode(command: "Command") -> Output:
    """What the command does; see encode_with_ray."""
    from hashfast._environment import environment
    from hashfast.cli.encode import list_unreadable
    from hashfast.data import PROTOCOLS
    from hashfast.hashing import HashModel
    from hashfast.hashing.encode_ray import ROWS_PER_SHARD, encode_with_ray
    from hashfast.hashing.loading import resolve_device

    if command.source in PROTOCOLS and not Path(command.source).is_dir():
        raise ValueError(
            f"{command.source} is a protocol, and --engine ray encodes folders of pictures: leave "
            "--engine ray out"
        )
    assert command.model is not None
    config = HashModel.from_pretrained(command.model).config
    channels, size, _ = config.image_shape
    source = read_source(command.source, size, channels, command.split, None, 0)
    info = {**source.info, "environment": environment(resolve_device(command.device))}
    with _output_kept_clean():
        written = encode_with_ray(
            command.model,
            source.dataset,  # type: ignore[arg-type]  # of a folder or picture: files
            command.out,
            info=info,
            rows_per_shard=command.rows_per_shard or ROWS_PER_SHARD,
            batch_size=command.batch_size,
            actors=command.actors,
            workers=command.workers,
            num_gpus=GPUS[command.device],
            address=command.address or "local",
            strict=command.strict,
            overwrite=command.overwrite,
            progress=True,
        )
    list_unreadable(command.out, written.unreadable)
    if not written.codes:
        raise ValueError(
            f"none of the {len(source.dataset)} pictures in {command.source} is readable; the "
            f"first: {written.unreadable[0][1]}"
        )
    kept = f", {written.kept} of them there before" if written.kept else ""
    left_out = f"; {len(written.unreadable)} unreadable, see unreadable.csv"
    return Output(
        f"{written.codes} codes of {config.bits} bits in {command.out}, in {written.shards} shards"
        f"{kept}{left_out * bool(written.unreadable)}\n"
        f"`hashfast index {command.out} --out GALLERY` makes a gallery of them",
        {
            **info,
            "codes": written.codes,
            "unreadable": len(written.unreadable),
            "shards": written.shards,
            "kept": written.kept,
            "out": str(command.out),
        },
    )


@contextmanager
def _output_kept_clean() -> Iterator[None]:
    """What Ray and its processes print goes to standard error: standard output is the result's."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
