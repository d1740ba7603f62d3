import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hashfast.cli import _encode_ray
from hashfast.cli._fit import MODEL_FOLDER, Fit, sentence
from hashfast.cli._run import Output
from hashfast.cli._sources import Source, read_source

if TYPE_CHECKING:
    import torch

    from hashfast.hashing import HashModel
    from hashfast.hashing.encode import Encoded

UNREADABLE_FILE = "unreadable.csv"


@dataclass(frozen=True)
class Command:
    """Turn pictures, or a protocol's images, into a gallery of codes.

    Without --model one is made on the spot, without labels: a network's features (EfficientNet-Lite
    trained on ImageNet) under a projection fitted on these pictures. Its codes find near-duplicates
    and similar pictures; it is kept in the gallery's folder model/.

    With --engine ray many processes, on one machine or a cluster, encode pictures into Parquet
    shards, and the same command again goes on where it stopped; `hashfast index OUT --out GALLERY`
    makes a gallery of them.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A folder of pictures (sub-folders are its classes), a picture, or a protocol like digits."""
    out: Path
    """Folder for the gallery, or for the shards."""
    model: Path | None = None
    """Folder of a trained or fitted model (default: fit a new one)."""
    bits: int | None = None
    """Length of the codes of a new model (default: 64)."""
    backbone: str | None = None
    """Network of a new model (default: efficientnet-lite0; pixels needs no weights)."""
    head: Literal["auto", "itq", "random"] | None = None
    """Projection of a new model (default: auto, ITQ from 2 pictures a bit, random below)."""
    weights: str | None = None
    """Weights of a new model's network: a file, or `pretrained` (the default)."""
    split: Literal["database", "query", "train"] = "database"
    """Which set of a protocol."""
    root: Path | None = None
    """Where a protocol's data lies."""
    split_seed: int = 0
    """Seed of the protocol's split."""
    batch_size: int | None = None
    """Images a step (default: 256; 16 where large ones meet a CPU, whose memory is slow)."""
    workers: int = 0
    """Processes that decode pictures; with --engine ray so many for each actor."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    strict: bool = False
    """Fail at the first unreadable picture instead of listing it in unreadable.csv."""
    overwrite: bool = False
    """Replace a gallery, or shards, that are there already."""
    engine: Literal["torch", "ray"] = "torch"
    """torch: this process; ray: actors of a Ray cluster (needs `hashfast[ray]` and --model)."""
    actors: int | None = None
    """With --engine ray: processes that hold a model (default: as many as there is room for)."""
    rows_per_shard: int | None = None
    """With --engine ray: pictures a Parquet file (default: 10000)."""
    address: Literal["local", "auto"] | None = None
    """With --engine ray: local, a cluster of this machine for this run (the default), or auto, the
    one this machine belongs to or RAY_ADDRESS names."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "bits"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must not be negative")
        if self.model is not None and self._new_model():
            raise ValueError(
                f"--{', --'.join(self._new_model())} would make a new model and --model names one: "
                "leave one of the two out"
            )
        if self.engine == "ray":
            _encode_ray.check(self)
            return
        for name in ("actors", "rows_per_shard", "address"):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --engine ray")

    def run(self) -> Output:
        if self.engine == "ray":
            return _encode_ray.encode(self)
        from hashfast._environment import environment
        from hashfast.hashing.loading import resolve_device
        from hashfast.index import Gallery

        check_out(self.out, self.overwrite, new_model=self.model is None)
        device = resolve_device(self.device)
        source, model, encoded, facts = self._encode(device)
        codes, _, labels, indices, unreadable = encoded
        if not len(codes):
            raise ValueError(
                f"none of the {len(source.dataset)} pictures in {self.source} is readable; the "
                f"first: {unreadable[0][1]}"
            )
        info = {
            **source.info,
            **facts,
            "fingerprint": model.fingerprint(),
            "code_spaces": list(model.code_spaces()),
            "environment": environment(device),
        }
        items = [source.item(int(i)) for i in indices]
        gallery = Gallery.of(
            codes.numpy(), model.bits, items, labels.numpy(), info, source.class_names
        )
        gallery.save(self.out)
        list_unreadable(self.out, [(source.item(i), reason) for i, reason in unreadable])
        left_out = f"; {len(unreadable)} unreadable, see unreadable.csv" if unreadable else ""
        fitted = f"\n{sentence(facts['fitted'], model.bits)}" if "fitted" in facts else ""
        return Output(
            f"{len(codes)} codes of {model.bits} bits in {self.out}{left_out}{fitted}",
            {**info, "codes": len(codes), "unreadable": len(unreadable), "out": str(self.out)},
        )

    def _encode(
        self, device: "torch.device"
    ) -> "tuple[Source, HashModel, Encoded, dict[str, Any]]":
        """The pictures, the model, the codes, and facts about the model."""
        from hashfast.hashing import HashModel, encode_dataset

        if self.model is not None:
            model = HashModel.from_pretrained(self.model, str(device))
            channels, size, _ = model.config.image_shape
            source = self._read(size, channels)
            encoded = encode_dataset(model, source.dataset, **self._options(device, size))
            return source, model, encoded, {"model": str(self.model.resolve())}
        fit = Fit(**self._new_model())
        size = fit.image_size
        source = self._read(size, None)
        model, encoded, fitted = fit.run(source.dataset, device, **self._options(device, size))
        # Before the gallery: there is never one whose model is missing.
        folder = self.out / MODEL_FOLDER
        model.save_pretrained(folder)
        return source, model, encoded, {"model": str(folder.resolve()), "fitted": fitted}

    def _options(self, device: "torch.device", size: int) -> dict[str, Any]:
        from hashfast.hashing.encode import default_batch_size

        return {
            "batch_size": self.batch_size or default_batch_size(device, size),
            "workers": self.workers,
            "strict": self.strict,
            "progress": True,
        }

    def _read(self, size: int, channels: int | None) -> Source:
        return read_source(self.source, size, channels, self.split, self.root, self.split_seed)

    def _new_model(self) -> dict[str, Any]:
        """The settings of a new model that were given."""
        names = ("bits", "backbone", "head", "weights")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def list_unreadable(out: Path, unreadable: list[tuple[str, str]]) -> None:
    """Write (item, reason) of what is not in a gallery beside it, or remove an older such list."""
    from hashfast._files import atomic_write
    from hashfast.index.gallery import csv_bytes

    path = out / UNREADABLE_FILE
    if not unreadable:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.write(csv_bytes([("item", "reason"), *unreadable]))


def read_unreadable(folder: Path) -> list[tuple[str, str]]:
    """What `list_unreadable` wrote; nothing where there is no list."""
    path = folder / UNREADABLE_FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(item, reason) for item, reason in csv.reader(file)][1:]


def check_out(out: Path, overwrite: bool, new_model: bool = False) -> None:
    """Refuse, before anything is computed, a folder whose gallery, or model if a new one comes
    there, would be lost, and one of shards, which a gallery would hide."""
    from hashfast.hashing.encode_job import JOB_FILE
    from hashfast.index.gallery import CODES_FILE, INFO_FILE, ITEMS_FILE

    if (out / JOB_FILE).exists():
        raise FileExistsError(
            f"{out} holds shards of --engine ray, not a gallery: choose another --out"
        )
    names = [CODES_FILE, ITEMS_FILE, INFO_FILE, *[MODEL_FOLDER] * new_model]
    if not overwrite and any((out / name).exists() for name in names):
        raise FileExistsError(
            f"{out} holds a gallery already: --overwrite replaces it, or choose another --out"
        )
