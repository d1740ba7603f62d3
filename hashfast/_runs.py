"""What runs found, kept in a folder: a JSON file each, so that no run is done twice."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hashfast._files import read_json, write_json


def digest(settings: dict[str, Any]) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


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
        readable = re.sub("[^0-9A-Za-z._-]+", "-", name)
        path = self.folder / f"{readable}-{digest(settings)}.json"
        if path.is_file():
            return read_json(path)["result"]
        work = path.with_suffix("")
        work.mkdir(parents=True, exist_ok=True)
        result = perform(work)
        write_json(path, {"settings": settings, "result": result})
        shutil.rmtree(work)
        return result
