from dataclasses import dataclass

from hashfast.cli._run import Output


@dataclass(frozen=True)
class Command:
    """List methods, presets, protocols and backbones."""

    backbones: bool = False
    """List every torchvision backbone too."""

    def run(self) -> Output:
        from hashfast.data import PROTOCOLS
        from hashfast.hashing import list_backbones
        from hashfast.hashing.backbones import OWN_BACKBONES
        from hashfast.losses import METHODS
        from hashfast.presets import FAMILIES, PRESETS

        methods = {name: (cls.__doc__ or "").split("\n")[0] for name, cls in METHODS.items()}
        protocols = {
            name: f"{protocol.description} ({protocol.where})"
            if protocol.where
            else protocol.description
            for name, protocol in PROTOCOLS.items()
        }
        backbones = list_backbones() if self.backbones else list(OWN_BACKBONES)
        text = "\n".join(
            [
                "methods (--method), each with --quantization original | hswd | swd | none",
                *(f"  {name:<16} {what}" for name, what in methods.items()),
                "",
                "presets (--preset), settings of papers for the other options",
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
