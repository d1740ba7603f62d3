from dataclasses import dataclass, fields
from pathlib import Path

from hashfast.cli._run import Output, check_names
from hashfast.hashing.config import TrainConfig


@dataclass(frozen=True)
class Command(TrainConfig):
    """Train a hash model on a protocol and evaluate it.

    Several processes share the work when torchrun starts them: torchrun --nproc-per-node 2
    -m hashfast train ...
    """

    out: Path | None = None
    """Folder for the model, metrics and checkpoint (default: runs/DATA-METHOD-BITS)."""
    resume: bool = False
    """Continue the run in that folder from its last epoch; a folder without one starts anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.data, self.backbone)

    def run(self) -> Output | None:
        """None in all processes but the first, which speaks for them."""
        from hashfast import _distributed
        from hashfast.hashing import train

        out = self.out or Path("runs", f"{self.data}-{self.method}-{self.bits}")
        config = TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})
        _, report, results = train(config, out, resume=self.resume)
        if _distributed.rank():
            return None
        text = (
            f"{report}\ntraining    {results['train_seconds']:.1f} s, quantisation error "
            f"{results['quantization_error']:.3f} rad\nwritten to  {out}"
        )
        return Output(text, {**results, "out": str(out)})
