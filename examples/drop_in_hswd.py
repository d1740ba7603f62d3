"""HSWD in one line beside a loss of your own: here a classifier on the outputs.

python examples/drop_in_hswd.py
"""

import torch
from torch import Tensor, nn

import hashfast
from hashfast.data import Splits, load

BITS, EPOCHS = 32, 20


def main() -> None:
    splits = load("digits")
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, BITS))
        train(network, splits, weight)
        query, database = (
            outputs(network, part.images) for part in (splits.query, splits.database)
        )
        report = hashfast.evaluate(
            hashfast.pack(query),
            hashfast.pack(database),
            splits.query.labels,
            splits.database.labels,
            topk=splits.topk,
        )
        error = hashfast.metrics.quantization_error(database)
        name = f"with {weight} x HSWD" if weight else "own loss alone"
        print(f"{name}: mAP@{splits.topk} {report.map:.4f}, quantisation error {error:.3f}")


def train(network: nn.Module, splits: Splits, weight: float) -> None:
    classifier = nn.Linear(BITS, 10)
    hswd = hashfast.losses.HSWD(bits=BITS)
    optimizer = torch.optim.Adam([*network.parameters(), *classifier.parameters()], lr=3e-3)
    pixels, labels = splits.train.images.flatten(1) / 255, splits.train.labels
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(pixels)).split(100):
            u = network(pixels[rows])
            loss = nn.functional.cross_entropy(classifier(u), labels[rows])
            loss = loss + weight * hswd(u)  # the one line
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def outputs(network: nn.Module, images: Tensor) -> Tensor:
    return network(images.flatten(1) / 255)


if __name__ == "__main__":
    main()
