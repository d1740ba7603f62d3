"""A hashing loss in a Lightning module: its own parameters and schedule need no further care.

pip install "hashfast[examples]" && python examples/lightning_module.py
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import hashfast
from hashfast.data import load

BITS = 32


class Hashing(lightning.LightningModule):
    """GreedyHash learns a classifier: as a submodule it is trained, moved, saved and synchronised
    with the network, also over several devices."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, BITS)
        )
        self.criterion = hashfast.losses.GreedyHash(10, BITS, quantization="hswd")

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images / 255)

    def on_train_epoch_start(self) -> None:
        self.criterion.start_epoch(self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        images, labels, index = batch  # index: for losses with a memory bank
        loss = self.criterion(self(images), labels, index=index)
        self.log_dict(self.criterion.components)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    lightning.seed_everything(0, verbose=False)
    splits = load("digits")
    trainer = lightning.Trainer(
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Hashing()
    trainer.fit(module, DataLoader(splits.train, batch_size=100, shuffle=True))
    if not trainer.is_global_zero:
        return
    with torch.no_grad():
        query, database = (
            hashfast.pack(module.eval()(part.images)) for part in (splits.query, splits.database)
        )
    labels = splits.query.labels, splits.database.labels
    report = hashfast.evaluate(query, database, *labels, topk=splits.topk)
    print(f"mAP@{splits.topk} {report.map:.4f}")


if __name__ == "__main__":
    main()
