"""What the result of a run depends on."""

import json
from dataclasses import asdict
from typing import Any

from hashfast.condense import CondenseConfig
from hashfast.hashing import TrainConfig
from hashfast.hashing.loading import resolve_device

# Settings that say where and how fast, not what; what a run is given instead of its training set
# is named besides.
_FREE = {"root", "workers", "tensorboard", "pool_folder", "condensed"}


def identity(config: TrainConfig | CondenseConfig, **further: Any) -> dict[str, Any]:
    """The settings that a run's result depends on, as JSON holds them."""
    settings = {key: value for key, value in asdict(config).items() if key not in _FREE}
    settings["device"] = resolve_device(config.device).type
    return json.loads(json.dumps({**settings, **further}))
