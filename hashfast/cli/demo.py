from dataclasses import dataclass
from pathlib import Path

from hashfast.cli._run import Output, table


@dataclass(frozen=True)
class Command:
    """The whole job on scikit-learn's digits, on the CPU, in under a minute.

    Trains three methods at 32 bits beside two training-free baselines, prints a table, draws what
    is retrieved, and leaves a gallery that `hashfast search` can query.
    """

    out: Path = Path("demo")
    """Folder for models, pictures and the gallery."""
    seed: int = 0
    """Seed of the training runs."""

    def run(self) -> Output:
        import sys

        from hashfast import demo
        from hashfast._environment import environment
        from hashfast._files import write_json

        splits = demo.load_splits()
        found = []
        with demo.one_thread():
            for row in demo.rows(self.out, splits, self.seed):
                found.append(row)
                print(f"  {row.name}: mAP {row.report.map:.4f}", file=sys.stderr)
        best = max(found, key=lambda row: row.report.map)
        picture = demo.write_gallery(self.out, best, splits)
        try:
            pictures = [str(p) for p in demo.write_pictures(self.out, best, found, splits)]
            seen = f"pictures: {', '.join(pictures)}"
        except ImportError as error:
            pictures, seen = [], f"no pictures: {error}"
        data = [row.to_dict() for row in found]
        results = {
            "protocol": splits.describe(),
            "bits": demo.BITS,
            "epochs": demo.EPOCHS,
            "seed": self.seed,
            "rows": data,
            "pictures": pictures,
            "environment": environment(),
        }
        write_json(self.out / "results.json", results)
        rows = [
            [
                row["method"],
                f"{row['map_index']:.4f}",
                f"{row['map_expected']:.4f}",
                f"{row['precision_at_10']:.4f}",
                f"{row['quantization_error']:.3f}",
                f"{row['train_seconds']:.1f}",
            ]
            for row in data
        ]
        header = [
            "method",
            f"mAP@{splits.topk} (ties by index)",
            "(expected)",
            "P@10",
            "quant. error",
            "seconds",
        ]
        sizes = f"{len(splits.query)} queries against {len(splits.database)} pictures"
        text = (
            f"{table(header, rows)}\n\ndigits, {demo.BITS} bits, {sizes}; quantisation error in "
            f"radians\n{seen}\ntry: hashfast search {self.out / 'gallery'} --image {picture}"
        )
        return Output(text, results)
