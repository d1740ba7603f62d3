"""Checkpoints of a training run: one file, replaced whole after every epoch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hashfast._files import atomic_write
from hashfast.hashing.config import TrainConfig

CHECKPOINT_FILE = "checkpoint.pt"
# Settings that may change between a run and its resumption without changing the result's meaning.
_FREE = {"device", "workers", "root", "evaluate_every"}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    with atomic_write(folder / CHECKPOINT_FILE) as file:
        torch.save(state, file)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state of the last whole epoch; only tensors and plain values are read.

    Raises ValueError naming a file that is damaged.
    """
    path = folder / CHECKPOINT_FILE
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error


def check_resumable(folder: Path, config: TrainConfig, resume: bool) -> None:
    """Raise FileExistsError for a run that would be overwritten, ValueError for other settings."""
    if not (folder / CHECKPOINT_FILE).is_file():
        return
    state = load_checkpoint(folder)
    if not resume:
        raise FileExistsError(
            f"{folder} holds a run at epoch {state['epoch']} of {state['config']['epochs']}: "
            "continue it with resume (--resume), or choose another folder"
        )
    ours = {key: str(value) for key, value in asdict(config).items()}
    differ = [
        f"{key} {state['config'].get(key)} -> {value}"
        for key, value in ours.items()
        if key not in _FREE and state["config"].get(key) != value
    ]
    if differ:
        raise ValueError(f"{folder} was trained with other settings: {'; '.join(differ)}")
