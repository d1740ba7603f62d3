"""Named settings of papers, as data: `hashfast train --preset 002/csq-c`.

A preset gives defaults; whatever else is asked for wins (`--options` as a whole). 000 and 001 are
the preprint and the published version of "Towards Efficient Deep Hashing Retrieval: Condensing Your
Data via Feature-Embedding Matching" (IEM), for `hashfast condense`; 002 is "One Loss for
Quantization: Deep Hashing with Discrete Wasserstein Distributional Matching" (HSWD) and 003 "Deep
Hash Distillation for Image Retrieval" (DHD), for `hashfast train`; 004 is "Bit-mask Robust
Contrastive Knowledge Distillation for Unsupervised Semantic Hashing" (BRCD), teachers for `hashfast
train` and students for `hashfast distill`. Presets called fashion-mnist/...
are stand-ins: the same methods on data and a network small enough for a CPU.
"""

import difflib

from hashfast.presets import condensation, distillation, training
from hashfast.presets.preset import STAND_IN, Preset
from hashfast.presets.training import QUANTIZATION_METHODS, SUFFIXES

__all__ = [
    "FAMILIES",
    "PRESETS",
    "QUANTIZATION_METHODS",
    "STAND_IN",
    "SUFFIXES",
    "Preset",
    "find_preset",
]

PRESETS: dict[str, Preset] = {
    **condensation.PRESETS,
    **training.PRESETS,
    **distillation.PRESETS,
}
"""Name -> preset: PAPER/METHOD, with -s for SWD and -c for HSWD as 002 writes them."""

FAMILIES = {**condensation.FAMILIES, **training.FAMILIES, **distillation.FAMILIES}
"""A line for each group of presets."""


def find_preset(name: str, command: str | None = None) -> Preset:
    """The preset of that name; command: the one that is to take it, any if None.

    Raises ValueError, with close names, for an unknown one, and for one of another command.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=4) or list(FAMILIES)
        raise ValueError(
            f"unknown preset {name!r}; close names: {', '.join(close)} (hashfast methods lists all)"
        )
    preset = PRESETS[name]
    if command is not None and preset.command != command:
        raise ValueError(
            f"preset {name} is for hashfast {preset.command}, not for hashfast {command}: "
            f"hashfast {preset.command} --preset {name}"
        )
    return preset
