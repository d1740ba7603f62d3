"""Gradient matching: how differently two batches of images would move a hash model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hashfast.condense.distances import gradient_distance
from hashfast.hashing.loading import seed_draws
from hashfast.losses import HashLoss

Layers = Literal["all", "conv"]

# Terms compared by their gradient at the loss's own parameters only.
_OWN_TERMS = ("proxy",)


class Views(NamedTuple):
    """A batch as a loss sees it.

    images [n, C, H, W]: what the model takes, floating point in [0, 1], augmented. labels: class
    ids [n] or multi-hot [n, classes]. second_images [n, C, H, W]: another view of the same images,
    for losses that compare two (DHD: `images` is the teacher's, `second_images` the student's).
    """

    images: Tensor
    labels: Tensor
    second_images: Tensor | None = None


def matched_parameters(module: nn.Module, layers: Layers = "all") -> list[Tensor]:
    """The trainable parameters whose gradients are compared: "all", or weights of "conv" layers.

    Raises ValueError for another choice, and where there are none.
    """
    if layers not in ("all", "conv"):
        raise ValueError(f"unknown layers {layers!r}; choose 'all' or 'conv'")
    if layers == "all":
        found: Iterable[Tensor] = module.parameters()
    else:
        found = (layer.weight for layer in module.modules() if isinstance(layer, nn.Conv2d))
    parameters = [parameter for parameter in found if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            f"{type(module).__name__} has no trainable parameters in layers={layers!r}: nothing "
            "to match"
        )
    return parameters


def gradients(
    loss: Tensor,
    parameters: Sequence[Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of a scalar; zeros for a parameter it does not depend on.

    create_graph: keep them differentiable, for the synthetic side. Matching the cross-entropy, as
    the public codes of DSA and IDC do, is `gradient_distance(gradients(cross_entropy(net(real), y),
    parameters), gradients(cross_entropy(net(synthetic), z), parameters, create_graph=True), ...)`.
    """
    return torch.autograd.grad(
        loss,
        parameters,
        create_graph=create_graph,
        retain_graph=retain_graph,
        materialize_grads=True,
    )


def match_gradients(
    model: nn.Module,
    criterion: HashLoss,
    real: Views,
    synthetic: Views,
    *,
    metric: str,
    layers: Layers = "all",
) -> Tensor:
    """Distance of the gradients of a hashing loss on real and on synthetic images, D1 + D2.

    D1 compares the gradients at the network's parameters (encoder and hash head), D2 those at the
    loss's own trained parameters: DHD's proxies, GreedyHash's classifier; without any, as in all
    other methods, it is 0. DHD's proxy term HP counts in D2 and not in D1 (Feng et al., Towards
    Efficient Deep Hashing Retrieval, appendix B, Algorithm 2); every other term counts in both.

    The result is a scalar, differentiable in the synthetic images (twice differentiated through
    model and loss; the real side is constant). What the loss holds fixed stays so: DHD's teacher in
    its distillation term, GreedyHash's sign, the ranks of HSWD. Random draws of a quantisation term
    start from the same seed, one number of torch's CPU generator, on both sides.

    Model and criterion are called as they are: in training mode batch norm takes the statistics of
    each batch, needs two rows and updates its own, and HashNet's official variants count steps.

    Args:
        model: maps images to outputs [n, bits] before sign.
        criterion: built without a memory bank.
        metric: a name in `METRICS` of `hashfast.condense.distances`, for D1 and for D2.
        layers: the parameters of the network in D1, see `matched_parameters`.

    Raises ValueError for unknown choices, a loss with a memory bank, a missing second view, and
    what model and loss raise.
    """
    network = matched_parameters(model, layers)
    own: list[Tensor] = [held for held in criterion.parameters() if held.requires_grad]
    seed = None if criterion.quantizer is None else int(torch.randint(2**63 - 1, ()))
    sides = [
        _of_network_and_loss(model, criterion, views, network, own, seed, create_graph)
        for views, create_graph in ((real, False), (synthetic, True))
    ]
    distances = [
        gradient_distance(of_real, of_synthetic, metric)
        for of_real, of_synthetic in zip(*sides, strict=True)
    ]
    return torch.stack(distances).sum()


def _of_network_and_loss(
    model: nn.Module,
    criterion: HashLoss,
    views: Views,
    network: list[Tensor],
    own: list[Tensor],
    seed: int | None,
    create_graph: bool,
) -> list[tuple[Tensor, ...]]:
    """Gradients at the network's parameters and, if the loss has any, at its own."""
    terms = _terms(model, criterion, views, seed)
    of_network = [value for name, value in terms.items() if name not in _OWN_TERMS]
    at_own = []
    if own:
        total = torch.stack(list(terms.values())).sum()
        at_own.append(gradients(total, own, create_graph=create_graph, retain_graph=True))
    loss = torch.stack(of_network).sum()
    return [gradients(loss, network, create_graph=create_graph), *at_own]


def _terms(
    model: nn.Module, criterion: HashLoss, views: Views, seed: int | None
) -> dict[str, Tensor]:
    """The terms of the loss on these images; a seed fixes what the loss draws."""
    if "index" in criterion.needs:
        raise ValueError(
            f"this {type(criterion).__name__} has a memory bank, where synthetic images have no "
            "place: build it with bank_size=None"
        )
    student = None
    if "u_student" in criterion.needs:
        if views.second_images is None:
            raise ValueError(
                f"{type(criterion).__name__} compares two views: give Views(images, labels, "
                "second_images)"
            )
        student = model(views.second_images)
    outputs = model(views.images)
    with _draws(seed, outputs.device):
        return criterion.terms(outputs, views.labels, u_student=student)


@contextmanager
def _draws(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws that start from `seed`, if there is one; torch's generators are left as they were."""
    if seed is None:
        yield
        return
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type):
        seed_draws(device, seed)
        yield
