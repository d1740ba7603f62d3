"""Settings of a training run; the command line is made from this class."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """Train a hash model on a protocol and evaluate it."""

    data: str = "digits"
    """Protocol: `hashfast methods` lists them."""
    root: Path | None = None
    """Where the data lies, if not where it is looked for by itself."""
    image_size: int | None = None
    """Side of the square images are scaled to (default: native for arrays, 224 for files)."""
    method: str = "csq"
    """Loss: `hashfast methods` lists them."""
    bits: int = 32
    """Length of the code."""
    quantization: Literal["original", "hswd", "swd", "none"] = "original"
    """The method's own quantisation term, one of paper 002's instead, or none."""
    quantization_weight: float | None = None
    """Weight of the quantisation term (default: the method's own, 0.1 for hswd and swd)."""
    backbone: str = "convnet3"
    """Network: convnet3, resnetap10, a torchvision name, or timm/NAME."""
    width: float | None = None
    """Channels of convnet3 (default 128), multiplier of resnetap10 (default 1)."""
    weights: str | None = None
    """Starting weights of the backbone: a file, or `pretrained` from the library's local cache."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 1e-3
    """Highest learning rate of Adam; it warms up, then follows one cosine to 0."""
    weight_decay: float = 0.0
    """L2 penalty of Adam."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    amp: Precision = "no"
    """Mixed precision of the network; losses stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one."""
    workers: int = 0
    """Processes that decode pictures (in-memory data needs none)."""
    seed: int = 0
    """Seed of the weights, the order of batches and the losses' draws."""
    split_seed: int = 0
    """Seed of the protocol's split."""
    evaluate_every: int = 0
    """Epochs between evaluations during training; 0 evaluates at the end only."""

    def __post_init__(self) -> None:
        for name in ("bits", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup_epochs", "evaluate_every", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")
        if self.amp not in get_args(Precision):
            raise ValueError(
                f"amp is {self.amp!r}; expected one of {', '.join(get_args(Precision))}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; it must be fewer"
            )
