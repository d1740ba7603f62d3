from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from hashfast.cli._run import Output


@dataclass(frozen=True)
class Command:
    """List methods, presets, protocols and backbones, or describe one method or preset."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """A method or preset: its arguments or settings."""
    backbones: bool = False
    """List every torchvision backbone too."""

    def __post_init__(self) -> None:
        from hashfast.losses import METHODS
        from hashfast.presets import find_preset

        if self.name and self.name not in METHODS:
            find_preset(self.name)

    def run(self) -> Output:
        from hashfast.losses import METHODS

        if not self.name:
            return self._listed()
        return _method(self.name) if self.name in METHODS else _preset(self.name)

    def _listed(self) -> Output:
        from hashfast.data import PROTOCOLS
        from hashfast.hashing import list_backbones
        from hashfast.hashing.backbones import OWN_BACKBONES
        from hashfast.hashing.efficientnet_lite import NAMES
        from hashfast.losses import METHODS
        from hashfast.presets import FAMILIES, PRESETS

        methods = {name: (cls.__doc__ or "").split("\n")[0] for name, cls in METHODS.items()}
        protocols = {
            name: f"{protocol.description} ({protocol.where})"
            if protocol.where
            else protocol.description
            for name, protocol in PROTOCOLS.items()
        }
        backbones = list_backbones() if self.backbones else [*OWN_BACKBONES, *NAMES]
        text = "\n".join(
            [
                "methods (--method), each with --quantization original | hswd | swd | none; "
                "methods NAME tells more",
                *(f"  {name:<16} {what}" for name, what in methods.items()),
                "",
                "presets (--preset), settings of papers for the other options; methods PRESET "
                "shows them",
                *(f"  {name:<30} {what}" for name, what in FAMILIES.items()),
                "",
                "protocols (--data)",
                *(f"  {name:<16} {what}" for name, what in protocols.items()),
                "",
                "backbones (--backbone), and timm/NAME"
                + ("" if self.backbones else " and torchvision's (methods --backbones)"),
                *(f"  {name}" for name in backbones),
            ]
        )
        presets = {name: preset.description for name, preset in PRESETS.items()}
        lists = {"presets": presets, "protocols": protocols, "backbones": backbones}
        return Output(text, {"methods": methods, **lists})


def _method(name: str) -> Output:
    import inspect

    from hashfast.hashing.methods import arguments
    from hashfast.losses import METHODS

    text = inspect.getdoc(METHODS[name]) or ""
    defaults = arguments(name)
    lines = [f"  {key}={value}" for key, value in defaults.items()]
    found = "\n".join(["", "arguments (--options) and their defaults", *lines] if lines else [])
    facts: dict[str, Any] = {
        "method": name,
        "arguments": defaults,
        "head": METHODS[name].head,
        "memory_bank": METHODS[name].bank,
    }
    return Output(f"{text}\n{found}", {**facts, "description": text})


def _preset(name: str) -> Output:
    from hashfast.presets import find_preset

    preset = find_preset(name)
    settings = dict(preset.settings)
    lines = [f"  --{key.replace('_', '-')} {_words(value)}" for key, value in settings.items()]
    text = "\n".join([preset.description, f"source: {preset.source}", *lines])
    return Output(
        text,
        {
            "preset": name,
            "description": preset.description,
            "source": preset.source,
            "settings": settings,
        },
    )


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
