"""TBH: codes from which, through the graph of their distances, the features can be rebuilt."""

import math
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashfast.losses._unsupervised import UnsupervisedLoss
from hashfast.losses.quantization import QuantizationOptions

_POWER = 1.4  # of the similarity of two codes
_PUBLISHED_BATCH = 400
_FIRST_OUTPUT = 0.5  # of the decoder
_MARGIN = 1e-8  # added to the degrees of the graph


class TBH(UnsupervisedLoss):
    """Twin bottlenecks (Shen et al., CVPR 2020): an autoencoder of the features with two critics.

    The binary bottleneck b in {0, 1}^bits is the sign of sigmoid(u) - 1/2, with the gradient of
    sigmoid(u); the continuous one is c = sigmoid(Linear(hidden)). The codes' distances make a graph

        A = (1 - hamming(b_i, b_j) / bits)^1.4,  L = D^-1/2 A D^-1/2,  z = sigmoid(L Linear(c))

    and two layers with ReLU turn z back into the features, which have to be non-negative. Two
    linear critics tell b from fair coins and z from uniform numbers, drawn at each call from
    torch's global generator of the outputs' device:

        reconstruction = sum (x' - x)^2 / 2, divided by n; critic = the two cross-entropies;
        loss = actor = reconstruction - critic_weight critic

    One optimiser trains both sides: the gradient of the critics' own weights is that of `critic`,
    and the gradient of everything else that of `actor`, as if each had an optimiser of its own and
    the same batch. Agrees with ymcidence/TBH (layer, train/tbh_train.py) for `reduction="sum"`:
    the reconstruction is then not divided by n, and the critics, whose terms are means, weigh 1.
    The default is that code at its batch of 400, divided by 400, whatever the size of the batch:
    in a smaller one its critics turn every code into the same.

    Args:
        bits: length of the outputs.
        num_features: width F of the features that are rebuilt.
        num_hidden: width H of the hidden layer of the head, and of the decoder.
        width: of the continuous bottleneck.
        stochastic: compare sigmoid(u) with uniform numbers, as the paper does in training, instead
            of 1/2, as the released code does.
        reduction: of the reconstruction over the batch, "mean" or "sum".
        critic_weight: by default 1 / 400 with "mean", and 1 with "sum".
        options: see QuantizationOptions; "original" adds no term.

    `components` adds "reconstruction", "actor" and "critic". Raises ValueError for widths below 1
    and an unknown reduction. Call: `criterion(outputs, features=..., hidden=...)`, see
    UnsupervisedLoss.
    """

    head = "mlp"
    needs = ("features", "hidden")

    def __init__(
        self,
        bits: int,
        num_features: int,
        num_hidden: int,
        *,
        width: int = 512,
        stochastic: bool = False,
        reduction: Literal["mean", "sum"] = "mean",
        critic_weight: float | None = None,
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if min(num_features, num_hidden, width) < 1:
            raise ValueError(
                f"num_features={num_features}, num_hidden={num_hidden} and width={width} must all "
                "be at least 1"
            )
        if reduction not in ("mean", "sum"):
            raise ValueError(f"unknown reduction {reduction!r}; choose 'mean' or 'sum'")
        if critic_weight is None:
            critic_weight = 1.0 if reduction == "sum" else 1 / _PUBLISHED_BATCH
        if not 0 <= critic_weight < math.inf:
            raise ValueError(f"critic_weight is {critic_weight}; expected 0 or a positive number")
        super().__init__(bits, **options)
        self.stochastic, self.reduction = stochastic, reduction
        self.critic_weight = critic_weight
        self.num_features, self.num_hidden = num_features, num_hidden
        self.continuous = nn.Linear(num_hidden, width)
        self.convolution = nn.Linear(width, width)
        last = nn.Linear(num_hidden, num_features)
        self.decoder = nn.ModuleList([nn.Linear(width, num_hidden), last])
        self.critics = nn.ModuleList([nn.Linear(bits, 1), nn.Linear(width, 1)])
        for layer in (self.continuous, self.convolution, *self.decoder, *self.critics):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        # A rectified output that starts below 0 for every image would stay there for good.
        nn.init.constant_(last.bias, _FIRST_OUTPUT)

    def similarity(self, outputs: Tensor, features: Tensor, hidden: Tensor) -> Tensor:
        for name, rows, expected in (
            ("features", features, self.num_features),
            ("hidden", hidden, self.num_hidden),
        ):
            if rows.shape[1] != expected:
                raise ValueError(
                    f"{name} are {rows.shape[1]} wide; this criterion was built with "
                    f"num_{name}={expected}"
                )
        hidden = hidden.to(outputs.dtype)
        probability = outputs.sigmoid()
        threshold = _uniform(probability) if self.stochastic else 0.5
        codes = binary_bottleneck(probability, threshold)
        graph = laplacian(code_similarity(codes))
        continuous = _linear(self.continuous, hidden).sigmoid()
        rebuilt = (graph @ _linear(self.convolution, continuous)).sigmoid()
        gap = self._decoded(rebuilt) - features.to(outputs.dtype)
        reconstruction = gap.square().sum() / 2
        if self.reduction == "mean":
            reconstruction = reconstruction / len(outputs)
        coins = torch.randint(2, codes.shape, device=codes.device).to(codes.dtype)
        critic = self._told_apart(0, codes, coins)
        critic = critic + self._told_apart(1, rebuilt, _uniform(rebuilt))
        actor = reconstruction - self.critic_weight * critic.detach()
        self.record(reconstruction=reconstruction, actor=actor, critic=critic)
        # The gradient is that of reconstruction + critic, turned round where it reaches the codes.
        return actor + (critic - critic.detach())

    def _decoded(self, rows: Tensor) -> Tensor:
        for layer in self.decoder:
            rows = _linear(layer, rows).relu()
        return rows

    def _told_apart(self, critic: int, made: Tensor, drawn: Tensor) -> Tensor:
        """Cross-entropy of telling drawn rows (1) from made ones (0).

        Its gradient in `made` is multiplied by -critic_weight.
        """
        turned = made.detach() + self.critic_weight * (made.detach() - made)
        layer = self.critics[critic]
        return F.softplus(-_linear(layer, drawn)).mean() + F.softplus(_linear(layer, turned)).mean()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stochastic={self.stochastic}, reduction={self.reduction!r}"


def binary_bottleneck(probability: Tensor, threshold: Tensor | float) -> Tensor:
    """1 where the probability is above the threshold, 0 below, 1/2 where it is the threshold.

    probability and result [n, bits]; the gradient passes unchanged.
    """
    codes = ((probability.detach() - threshold).sign() + 1) / 2
    return codes + (probability - probability.detach())


def code_similarity(codes: Tensor) -> Tensor:
    """(1 - d / bits)^1.4 for the Hamming distance d of codes 0 and 1, [n, bits] -> [n, n]."""
    crossed = codes @ (codes - 1).T
    return (1 - (crossed + crossed.T).abs() / codes.shape[1]) ** _POWER


def laplacian(adjacency: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 for A [n, n] whose rows sum to D."""
    scale = (adjacency.sum(1) + _MARGIN).rsqrt()
    return scale[:, None] * adjacency * scale


def _uniform(like: Tensor) -> Tensor:
    """Uniform numbers; those of `rand_like` would depend on the layout in memory."""
    return torch.rand(like.shape, dtype=like.dtype, device=like.device)


def _linear(layer: nn.Module, rows: Tensor) -> Tensor:
    """The layer in the precision of the rows."""
    weight, bias = (layer.get_parameter(name).to(rows.dtype) for name in ("weight", "bias"))
    return F.linear(rows, weight, bias)
