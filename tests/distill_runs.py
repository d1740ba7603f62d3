"""Small teachers, distillations and pictures that several test files share."""

import numpy as np
from PIL import Image
from train_runs import small_digits

from hashfast.data import load_folder
from hashfast.distill import DistillConfig, distill
from hashfast.hashing import HashModel, TrainConfig, train

SMALL = {
    "bits": 8,
    "width": 4,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "device": "cpu",
}
CLASSES, PICTURES = 3, 8


def teach(folder, splits=None, **changes):
    """A trained model in `folder`, to learn from."""
    config = TrainConfig(**{**SMALL, "method": "csq", "width": 8, "epochs": 1, **changes})
    train(config, folder, splits=splits or small_digits(), progress=False)
    return folder


def tiny(teacher, **changes):
    given = {**SMALL, "teacher": teacher, "method": "csq", "distillation": "kl", "epochs": 1}
    return DistillConfig(**{**given, **changes})


def distilled(config, out=None, splits=None, **options):
    return distill(config, out, splits=splits or small_digits(), progress=False, **options)


def counted(patch, owner, name):
    """The number of images at each call of a method of one argument, or of images and a number."""
    real, calls = getattr(owner, name), []

    def method(self, images, *rest):
        calls.append(len(images))
        return real(self, images, *rest)

    patch.setattr(owner, name, method)
    return calls


def encoded_features(patch):
    """The number of images at each pass through a whole backbone."""
    return counted(patch, HashModel, "features")


def write_pictures(folder, seed=0):
    """Three class folders of eight pictures, each class a colour."""
    generator = np.random.default_rng(seed)
    for c in range(CLASSES):
        (folder / str(c)).mkdir(parents=True)
        for i in range(PICTURES):
            pixels = generator.integers(0, 100, (20 + i, 20, 3), dtype=np.uint8)
            pixels[..., c] += 120
            Image.fromarray(pixels).save(folder / str(c) / f"{i}.png")
    return folder


def own_pictures(folder, image_size=8):
    return load_folder(folder, image_size=image_size, query=0.25)
