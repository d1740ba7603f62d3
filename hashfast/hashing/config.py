"""Settings of a training run; the command line is made from this class."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hashfast.hashing.methods import check_method

Precision = Literal["no", "bf16", "fp16"]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["cosine", "constant"]
WITH_MOMENTUM = ("sgd", "rmsprop")


@dataclass(frozen=True)
class TrainConfig:
    """Train a hash model on a protocol and evaluate it."""

    data: str = "digits"
    """Protocol: `hashfast methods` lists them."""
    root: Path | None = None
    """Where the data lies, if not where it is looked for by itself."""
    image_size: int | None = None
    """Side of the square images are scaled to (default: native for arrays, 224 for files)."""
    condensed: Path | None = None
    """Folder of a condensed set to train on, instead of the protocol's training set."""
    method: str = "csq"
    """Loss: `hashfast methods` lists them."""
    options: tuple[str, ...] = ()
    """Arguments of the method, as variant=official."""
    memory_bank: bool | None = None
    """Compare batches with the last outputs of the whole training set (default: what the method
    does)."""
    bits: int = 32
    """Length of the code."""
    quantization: Literal["original", "hswd", "swd", "none"] = "original"
    """The method's own quantisation term, one of paper 002's instead, or none."""
    quantization_weight: float | None = None
    """Weight of the quantisation term (default: the method's own, 0.1 for hswd and swd)."""
    backbone: str = "convnet3"
    """Network: convnet3, resnetap10, resnet10, efficientnet-lite0, a torchvision name, or
    timm/NAME."""
    width: float | None = None
    """Channels of convnet3 (default 128), multiplier of resnetap10 and resnet10 (default 1)."""
    weights: str | None = None
    """Starting weights of the backbone: a file, or `pretrained` from the library's local cache."""
    frozen: bool = False
    """Train the hash head alone, on features of the backbone that are computed once."""
    feature_views: int = 10
    """Random views of each image whose features a frozen backbone's head is trained on."""
    cache: Path | None = None
    """Folder that keeps what is computed once, for other runs too (default: kept for this run)."""
    augment: str = "auto"
    """Random views of the images: none, standard, dhd or cibhash; auto is what the method was
    published with where it compares two views (dhd or cibhash), else none."""
    augment_scale: float = 0.5
    """Where two views are compared, factor of every probability in the teacher's (s_T)."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 64
    """Images a step, of all processes together."""
    optimizer: Optimizer = "adam"
    """What moves the weights."""
    learning_rate: float = 1e-3
    """Highest learning rate; it warms up, then follows the schedule."""
    backbone_learning_rate_scale: float = 1.0
    """Learning rate of the backbone, as a multiple of the others'."""
    schedule: Schedule = "cosine"
    """After the warm-up: one cosine to 0, or constant, which lets a later run add epochs."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    momentum: float | None = None
    """Momentum of sgd (default 0.9) or rmsprop (default 0)."""
    weight_decay: float = 0.0
    """L2 penalty (of adamw: decoupled weight decay)."""
    clip_gradient: float | None = None
    """Largest norm of the gradient of all parameters together; a longer one is scaled down."""
    amp: Precision = "no"
    """Mixed precision of the network; losses stay in float32."""
    channels_last: bool = False
    """Keep images and convolutions in channels-last order, which tensor cores like."""
    compile: bool = False
    """Compile the network with torch.compile, for training and for evaluation."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one."""
    workers: int = 0
    """Processes that decode pictures (in-memory data needs none)."""
    seed: int = 0
    """Seed of the weights, the order of batches, augmentation and the losses' draws."""
    split_seed: int = 0
    """Seed of the protocol's split."""
    evaluate_every: int = 0
    """Epochs between evaluations during training; 0 evaluates at the end only."""
    tensorboard: bool = False
    """Write the metrics of every epoch for TensorBoard too."""

    def __post_init__(self) -> None:
        for name in ("bits", "epochs", "batch_size", "feature_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup_epochs", "evaluate_every", "workers", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be 0 or a positive number"
                )
        for name in ("learning_rate", "backbone_learning_rate_scale", "clip_gradient"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be positive")
        if not 0 <= self.augment_scale <= 1:
            raise ValueError(
                f"augment_scale is {self.augment_scale}; it multiplies probabilities: choose it "
                "in [0, 1]"
            )
        self._check_choice("amp", Precision)
        self._check_choice("optimizer", Optimizer)
        self._check_choice("schedule", Schedule)
        self._check_momentum()
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; it must be fewer"
            )
        if self.augment not in ("auto", "none"):
            self._check_augmentation()
        check_method(self.method, self.options, self.memory_bank)

    def _check_choice(self, name: str, choices: Any) -> None:
        if getattr(self, name) not in get_args(choices):
            raise ValueError(
                f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(choices))}"
            )

    def _check_momentum(self) -> None:
        if self.momentum is None:
            return
        if self.optimizer not in WITH_MOMENTUM:
            raise ValueError(
                f"momentum is {self.momentum}, which {self.optimizer} does not take: leave it out, "
                f"or choose {' or '.join(WITH_MOMENTUM)}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and less than 1")

    def _check_augmentation(self) -> None:
        from hashfast.augment import AUGMENTATIONS

        if self.augment not in AUGMENTATIONS:
            raise ValueError(
                f"unknown augmentation {self.augment!r}; known: auto, {', '.join(AUGMENTATIONS)}"
            )
