"""What runs found, kept in a folder: a JSON file each, so that no run is done twice."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hashfast._files import read_json, write_json
from hashfast.hashing import TrainConfig
from hashfast.hashing.loading import resolve_device

# Settings that say where and how fast, not what.
_FREE = {"root", "workers", "tensorboard"}


def identity(config: TrainConfig, **further: str) -> dict[str, Any]:
    """The settings that a run's result depends on, as JSON holds them."""
    settings = {key: value for key, value in asdict(config).items() if key not in _FREE}
    settings["device"] = resolve_device(config.device).type
    return json.loads(json.dumps({**settings, **further}))


class Runs:
    """Results by settings, each in a file that appears once its run is whole.

    An unfinished run has a folder instead, with what it needs to go on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self, name: str, settings: dict[str, Any], perform: Callable[[Path], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result kept for `settings`, or else that of `perform(folder)`, which is then kept.

        name: first part of the file's name, for people.
        """
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / f"{name}-{digest}.json"
        if path.is_file():
            return read_json(path)["result"]
        work = path.with_suffix("")
        work.mkdir(parents=True, exist_ok=True)
        result = perform(work)
        write_json(path, {"settings": settings, "result": result})
        shutil.rmtree(work)
        return result
