"""The part of a model that a training step runs."""

from typing import Any

from torch import Tensor, nn

from hashfast.hashing.model import HashModel

EXTRAS = ("features", "hidden", "codebooks")
"""What a loss may need of the network besides its outputs."""


class Network(nn.Module):
    """Images, or features of a frozen backbone, to outputs before sign and what else a loss needs.

    needs: names of inputs of a loss; those in EXTRAS are returned beside the outputs: the
    backbone's features [n, F], the hidden layer [n, H] of head "mlp", the codebooks [M, K, D] of
    head "pq". frozen: the backbone is not trained, and forward takes its features [n, F].
    """

    def __init__(self, model: HashModel, needs: tuple[str, ...], frozen: bool) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen
        self.extras = [name for name in EXTRAS if name in needs]
        if frozen:
            model.backbone.requires_grad_(False)

    def compile_parts(self) -> None:
        """Compile in place: evaluation is compiled too, and names of weights stay."""
        if self.frozen or self.extras:
            self.model.backbone.compile()
        else:
            self.model.compile()

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.frozen or self.extras):
            return self.model(inputs), {}
        features = inputs if self.frozen else self.model.features(inputs)
        head: Any = self.model.head
        found = {"features": features}
        if "hidden" in self.extras:
            found["hidden"] = head.hidden(features)
            outputs = head.output(found["hidden"])
        else:
            outputs = head(features)
        if "codebooks" in self.extras:
            found["codebooks"] = head.codebooks
        return outputs, {name: found[name] for name in self.extras}
