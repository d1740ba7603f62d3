"""What is compared: an operation at one shape, its peers, and whether they are right."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from _rows import first_line
from torch import Tensor

HASHFAST, REFERENCE = "hashfast", "reference"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Peer:
    """One way to compute an operation.

    run: takes the case's arguments.
    backend: what serves it; a mapping has one entry a mode.
    compared: which of its outputs must agree with the reference's (None: all of them).
    capturable: whether a CUDA graph can hold it; one that synchronises cannot be captured, and
        trying leaves PyTorch's allocator in a state that later calls trip over.
    """

    name: str
    run: Callable[..., Any]
    backend: str | Mapping[str, str]
    compared: tuple[int, ...] | None = None
    capturable: bool = True

    def served_by(self, mode: str) -> str:
        return self.backend if isinstance(self.backend, str) else self.backend[mode]


@dataclass(frozen=True)
class Case:
    """An operation at one shape, with everything that computes it.

    peers: one of them is called "reference" and decides what is right.
    size: elements of the inputs, or bytes of codes compared; the x axis of the plots.
    baseline: the peer that ratios refer to.
    differentiable: positions of the arguments that get a gradient; the gradient is that of the sum
        of the first output.
    """

    op: str
    shape: str
    size: int
    dtype: torch.dtype
    arguments: tuple[Any, ...]
    peers: tuple[Peer, ...]
    baseline: str = REFERENCE
    differentiable: tuple[int, ...] = ()

    @property
    def modes(self) -> tuple[str, ...]:
        return ("forward", "backward", "forward+backward") if self.differentiable else ("forward",)


def as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def leaves(case: Case) -> list[Tensor]:
    return [case.arguments[i].requires_grad_() for i in case.differentiable]


def results_of(case: Case, peer: Peer) -> tuple[tuple, tuple]:
    """(outputs, gradients) of one call."""
    inputs = leaves(case)
    outputs = as_tuple(peer.run(*case.arguments))
    gradients: tuple = ()
    if inputs:
        gradients = torch.autograd.grad(outputs[0], inputs, torch.ones_like(outputs[0]))
    return tuple(torch.as_tensor(o).detach() for o in outputs), gradients


def disagreement(got: Tensor, expected: Tensor) -> str:
    """Why two results differ; empty if they agree.

    Integers are equal; of floats the norm of the difference is small beside the norm.
    """
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    got = got.to(expected.device)
    if not expected.is_floating_point():
        wrong = int((got != expected).sum())
        return f"{wrong} of {expected.numel()} integers differ" if wrong else ""
    finite = expected.isfinite()
    if not torch.equal(got.isfinite(), finite):
        return "NaN or infinite where the reference is not, or the reverse"
    truth = expected[finite].double()
    error = float(torch.linalg.vector_norm(got[finite].double() - truth))
    scale = float(torch.linalg.vector_norm(truth)) or 1.0
    allowed = TOLERANCE[expected.dtype]
    return "" if error <= allowed * scale else f"relative error {error / scale:.2g} > {allowed:g}"


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors hold NaN (or the largest integer), so that an unwritten output is noticed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def check(case: Case, peer: Peer, expected: tuple[tuple, tuple]) -> str:
    """Why a peer may not be timed: it disagrees with the reference, or fails; empty if it may."""
    try:
        if peer.name == HASHFAST:
            with poisoned():
                outputs, gradients = results_of(case, peer)
        else:
            outputs, gradients = results_of(case, peer)
    except Exception as error:
        return f"failed: {first_line(error)}"
    compared = range(len(expected[0])) if peer.compared is None else peer.compared
    if len(outputs) <= max(compared, default=-1):
        return f"returns {len(outputs)} values, the reference {len(expected[0])}"
    named = [(f"output {i}", outputs[i], expected[0][i]) for i in compared]
    named += [
        (f"gradient {i}", got, truth)
        for i, (got, truth) in enumerate(zip(gradients, expected[1], strict=True))
    ]
    for name, got, truth in named:
        why = disagreement(got, truth)
        if why:
            return f"wrong {name}: {why}"
    return ""
