"""Checkpoints of a run: one file, replaced whole whenever a stretch of it is done."""

import io
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hashfast._files import atomic_write
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.model import CONFIG_FILE

CHECKPOINT_FILE = "checkpoint.pt"
FORMAT = 2
# Settings that may change between a run and its resumption without changing the result's meaning.
# (The teacher's folder: its fingerprint is compared.)
_FREE = {
    *("cache", "condensed", "device", "evaluate_every", "root", "teacher", "tensorboard"),
    "workers",
}


def save_checkpoint(
    folder: Path, config: Any, protocol: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write `state` with the settings it belongs to.

    config: a dataclass; protocol: what `Splits.describe` returns.
    """
    checkpoint = {"format": FORMAT, "config": _as_text(config), "protocol": protocol, **state}
    buffer = io.BytesIO()  # torch reports a full disk as an internal error
    torch.save(checkpoint, buffer)
    with atomic_write(folder / CHECKPOINT_FILE) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """The state that was saved last, on the CPU; only tensors and plain values are read.

    Raises ValueError naming a file that is damaged, or no checkpoint of this version.
    """
    path = folder / CHECKPOINT_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} has format {found!r}; this version of hashfast reads format {FORMAT}"
        )
    return state


def find_run(
    folder: Path, config: TrainConfig, protocol: dict[str, Any], resume: bool
) -> dict[str, Any] | None:
    """State of the run in `folder` to continue from; None where there is none.

    Raises FileExistsError for a run or model that would be overwritten, ValueError for other
    settings or data. Epochs may be added where the learning rate does not depend on their number.
    """
    if not (folder / CHECKPOINT_FILE).is_file():
        if (folder / CONFIG_FILE).is_file():
            raise FileExistsError(
                f"{folder} holds a model and no checkpoint to continue from: choose another folder"
            )
        return None
    state = load_checkpoint(folder)
    if "epoch" not in state:
        raise FileExistsError(f"{folder} holds a run of another kind: choose another folder")
    if not resume:
        raise FileExistsError(
            f"{folder} holds a run at epoch {state['epoch']} of {state['config']['epochs']}: "
            "continue it with resume (--resume), or choose another folder"
        )
    differ = differences(state, config, protocol, _FREE)
    fewer = config.epochs < state["epoch"]
    if config.schedule == "constant" and not fewer:
        differ.pop("epochs", None)
    if differ:
        why = ""
        if "epochs" in differ:
            why = (
                f" (it has trained {state['epoch']} epochs already)"
                if fewer
                else " (a cosine over other epochs has another learning rate at every step; only "
                "runs with schedule=constant can be extended)"
            )
        raise ValueError(
            f"{folder} was trained with other settings: {'; '.join(differ.values())}{why}"
        )
    return state


def differences(
    state: dict[str, Any], config: Any, protocol: dict[str, Any], free: Collection[str]
) -> dict[str, str]:
    """Settings and facts of the data that a checkpoint has otherwise: {name: "name old -> new"}.

    config: a dataclass; free: its fields that may differ.
    """
    pairs = [
        (key, state["config"].get(key), value)
        for key, value in _as_text(config).items()
        if key not in free
    ]
    pairs += [(f"data {key}", state["protocol"].get(key), protocol[key]) for key in protocol]
    return {key: f"{key} {theirs} -> {ours}" for key, theirs, ours in pairs if theirs != ours}


def _as_text(config: Any) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(config).items()}
