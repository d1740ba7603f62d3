"""A hashing loss in a bare PyTorch loop: digits, codes, retrieval quality.

python examples/plain_loop.py
"""

import torch
from torch import nn

import hashfast
from hashfast.data import load

BITS, EPOCHS = 32, 20


def main() -> None:
    torch.manual_seed(0)
    splits = load("digits")
    pixels, labels = splits.train.images.flatten(1) / 255, splits.train.labels
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, BITS))
    criterion = hashfast.losses.CSQ(num_classes=10, bits=BITS, quantization="hswd")
    # Some losses learn too (proxies, a classifier): the optimiser gets their parameters as well.
    parameters = [*network.parameters(), *criterion.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)

    for epoch in range(EPOCHS):
        criterion.start_epoch(epoch)  # for losses with a schedule or a memory bank
        for rows in torch.randperm(len(pixels)).split(100):
            loss = criterion(network(pixels[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print({name: round(float(term), 4) for name, term in criterion.components.items()})

    with torch.no_grad():
        query, database = (
            hashfast.pack(network(part.images.flatten(1) / 255))
            for part in (splits.query, splits.database)
        )
    report = hashfast.evaluate(
        query, database, splits.query.labels, splits.database.labels, topk=splits.topk
    )
    print(f"mAP@{splits.topk} {report.map:.4f}")


if __name__ == "__main__":
    main()
