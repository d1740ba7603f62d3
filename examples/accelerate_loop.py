"""A hashing loss in an Accelerate loop, also over several processes.

pip install "hashfast[examples]" && accelerate launch examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

import hashfast
from hashfast.data import load
from hashfast.hashing import build_head

BITS, EPOCHS = 32, 20


class Learner(nn.Module):
    """Network and loss in one: DHD learns proxies, whose gradients must be synchronised too."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = hashfast.losses.DHD(num_classes=10, bits=BITS, quantization="hswd")
        head = build_head(self.criterion.head, 128, BITS)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), head)

    def forward(self, weak: Tensor, strong: Tensor, labels: Tensor) -> Tensor:
        outputs, student = self.network(torch.cat([weak, strong])).chunk(2)
        return self.criterion(outputs, labels, u_student=student)


def main() -> None:
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    splits = load("digits")
    learner = Learner()
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    loader = DataLoader(splits.train, batch_size=100, shuffle=True)
    learner, optimizer, loader = accelerator.prepare(learner, optimizer, loader)

    for epoch in range(EPOCHS):
        accelerator.unwrap_model(learner).criterion.start_epoch(epoch)
        for images, labels, _ in loader:
            pixels = images / 255
            loss = learner(pixels, pixels + 0.2 * torch.randn_like(pixels), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()

    if accelerator.is_main_process:
        network = accelerator.unwrap_model(learner).network.eval()
        with torch.no_grad():
            query, database = (
                hashfast.pack(network(part.images / 255))
                for part in (splits.query, splits.database)
            )
        report = hashfast.evaluate(
            query, database, splits.query.labels, splits.database.labels, topk=splits.topk
        )
        print(f"mAP@{splits.topk} {report.map:.4f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
