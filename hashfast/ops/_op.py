"""One operation: schema, reference, fake, gradient, examples.

The reference is plain PyTorch and is the specification: it is registered for every device, and a
compiled kernel (C++ for CPU, CUDA C++ or Triton for CUDA) takes precedence where there is one.
PyTorch's dispatcher chooses.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hashfast import _ext

NAMESPACE = "hashfast"
OPS: dict[str, "Op"] = {}
_library = torch.library.Library(NAMESPACE, "FRAGMENT")

Examples = Callable[[str, torch.dtype], Iterator[tuple]]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are taken: float32 for half types, the dtype itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class Op:
    """Registers one operation with PyTorch and in the `OPS` table.

    schema: as `torch.library.define` takes it, name first.
    reference: the specification in plain PyTorch; also the fallback.
    fake: shapes and dtypes of the result, for torch.compile.
    examples: yields argument tuples for a device and a floating dtype; tests and benchmarks use it.
    backward, setup_context: the gradient, as `torch.library.register_autograd` takes them. An
        operation with floating-point inputs and no backward raises when it is differentiated.
    compiled: the devices, "cpu" or "cuda", for which csrc/ has a kernel.
    triton: "module:function" of a launcher with the schema's arguments, used on CUDA tensors unless
        the CUDA library already brings a kernel for this operation (the faster one is kept there).
    """

    def __init__(
        self,
        schema: str,
        *,
        reference: Callable,
        fake: Callable,
        examples: Examples,
        backward: Callable | None = None,
        setup_context: Callable | None = None,
        compiled: tuple[str, ...] = (),
        triton: str | None = None,
    ):
        self.name = schema.split("(", 1)[0]
        self.reference, self.examples = reference, examples
        self.compiled, self.triton = compiled, triton
        self.differentiable = backward is not None
        qualified = f"{NAMESPACE}::{self.name}"
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(self.name, _without_autocast(reference), "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, fake, lib=_library)
        torch.library.register_autograd(
            qualified,
            backward or self._not_differentiable,
            setup_context=setup_context,
            lib=_library,
        )
        if triton and not self._has_kernel("cuda") and _has_triton():
            _library.impl(self.name, _lazy(triton), "CUDA")
        OPS[self.name] = self

    @property
    def overload(self) -> torch._ops.OpOverload:
        return getattr(getattr(torch.ops, NAMESPACE), self.name).default

    def __call__(self, *args: Any) -> Any:
        return self.overload(*args)

    def backend(self, device: str) -> str:
        """What serves it on "cpu" or "cuda": "C++", "CUDA C++", "Triton" or "reference"."""
        if not self._has_kernel(device):
            return "reference"
        if device == "cpu":
            return "C++"
        return "CUDA C++" if self.name in _CUDA_KERNELS else "Triton"

    def why_reference(self, device: str) -> str:
        """Why no compiled kernel serves this operation on the device; empty if one does."""
        if self.backend(device) != "reference":
            return ""
        if device == "cuda" and not torch.version.cuda:
            return "this torch has no CUDA"
        if device in self.compiled:
            library = "_C" if device == "cpu" else "_C_cuda"
            return f"hashfast.{library}: {_ext.MISSING.get(library, 'built without it')}"
        if device == "cuda" and self.triton:
            return "triton is not installed"
        return "no kernel written"

    def _has_kernel(self, device: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(
            f"{NAMESPACE}::{self.name}", device.upper()
        )

    def _not_differentiable(self, ctx: Any, *grads: torch.Tensor) -> None:
        raise RuntimeError(
            f"hashfast::{self.name} has no gradient of its own (a second derivative was asked for)"
        )


def _without_autocast(reference: Callable) -> Callable:
    """The reference computes in the dtypes it is given, as the compiled kernels do."""

    @functools.wraps(reference)
    def call(*args: Any) -> Any:
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        if not torch.is_autocast_enabled(device):
            return reference(*args)
        with torch.autocast(device, enabled=False):
            return reference(*args)

    return call


def _has_triton() -> bool:
    return torch.version.cuda is not None and importlib.util.find_spec("triton") is not None


def _lazy(path: str) -> Callable:
    module, function = path.split(":")

    def launch(*args: Any) -> Any:
        return getattr(importlib.import_module(module), function)(*args)

    return launch


def _cuda_kernels() -> frozenset[str]:
    """Operations that the CUDA library serves (read once, before any Triton launcher is added)."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    return frozenset(n.removeprefix(f"{NAMESPACE}::") for n in names if n.startswith(NAMESPACE))


_CUDA_KERNELS = _cuda_kernels()

CPU_LEVELS = ("portable", "AVX2", "AVX-512")
_library.define("cpu_level() -> int")


def cpu_level() -> str:
    """The instruction set the C++ kernels use, one of `CPU_LEVELS`.

    It is the best this CPU has; the environment variable HASHFAST_CPU=portable|avx2|avx512, read
    once at the first use of a kernel, can lower it. Raises RuntimeError for another value, and
    when the library is not there.
    """
    if "_C" in _ext.MISSING:
        raise RuntimeError(f"hashfast._C: {_ext.MISSING['_C']}")
    return CPU_LEVELS[torch.ops.hashfast.cpu_level()]
