"""The model of `hashfast encode` where none is given: features of a network, hashed as they are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hashfast.data import ImageDataset
    from hashfast.hashing import HashModel
    from hashfast.hashing.encode import Encoded
    from hashfast.hashing.fit import FittedHead

DEFAULT_BACKBONE = "efficientnet-lite0"
PIXELS = "pixels"
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Fit:
    """Settings of a model that is fitted on the pictures it encodes."""

    bits: int = 64
    backbone: str = DEFAULT_BACKBONE
    head: "FittedHead" = "auto"
    weights: str | None = None

    @property
    def image_size(self) -> int:
        """Pixels, which are compared as they are, are few: large pictures differ in noise."""
        return 32 if self.backbone == PIXELS else 224

    def run(
        self, dataset: "ImageDataset", device: "torch.device", **options: Any
    ) -> "tuple[HashModel, Encoded, dict[str, Any]]":
        """The fitted model, codes of the dataset, and what was fitted on how many pictures.

        options: as `encode_dataset` takes them.
        """
        from hashfast.hashing.fit import fit_and_encode

        model = self._build(dataset.image_shape).to(device)
        encoded, pictures = fit_and_encode(model, dataset, self.head, **options)
        facts = {
            "backbone": self.backbone,
            "head": model.config.head,
            "fitted_on": pictures,
            "of": len(dataset),
        }
        model.training_info = {"method": f"{_PROJECTION[model.config.head]}, no training", **facts}
        return model.eval(), encoded, facts

    def _build(self, image_shape: tuple[int, int, int]) -> "HashModel":
        from hashfast.hashing import HashModel, ModelConfig
        from hashfast.hashing.weights import PRETRAINED

        weights = self.weights
        if weights is None and self.backbone != PIXELS:
            weights = PRETRAINED
        try:
            config = ModelConfig(self.backbone, self.bits, "random", image_shape)
            return HashModel(config, weights=weights)
        except (ImportError, FileNotFoundError) as error:
            if self.backbone != DEFAULT_BACKBONE or self.weights is not None:
                raise
            raise type(error)(
                f"{error}. Or choose --backbone {PIXELS}, which needs nothing and compares the "
                "pixels of small pictures, or a trained --model"
            ) from error


_PROJECTION = {"itq": "ITQ", "random": "random projection"}


def sentence(facts: dict[str, Any], bits: int) -> str:
    """What was fitted, for people."""
    from hashfast.hashing.fit import ROWS_PER_BIT

    pictures, enough = facts["fitted_on"], ROWS_PER_BIT * bits
    projection = f"ITQ fitted on {pictures} pictures"
    if facts["head"] == "random":
        few = f" (ITQ from {enough} pictures on, here are {pictures})" if pictures < enough else ""
        projection = f"random projection{few}"
    return (
        f"{facts['backbone']} features, {projection}: good for near-duplicates and similar "
        "pictures, not trained for classes"
    )
