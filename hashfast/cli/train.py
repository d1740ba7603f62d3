from dataclasses import dataclass, fields
from pathlib import Path

from hashfast.cli._run import Output
from hashfast.hashing.config import TrainConfig


@dataclass(frozen=True)
class Command(TrainConfig):
    """Train a hash model on a protocol and evaluate it."""

    out: Path | None = None
    """Folder for the model, metrics and checkpoint (default: runs/DATA-METHOD-BITS)."""
    resume: bool = False
    """Continue the run in that folder from its last epoch."""

    def run(self) -> Output:
        from hashfast.hashing import train

        out = self.out or Path("runs", f"{self.data}-{self.method}-{self.bits}")
        config = TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})
        report, results = train(config, out, resume=self.resume)[1:]
        text = (
            f"{report}\ntraining    {results['train_seconds']:.1f} s, quantisation error "
            f"{results['quantization_error']:.3f} rad\nwritten to  {out}"
        )
        return Output(text, {**results, "out": str(out)})
