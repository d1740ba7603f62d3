"""Time a step of dataset condensation beside the loop over classes of the public codes.

python benchmarks/bench_condense.py [--quick] [--threads 1] [--seconds 1800]

"class loop" takes one class after another, as the public codes of DM and IDC write it: a batch of
its real images and its synthetic ones are augmented alike, go through the network and have their
mean features compared. DM adds the classes' losses up and goes backward once, its network frozen;
IEM goes backward and moves the images once a class, with gradients of the network computed but
unused. Its real images lie normalised in memory. Ours is `Step` and one step of the optimiser, the
network as it is ("hashfast") and compiled ("hashfast, compiled"). Real images, augmentation and
network are the same; drawing a network is in neither. Images are random, of 28 x 28 pixels.

Loss and gradient of the three are compared in float64 first; it exits with 1 when they disagree,
and nothing is timed then. The parts of our step are timed one by one after it.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _bench import stamp
from _peers import disagreement
from _rows import EAGER, RESULTS, Row, append_rows, machine_slug, table
from _timing import measure, time_cpu
from torch import Tensor

from hashfast.augment import SiameseAugmentation
from hashfast.condense import METHODS, CondenseConfig
from hashfast.condense.augmentation import AUGMENTATIONS
from hashfast.condense.base import images_optimizer
from hashfast.condense.gradients import Views
from hashfast.condense.networks import Networks
from hashfast.condense.real import RealImages
from hashfast.condense.start import first_images
from hashfast.condense.step import Step
from hashfast.data import ArrayDataset, Splits
from hashfast.data.formation import decode
from hashfast.hashing.loading import seed_of
from hashfast.ops import class_mmd

CLASS_LOOP, OURS, COMPILED = "class loop", "hashfast", "hashfast, compiled"
PLACE = (0, 0)
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """real: real images a class and step; ipc: learnt images a class."""

    method: str
    width: int
    classes: int = 10
    real: int = 64
    ipc: int = 10

    @property
    def shape(self) -> str:
        return f"C={self.classes} real={self.real} ipc={self.ipc} width={self.width}"

    def config(self, compiled: bool) -> CondenseConfig:
        return CondenseConfig(
            method=self.method,
            width=self.width,
            ipc=self.ipc,
            real_batch=self.real,
            compile=compiled,
            device="cpu",
        ).resolved()

    def splits(self) -> Splits:
        """Twice the images that a step draws."""
        labels = np.arange(self.classes).repeat(2 * self.real)
        generator = torch.Generator().manual_seed(0)
        shape = (len(labels), 1, 28, 28)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        dataset = ArrayDataset(images, labels)
        return Splits(
            "noise",
            query=dataset,
            train=dataset,
            database=dataset,
            num_classes=self.classes,
            multi_label=False,
            topk=len(labels),
            image_shape=shape[1:],
            class_names=tuple(map(str, range(self.classes))),
            seed=0,
        )


CASES = (
    *(
        Case(method, width, real=real, ipc=ipc)
        for width, real in ((32, 64), (32, 256), (128, 64), (128, 256))
        for method in ("dm", "iem")
        for ipc in (1, 10, 50)
    ),
    *(
        Case(method, width, classes=100, real=16, ipc=ipc)
        for width in (32, 128)
        for method, ipc in (("dm", 1), ("iem", 1), ("dm", 10))
    ),
)
QUICK = (Case("dm", 4, classes=3, real=5, ipc=2), Case("iem", 4, classes=3, real=5, ipc=33))


class Ours:
    """A step for all classes at once."""

    def __init__(self, case: Case, splits: Splits, compiled: bool, dtype: torch.dtype) -> None:
        config = case.config(compiled)
        self.real = RealImages(splits, torch.device("cpu"))
        method = METHODS[config.method](config, case.classes)
        networks = Networks(config, splits, torch.device("cpu"), method.with_loss)
        self.networks = networks.load(0)
        self.network = self.networks[0]
        model = self.network.model.to(dtype)
        self.images = first_images(config, self.real).to(dtype).requires_grad_()
        self.compute = Step(config, method, self.real, model.mean, model.std)
        self.optimizer = images_optimizer(self.images, method, case.classes)

    def step(self) -> None:
        self.compute(self.images, self.networks, PLACE)
        self.optimizer.step()

    def gradient(self) -> tuple[Tensor, Tensor]:
        loss = self.compute(self.images, self.networks, PLACE)
        return loss, self.images.grad

    def parts(self) -> dict[str, Callable[[], object]]:
        """What a step consists of, each by itself."""
        step, network, config = self.compute, self.network, self.compute.config
        generator = torch.Generator().manual_seed(0)
        draws = step.augment.draw(step.num_classes, generator)
        rows = self.real.draw(config.real_batch, generator)
        labels = self.real.labels[rows]
        images = self.real.unit(rows, self.images.dtype)
        decoded, their_labels = step.decoded(self.images.detach(), PLACE)
        leaf = decoded.clone().requires_grad_()
        with torch.no_grad():
            features = network.features(images)
            theirs = network.features(decoded).requires_grad_()

        def augment() -> None:
            step.augment(self.real.unit(rows, images.dtype), labels, draws)
            leaves, _ = step.decoded(self.images, PLACE)
            view = step.augment(leaves, their_labels, draws)
            view.backward(torch.ones_like(view), inputs=[self.images])

        def real_forward() -> None:
            with torch.no_grad():
                network.features(images)

        def synthetic() -> None:
            views = Views(leaf, their_labels)
            for loss in step.method.losses(network, (features, labels), views):
                loss.backward(inputs=[leaf])

        def compare() -> None:
            class_mmd(features, theirs, labels, their_labels, step.num_classes).backward()

        return {
            "augment": augment,
            "real forward": real_forward,
            "synthetic forward, loss, backward": synthetic,
            "class_mmd of it": compare,
        }


class ClassLoop:
    """A step as the public codes write it, of the network, images and draws of `ours`."""

    def __init__(self, case: Case, ours: Ours) -> None:
        self.config, self.real, self.classes = ours.compute.config, ours.real, case.classes
        self.model = copy.deepcopy(ours.network.model).requires_grad_(case.method == "iem")
        strategy, mode = AUGMENTATIONS[self.config.augment]
        self.augment = SiameseAugmentation(strategy, mode)
        self.images = ours.images.detach().clone().requires_grad_()
        rate, momentum = self.config.learning_rate, self.config.momentum
        self.optimizer = torch.optim.SGD([self.images], lr=rate, momentum=momentum)
        whole = self.real.unit(torch.arange(len(self.real.labels)), self.images.dtype)
        self.normalised = self.normalise(whole)

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.model.mean) / self.model.std

    def losses(self) -> Iterator[Tensor]:
        """Of one class after another."""
        config = self.config
        generator = torch.Generator().manual_seed(seed_of(config.seed, "step", *PLACE))
        draws = self.augment.draw(self.classes, generator)
        rows = self.real.draw(config.real_batch, generator).chunk(self.classes)
        for label in range(self.classes):
            draw = draws[label : label + 1]
            stored = self.images[label * config.ipc : (label + 1) * config.ipc]
            decoded, _ = decode(stored, config.factor)
            if len(decoded) > config.synthetic_batch:
                seed = seed_of(config.seed, "decoded", *PLACE)
                decoded = decoded[self._shuffled(len(decoded), seed)[label]]
            real = self._augmented(self.normalised[rows[label]], draw)
            synthetic = self._augmented(self.normalise(decoded), draw)
            with torch.no_grad():
                target = self.model.backbone(real).mean(0)
            yield (target - self.model.backbone(synthetic).mean(0)).square().sum()

    def _augmented(self, images: Tensor, draw: Tensor) -> Tensor:
        return self.augment(images, torch.zeros(len(images), dtype=torch.long), draw)

    def _shuffled(self, count: int, seed: int) -> list[Tensor]:
        """Decoded images of each class, where there are too many."""
        generator = torch.Generator().manual_seed(seed)
        most = self.config.synthetic_batch
        return [torch.randperm(count, generator=generator)[:most] for _ in range(self.classes)]

    def step(self) -> None:
        if self.config.method == "iem":
            for loss in self.losses():
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        else:
            self.optimizer.zero_grad()
            torch.stack(list(self.losses())).sum().backward()
            self.optimizer.step()

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Sums over the classes."""
        self.images.grad = None
        losses = []
        for loss in self.losses():
            loss.backward(inputs=[self.images])
            losses.append(loss.detach())
        return torch.stack(losses).sum(), self.images.grad


def wrong(case: Case, ways: Sequence[bool] = (False, True)) -> tuple[str, float]:
    """Why ours is not the class loop's in float64, empty if it is; the largest error.

    ways: compiled or not.
    """
    splits, found, error = case.splits(), [], 0.0
    for compiled in ways:
        ours = Ours(case, splits, compiled, torch.float64)
        expected = ClassLoop(case, ours).gradient()
        for name, a, b in zip(("loss", "gradient"), ours.gradient(), expected, strict=True):
            error = max(error, float((a - b).norm() / b.norm()))
            if why := disagreement(a, b):
                found.append(f"{name}{', compiled' if compiled else ''}: {why}")
    return "; ".join(found), error


def rows_of(case: Case, threads: int, seconds: float) -> list[Row]:
    """First the step of each, then the parts of ours, whose ratio is empty."""
    splits = case.splits()
    ours, compiled = (Ours(case, splits, flag, torch.float32) for flag in (False, True))
    steps = {
        CLASS_LOOP: ClassLoop(case, ours).step,
        OURS: ours.step,
        COMPILED: compiled.step,
    }
    timed = {("step", n): t for n, t in measure(steps, time_cpu, seconds, MIN_ROUNDS).items()}
    clock = "cpu" if threads == 1 else "median"
    baseline = getattr(timed["step", CLASS_LOOP], clock)
    for name, run in ((OURS, ours), (COMPILED, compiled)):
        for part, timing in measure(run.parts(), time_cpu, seconds / 4, 1).items():
            timed[part, name] = timing
    return [
        stamp("cpu", threads)
        | {
            "op": f"{case.method} step",
            "provider": name,
            "backend": "PyTorch" if name == CLASS_LOOP else "PyTorch, C++",
            "mode": mode,
            "execution": EAGER,
            "shape": case.shape,
            "size": case.classes * case.real * 28 * 28,
            "dtype": "float32",
            **timing.columns(),
            "peak_memory_mb": float("nan"),
            "ratio": baseline / getattr(timing, clock) if mode == "step" else float("nan"),
            "baseline": CLASS_LOOP if mode == "step" else "",
            "ratio_clock": "cpu" if threads == 1 else "wall",
        }
        for (mode, name), timing in timed.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it works")
    parser.add_argument("--width", type=int, help="cases of this width only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1800, help="start nothing new after this")
    parser.add_argument("--each", type=float, default=5.0, help="seconds a case, if that is enough")
    parser.add_argument("--out", type=Path, help="CSV file to append to, instead of results/")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    for check in QUICK:
        why, error = wrong(check)
        if why:
            print(f"WRONG: {check.method} {check.shape}: {why}", file=sys.stderr)
            return 1
        print(f"{check.method} {check.shape}: same loss and gradient in float64 ({error:.1g})")
    for case in QUICK if options.quick else CASES:
        if options.width not in (None, case.width):
            continue
        if time.perf_counter() - start > options.seconds:
            print(f"time is up before {case.method} {case.shape}")
            break
        torch.compiler.reset()  # or compilations of other shapes would count against its limit
        rows = rows_of(case, options.threads, options.each)
        print(f"\n{case.method} {case.shape}\n{table(rows)}", flush=True)
        slug = machine_slug(rows[0]["device"])
        append_rows(options.out or RESULTS / f"condense-{slug}.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
