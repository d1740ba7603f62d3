"""Batches of a dataset: straight from memory, or through a DataLoader."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from hashfast.data import ImageDataset, UnreadableImage

Batch = tuple[Tensor, Tensor, Tensor]
Unreadable = tuple[int, str]
"""Index of an item, and why it cannot be read."""


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first GPU, or the CPU when there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def shuffled(n: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Row numbers of every batch of an epoch, a function of (seed, epoch) alone.

    A last batch of one row joins the one before it, because batch norm needs two.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed for each (seed, epoch): a resumed run draws what an uninterrupted one drew."""
    return (seed * 1_000_003 + epoch) % 2**63


def seed_of(*place: int | str) -> int:
    """A seed that is a function of `place`, such as (seed, "network", number)."""
    return _hash(place) >> 1


def _hash(place: tuple[int | str, ...]) -> int:
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_draws(device: torch.device, *place: int | str) -> None:
    """Make what torch draws next a function of `place`, such as (seed, "loss", step)."""
    seed = _hash(place)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed costs ten times as much
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def empty_batch(dataset: ImageDataset, device: torch.device) -> Batch:
    """A batch of no rows, as `batches` yields them."""
    images = torch.empty(0, *dataset.image_shape, dtype=torch.uint8, device=device)
    none = torch.empty(0, dtype=torch.int64, device=device)
    labels = none if dataset.labels is None else dataset.labels[:0].to(device)
    return images, labels, none


def batches(
    dataset: ImageDataset, rows: Sequence[Tensor], device: torch.device, workers: int = 0
) -> Iterator[tuple[Batch | None, list[Unreadable]]]:
    """(images uint8, labels, indices) on `device` for each list of row numbers.

    Unreadable items are left out of their batch, which is None if nothing remains, and listed
    beside it.
    """
    if dataset.in_memory:
        for chosen in rows:
            images, labels, indices = dataset.batch(chosen)
            yield (images.to(device), labels.to(device), indices.to(device)), []
        return
    loader = DataLoader(
        _Tolerant(dataset),
        batch_sampler=[chosen.tolist() for chosen in rows],
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    for batch, unreadable in loader:
        if batch is not None:
            images, labels, indices = (part.to(device, non_blocking=True) for part in batch)
            batch = images, labels, indices
        yield batch, unreadable


class _Tolerant(torch.utils.data.Dataset):
    """A dataset whose unreadable items are (None, reason, index)."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor | None, int | Tensor | str, int]:
        try:
            return self.dataset[index]
        except UnreadableImage as error:
            return None, str(error), index


def _collate(items: list) -> tuple[Batch | None, list[Unreadable]]:
    unreadable = [(index, reason) for image, reason, index in items if image is None]
    readable = [item for item in items if item[0] is not None]
    return default_collate(readable) if readable else None, unreadable
