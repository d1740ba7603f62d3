from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hashfast.cli._run import Output

if TYPE_CHECKING:
    from hashfast.data import ImageDataset
    from hashfast.hashing import HashModel


@dataclass(frozen=True)
class Command:
    """Turn pictures, or a protocol's images, into a gallery of codes."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder of pictures (class folders give labels), or a protocol such as digits."""
    model: Path
    """Folder of a trained model."""
    out: Path
    """Folder for the gallery."""
    split: Literal["database", "query", "train"] = "database"
    """Which set of a protocol."""
    root: Path | None = None
    """Where a protocol's data lies."""
    split_seed: int = 0
    """Seed of the protocol's split."""
    batch_size: int = 256
    """Images a step."""
    workers: int = 0
    """Processes that decode pictures."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    strict: bool = False
    """Fail at the first unreadable picture instead of listing it in unreadable.csv."""

    def run(self) -> Output:
        from hashfast.hashing import HashModel, encode_dataset
        from hashfast.hashing.loading import resolve_device
        from hashfast.index import Gallery

        model = HashModel.from_pretrained(self.model, str(resolve_device(self.device)))
        dataset, names = self._dataset(model)
        codes, _, labels, indices, unreadable = encode_dataset(
            model,
            dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            strict=self.strict,
            progress=True,
        )
        if not len(codes):
            raise ValueError(f"none of the {len(dataset)} pictures in {self.source} is readable")
        info = {
            "source": self.source,
            "model": str(self.model.resolve()),
            "fingerprint": model.fingerprint(),
        }
        items = [names(int(i)) for i in indices]
        Gallery.of(codes.numpy(), model.bits, items, labels.numpy(), info).save(self.out)
        self._list_unreadable([(names(i), reason) for i, reason in unreadable])
        left_out = f"; {len(unreadable)} unreadable, see unreadable.csv" if unreadable else ""
        return Output(
            f"{len(codes)} codes of {model.bits} bits in {self.out}{left_out}",
            {**info, "codes": len(codes), "unreadable": len(unreadable), "out": str(self.out)},
        )

    def _dataset(self, model: "HashModel"):
        """The dataset of `source`, and a function from its rows to item names."""
        from hashfast.data import PROTOCOLS, FileDataset, load

        channels, size, _ = model.config.image_shape
        folder = Path(self.source)
        if self.source in PROTOCOLS and not folder.is_dir():
            splits = load(self.source, self.root, self.split_seed, size)
            dataset: ImageDataset = getattr(splits, self.split)
            path = getattr(dataset, "path", None)
            return dataset, path or (lambda row: f"{self.source}/{self.split}/{row}")
        if not folder.exists():
            raise FileNotFoundError(
                f"{self.source} is neither a folder nor a protocol ({', '.join(PROTOCOLS)})"
            )
        try:
            files = FileDataset.from_classes(folder, image_size=size, channels=channels)
        except FileNotFoundError:
            files = FileDataset.from_folder(folder, image_size=size, channels=channels)
        return files, files.path

    def _list_unreadable(self, unreadable: list[tuple[str, str]]) -> None:
        import csv
        import io

        from hashfast._files import write_text

        path = self.out / "unreadable.csv"
        if not unreadable:
            path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("item", "reason"), *unreadable])
        write_text(path, text.getvalue())
