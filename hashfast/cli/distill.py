from dataclasses import dataclass, fields
from pathlib import Path

from hashfast.cli._run import Output, check_names
from hashfast.distill.config import DistillConfig


@dataclass(frozen=True)
class Command(DistillConfig):
    """Train a small student to code as a large teacher does, and evaluate both search paradigms.

    SSHP: the student codes the database and the queries. ASHP: the teacher codes the database, the
    student the queries. Both databases are written as galleries, for hashfast search GALLERY
    --model STUDENT. Several processes share the work when torchrun starts them.
    """

    out: Path | None = None
    """Folder for the student, metrics, checkpoint and galleries (default:
    runs/DATA-DISTILLATION-BITS)."""
    resume: bool = False
    """Continue the run in that folder from its last epoch; a folder without one starts anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.data, self.backbone)
        if self.teacher is None:
            raise ValueError("--teacher is missing: the folder of a model that was trained before")

    def run(self) -> Output | None:
        """None in all processes but the first, which speaks for them."""
        from hashfast import _distributed
        from hashfast.distill import distill

        out = self.out or Path("runs", f"{self.data}-{self.distillation}-{self.bits}")
        config = DistillConfig(**{f.name: getattr(self, f.name) for f in fields(DistillConfig)})
        _, sshp, ashp, results = distill(config, out, resume=self.resume)
        if _distributed.rank():
            return None
        lines = [
            "SSHP: the student codes database and queries",
            str(sshp),
            "",
            "ASHP: the teacher codes the database, the student the queries",
            str(ashp or "not defined: the codes differ in length"),
            "",
            f"training    {results['train_seconds']:.1f} s",
            f"written to  {out}",
        ]
        if ashp is not None:
            aligned = f"{results['isd']:.2f} of {self.bits} bits differ, NRA@100 "
            lines.insert(-2, f"alignment   {aligned}{results['nra@100']:.3f} (training set)")
        return Output("\n".join(lines), {**results, "out": str(out)})
