"""Settings of the evaluation of condensed sets; the command line is made from this class."""

from dataclasses import dataclass

from hashfast.condense.config import CondenseConfig
from hashfast.hashing import TrainConfig
from hashfast.hashing.loading import shuffled


@dataclass(frozen=True)
class EvaluationConfig:
    """How networks are trained on a condensed set, to see what it is worth."""

    evaluate_methods: tuple[str, ...] = ("dhd",)
    """Hashing losses to train with; that of the condensation takes its hashing_options here too."""
    evaluate_backbones: tuple[str, ...] = ()
    """Networks to train (default: that of the condensation, with its width)."""
    evaluate_bits: int = 64
    """Length of the code."""
    evaluate_steps: int = 1000
    """Steps of the optimiser, the same for sets of every size, rounded up to whole epochs."""
    evaluate_batch: int = 64
    """Images a step."""
    evaluate_learning_rate: float = 3e-3
    """Highest learning rate of Adam; it follows one cosine to 0."""
    evaluate_weight_decay: float = 6e-6
    """L2 penalty."""
    evaluate_augment: str = "auto"
    """Random views of the images: none, standard, dhd, dsa or idc; auto is dhd for losses that
    compare two views, else none."""
    evaluate_augment_scale: float = 0.5
    """Where two views are compared, factor of every probability in the teacher's."""
    evaluate_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the networks, each of which trains one anew; Random draws other images for each."""
    evaluate_baselines: tuple[str, ...] = ("random", "herding")
    """Selections of as many real images to compare with."""
    evaluate_whole: bool = False
    """Compare with the whole training set too."""
    evaluate_accuracy: bool = False
    """Train classifiers too, by cross-entropy, and report their accuracy on the queries."""
    evaluate_compile: bool = False
    """Compile the networks with torch.compile: some seconds for the first of a kind."""

    def __post_init__(self) -> None:
        for name in ("evaluate_methods", "evaluate_seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        if self.evaluate_steps < 1:
            raise ValueError(f"evaluate_steps is {self.evaluate_steps}; it must be at least 1")
        unknown = set(self.evaluate_baselines) - {"random", "herding"}
        if unknown:
            raise ValueError(
                f"unknown evaluate_baselines {', '.join(sorted(unknown))}; known: random, herding"
            )
        for method in self.evaluate_methods:
            try:
                self._training(method=method)
            except ValueError as error:
                raise ValueError(f"evaluation: {error}") from None

    def training(
        self,
        config: CondenseConfig,
        images: int,
        *,
        method: str | None = None,
        backbone: str | None = None,
        seed: int = 0,
    ) -> TrainConfig:
        """Settings of a network that is trained on so many images.

        Its epochs are the least that have `evaluate_steps` steps. method, backbone: the first ones
        if None.
        """
        method = method or self.evaluate_methods[0]
        backbone = backbone or self.backbones(config)[0]
        steps_per_epoch = max(1, len(shuffled(images, self.evaluate_batch, 0, 0)))
        return self._training(
            data=config.data,
            root=config.root,
            image_size=config.image_size,
            split_seed=config.split_seed,
            method=method,
            options=config.hashing_options if method == config.hashing else (),
            backbone=backbone,
            width=config.width if backbone == config.backbone else None,
            epochs=-(-self.evaluate_steps // steps_per_epoch),
            device=config.device,
            workers=config.workers,
            seed=seed,
        )

    def backbones(self, config: CondenseConfig) -> tuple[str, ...]:
        """The networks to train."""
        return self.evaluate_backbones or (config.backbone,)

    def _training(self, **settings) -> TrainConfig:
        return TrainConfig(
            bits=self.evaluate_bits,
            batch_size=self.evaluate_batch,
            learning_rate=self.evaluate_learning_rate,
            weight_decay=self.evaluate_weight_decay,
            augment=self.evaluate_augment,
            augment_scale=self.evaluate_augment_scale,
            compile=self.evaluate_compile,
            **settings,
        )
