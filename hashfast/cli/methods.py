import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from hashfast.cli._run import Output


@dataclass(frozen=True)
class Command:
    """List methods, presets, protocols and backbones, or describe one method or preset."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """A hashing or distillation loss, condensation method or preset: its arguments or settings."""
    backbones: bool = False
    """List every torchvision backbone too."""

    def __post_init__(self) -> None:
        from hashfast import condense, losses
        from hashfast.presets import find_preset

        known = {**_hashing(), **losses.DISTILLATION, **condense.METHODS}
        if self.name and self.name not in known:
            find_preset(self.name)

    def run(self) -> Output:
        from hashfast import condense, losses

        if not self.name:
            return self._listed()
        if self.name in _hashing():
            return _hashing_loss(self.name)
        if self.name in losses.DISTILLATION:
            return _distillation(self.name)
        return _condensation(self.name) if self.name in condense.METHODS else _preset(self.name)

    def _listed(self) -> Output:
        from hashfast import condense
        from hashfast.data import PROTOCOLS
        from hashfast.hashing import list_backbones
        from hashfast.hashing.backbones import OWN_BACKBONES
        from hashfast.hashing.efficientnet_lite import NAMES
        from hashfast.losses import DISTILLATION, METHODS, UNSUPERVISED
        from hashfast.presets import FAMILIES, PRESETS

        methods, unsupervised, distillation = (
            {name: (cls.__doc__ or "").split("\n")[0] for name, cls in table.items()}
            for table in (METHODS, UNSUPERVISED, DISTILLATION)
        )
        aligned = [name for name, loss in DISTILLATION.items() if loss.aligns]
        condensation = {name: method.summary for name, method in condense.METHODS.items()}
        protocols = {
            name: f"{protocol.description} ({protocol.where})"
            if protocol.where
            else protocol.description
            for name, protocol in PROTOCOLS.items()
        }
        backbones = list_backbones() if self.backbones else [*OWN_BACKBONES, *NAMES]
        text = "\n".join(
            [
                "methods of train (--method), each with --quantization original | hswd | swd | "
                "none; methods NAME tells more",
                *(f"  {name:<16} {what}" for name, what in methods.items()),
                "",
                "methods of train without labels (--method), with the same --quantization",
                *(f"  {name:<24} {what}" for name, what in unsupervised.items()),
                "",
                "losses of distill (--distillation); a student's codes fit among its teacher's by "
                + " and ".join(aligned),
                *(f"  {name:<16} {what}" for name, what in distillation.items()),
                "",
                "methods of condense (--method); methods NAME tells more",
                *(f"  {name:<16} {what}" for name, what in condensation.items()),
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
        listed = {
            "methods": methods,
            "unsupervised": unsupervised,
            "distillation": distillation,
            "condensation": condensation,
            "presets": presets,
            "protocols": protocols,
            "backbones": backbones,
        }
        return Output(text, listed)


def _hashing() -> dict[str, Any]:
    """Every hashing loss, with labels and without, by its name."""
    from hashfast.losses import METHODS, UNSUPERVISED

    return {**METHODS, **UNSUPERVISED}


def _hashing_loss(name: str) -> Output:
    loss = _hashing()[name]
    return _loss(name, loss, "--options", {"head": loss.head, "memory_bank": loss.bank})


def _distillation(name: str) -> Output:
    from hashfast.losses import DISTILLATION

    loss = DISTILLATION[name]
    views = loss.views if "teacher_aug" in loss.needs else None
    return _loss(name, loss, "--distillation-options", {"aligns": loss.aligns, "views": views})


def _loss(name: str, loss: Any, option: str, facts: dict[str, Any]) -> Output:
    """facts: class attributes to name beside the arguments, which `option` takes."""
    from hashfast.hashing.methods import arguments

    text, defaults = inspect.getdoc(loss) or "", arguments(loss)
    facts = {**facts, "needs": list(loss.needs)}
    lines = [
        f"{key.replace('_', ' ')}: {'none' if value in (None, []) else _words(value)}"
        for key, value in facts.items()
    ]
    if defaults:
        lines += ["", f"arguments ({option}) and their defaults"]
        lines += [f"  {key}={value}" for key, value in defaults.items()]
    found = {"method": name, "arguments": defaults, **facts, "description": text}
    return Output("\n".join([text, "", *lines]), found)


def _condensation(name: str) -> Output:
    from hashfast.condense import METHODS, CondenseConfig

    method, ipc = METHODS[name], CondenseConfig.ipc
    text, defaults = inspect.getdoc(method) or "", method.defaults(ipc)
    lines = [text, "", f"settings of its own, with {ipc} images a class", *_options(defaults)]
    found = {"method": name, "ipc": ipc, "defaults": defaults, "description": text}
    return Output("\n".join(lines), found)


def _preset(name: str) -> Output:
    from hashfast.presets import find_preset

    preset = find_preset(name)
    settings = dict(preset.settings)
    lines = [
        preset.description,
        f"for hashfast {preset.command}; source: {preset.source}",
        *_options(settings),
    ]
    return Output(
        "\n".join(lines),
        {
            "preset": name,
            "command": preset.command,
            "description": preset.description,
            "source": preset.source,
            "settings": settings,
        },
    )


def _options(settings: dict[str, Any]) -> list[str]:
    """Settings as options of a command, a line each."""
    return [f"  --{key.replace('_', '-')} {_words(value)}" for key, value in settings.items()]


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
