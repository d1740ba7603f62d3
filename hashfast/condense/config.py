"""Settings of a condensation; the command line is made from this class."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

Formation = Literal["single", "multi", "bound"]
Precision = Literal["no", "bf16"]


@dataclass(frozen=True)
class CondenseConfig:
    """Condense the training set of a protocol into a few learnt images a class.

    Settings that are None become those of the method: `hashfast methods NAME` lists them.
    """

    data: str = "digits"
    """Protocol: `hashfast methods` lists them."""
    root: Path | None = None
    """Where the data lies, if not where it is looked for by itself."""
    image_size: int | None = None
    """Side of the square images are scaled to (default: native for arrays, 224 for files)."""
    split_seed: int = 0
    """Seed of the protocol's split."""
    method: str = "iem"
    """What is kept or learnt: random, herding, dm, dsa, idc or iem."""
    ipc: int = 10
    """Images a class."""
    init: Literal["real", "noise"] = "real"
    """Learnt images start as random real ones, or as noise."""
    factor: int | None = None
    """A stored image holds factor x factor smaller ones (multi-formation); 1 turns it off."""
    formation: Formation = "single"
    """Which parts a stored image is decoded into: those of the factor, those of all factors up to
    it, or at most `bound` a class but all of ipc, the largest factor first."""
    bound: int = 128
    """Most decoded images a class of formation bound."""
    backbone: str = "convnet3"
    """Network that real and synthetic images are compared in: see `hashfast methods`."""
    width: float | None = None
    """Channels of convnet3 (default 128), multiplier of a resnet (default 1)."""
    networks: int | None = None
    """Networks drawn, one after another."""
    inner_steps: int | None = None
    """Steps of the images with each network."""
    networks_a_step: int = 1
    """Networks that a step compares in at once; their losses are averaged."""
    network_augmentation: bool | None = None
    """Perturb every network's weights (eq. 4 of the IEM papers)."""
    perturbation: tuple[float, float] = (0.01, 0.09)
    """Least and largest size of a perturbation, as a share of a filter's norm."""
    perturbation_directions: Literal[1, 2] = 1
    """Random directions that a perturbation goes along."""
    perturbation_norm: Literal["filter", "layer"] = "filter"
    """What a direction's norm is made equal to."""
    network_pool: Literal["random", "pretrained"] | None = None
    """Networks are initialised at random, or taken from a pool trained for a few epochs."""
    pool_size: int = 10
    """Networks of the pretrained pool."""
    pool_epochs: int = 2
    """Epochs that those networks are trained for on the real images."""
    pool_folder: Path | None = None
    """Where pretrained networks are kept, for other runs too (API: None keeps none)."""
    hashing: str = "dhd"
    """Hashing loss of pretrained networks and of gradient matching."""
    hashing_options: tuple[str, ...] = ()
    """Arguments of that loss, as tau=0.4."""
    bits: int = 64
    """Length of the code in that loss."""
    network_learning_rate: float = 1e-3
    """Learning rate of networks that are trained, by Adam."""
    network_batch: int = 64
    """Images a step of networks that are trained."""
    network_epochs: int | None = None
    """Epochs that the network of gradient matching is trained for after each step of the images:
    on the synthetic images (dsa) or on `network_images` real ones (idc)."""
    network_images: int = 500
    """Real images that idc trains its network on after each step."""
    metric: Literal["rows", "cos", "mse", "l1", "l1_mean"] | None = None
    """Distance between gradients."""
    learning_rate: float | None = None
    """Learning rate of the images, whose values lie in [0, 1]."""
    scale_learning_rate: bool | None = None
    """Multiply it by ipc / 10, as IDC does."""
    learning_rate_size: int | None = None
    """Side of the images that it is for: others multiply it by the ratio of the areas, as IDC does
    (None: it is the same for all)."""
    momentum: float = 0.5
    """Momentum of the images."""
    real_batch: int = 256
    """Real images a class and step; 0 takes all."""
    synthetic_batch: int = 128
    """Most decoded synthetic images a class and step; 0 takes all."""
    real_draws: Literal["step", "network"] = "step"
    """Draw real images and augmentation anew in every step, or once a network, whose inner steps
    then share the real features."""
    augment: Literal["none", "dsa", "idc"] | None = None
    """Random augmentation that real and synthetic images of a class share: one operation (dsa), or
    colour, one geometric operation and cutout (idc)."""
    strategy: str | None = None
    """Operations of the augmentation, joined by _ (default: color_crop_cutout_flip_scale_rotate of
    dsa, color_crop_cutout of idc)."""
    amp: Precision = "no"
    """Mixed precision of the network, of dm and iem; distances stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile, of dm and iem."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one."""
    workers: int = 0
    """Processes that decode pictures (in-memory data needs none)."""
    seed: int = 0
    """Seed of the first images, the networks and every draw."""

    def __post_init__(self) -> None:
        for name in ("ipc", "bits", "network_batch", "networks_a_step", "bound"):
            _check(name, getattr(self, name), least=1)
        for name in ("pool_size", "pool_epochs", "network_images"):
            _check(name, getattr(self, name), least=1)
        for name in ("networks", "inner_steps", "factor", "network_epochs", "learning_rate_size"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), least=1)
        for name in ("real_batch", "synthetic_batch", "workers"):
            _check(name, getattr(self, name), least=0)
        for name in ("learning_rate", "network_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be positive")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and less than 1")
        low, high = self.perturbation
        if not 0 <= low <= high < math.inf:
            raise ValueError(
                f"perturbation is {self.perturbation}; expected two sizes, the smaller first"
            )
        hints = {field.name: field.type for field in fields(self)}
        names = "init", "formation", "amp", "real_draws"
        for name in (*names, "perturbation_directions", "perturbation_norm"):
            _check_choice(name, getattr(self, name), hints[name])
        for name in ("network_pool", "metric", "augment"):
            if getattr(self, name) is not None:
                _check_choice(name, getattr(self, name), get_args(hints[name])[0])
        self._check_method()

    def _check_method(self) -> None:
        from hashfast.condense.methods import METHODS
        from hashfast.hashing.methods import check_method

        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        try:
            check_method(self.hashing, self.hashing_options, memory_bank=None)
        except ValueError as error:
            raise ValueError(f"hashing: {error}") from None
        if self.strategy is not None:
            if self.augment == "none":
                raise ValueError(f"strategy is {self.strategy!r} and augment none: leave one out")
            from hashfast.augment.siamese import SiameseAugmentation

            SiameseAugmentation(self.strategy)

    def resolved(self) -> "CondenseConfig":
        """The settings with the method's own in place of None."""
        from hashfast.condense.methods import METHODS

        defaults = METHODS[self.method].defaults(self.ipc)
        return replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})


def _check(name: str, value: Any, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


def _check_choice(name: str, value: Any, hint: Any) -> None:
    if value not in get_args(hint):
        raise ValueError(
            f"{name} is {value!r}; expected one of {', '.join(map(str, get_args(hint)))}"
        )
