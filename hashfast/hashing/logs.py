"""What a run writes down: a line of metrics.jsonl an epoch, TensorBoard's scalars, results.json."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hashfast import _distributed
from hashfast._environment import environment
from hashfast._files import write_text
from hashfast.data import Splits
from hashfast.hashing.config import TrainConfig
from hashfast.hashing.evaluation import Evaluation

METRICS_FILE, RESULTS_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "results.json", "tensorboard"


class Log:
    """Writes the metrics of every epoch into a folder.

    epoch: how many are whole already; what an interrupted run wrote beyond them is replaced.
    Raises ImportError when `tensorboard` is asked for and not installed.
    """

    def __init__(self, out: Path, epoch: int, tensorboard: bool) -> None:
        self.out = out
        self.writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    'tensorboard=True needs TensorBoard: pip install "hashfast[train]"'
                ) from error
            self.writer = SummaryWriter(out / TENSORBOARD_FOLDER, purge_step=epoch + 1)

    def write(self, history: list[dict[str, Any]]) -> None:
        """Write all lines again, and the scalars of the last one."""
        write_text(self.out / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in history))
        if self.writer is not None:
            last = dict(history[-1])
            epoch = last.pop("epoch")
            for name, value in last.items():
                self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def describe_results(
    config: TrainConfig,
    splits: Splits,
    evaluation: Evaluation,
    unreadable: list[str],
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    """What results.json holds: the quality, and all that it depends on."""
    return {
        "config": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(config).items()
        },
        "protocol": splits.describe(),
        "report": evaluation.report.to_dict(),
        "quantization_error": evaluation.quantization_error,
        "unreadable": unreadable,
        "train_seconds": seconds,
        "processes": _distributed.world(),
        "environment": environment(device),
    }


def describe_training(
    config: TrainConfig, splits: Splits, evaluation: Evaluation, results: dict[str, Any]
) -> dict[str, Any]:
    """What a model says of its training, in config.json and on its card."""
    report, topk = evaluation.report, splits.topk
    return {
        "method": config.method,
        "quantization": config.quantization,
        "protocol": splits.name,
        f"mAP@{topk} (ties by index)": round(report.map, 4),
        f"mAP@{topk} (expected)": round(report.map_by_ties["expected"], 4),
        "results": results,
    }
