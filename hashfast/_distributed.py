"""Several processes that work as one: who is who, rows of all gathered, errors of one for all.

Everything here also works in a single process, where nothing is exchanged.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_TIMEOUT = timedelta(minutes=30)
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Errors that are raised as what they are in processes where they did not happen; others there are a
# RuntimeError.
_KINDS = (FileNotFoundError, OSError, MemoryError, ImportError, IndexError, TypeError, ValueError)
_Value = TypeVar("_Value")


def is_distributed() -> bool:
    """Whether several processes work together."""
    return world() > 1


def rank() -> int:
    return dist.get_rank() if _initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _initialized() else 1


@contextmanager
def setup(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; they stay joined until they exit.

    Yields this process's device: the GPU numbered LOCAL_RANK for a CUDA device. Tensors on the CPU
    travel by gloo, those on GPUs by NCCL. A process group that exists already is used. On an error
    the connections are closed, so that processes waiting for this one fail too.
    Raises ValueError for a GPU chosen by number, more processes than GPUs, and an existing group
    that cannot carry tensors of the CPU.
    """
    ours = not _initialized() and _launched()
    if not ours and not is_distributed():
        yield device
        return
    device = _own_device(device)
    if ours:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
        atexit.register(_leave)
    else:
        check_group()
    try:
        yield device
    except BaseException:
        # NCCL may wait for the others before it closes; then the end of this process tells them.
        if device.type != "cuda":
            _leave()
        raise


def check_group() -> None:
    """Raise ValueError for a process group that cannot carry tensors of the CPU, and where torchrun
    started several processes that were not joined."""
    if not _initialized() and _launched():
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were started and are not joined: call "
            'torch.distributed.init_process_group("gloo") first'
        )
    if is_distributed() and "gloo" not in dist.get_backend_config():
        raise ValueError(
            f"the process group's backend is {dist.get_backend_config()}, which carries no tensors "
            'of the CPU: init_process_group("cpu:gloo,cuda:nccl")'
        )


def barrier() -> None:
    """Wait until every process is here."""
    gather_counts(0)


def gather_counts(count: int) -> list[int]:
    """The number of every process, in rank order; exchanged on the CPU, no device is waited for."""
    if not is_distributed():
        return [count]
    counts = [torch.empty(1, dtype=torch.int64) for _ in range(world())]
    dist.all_gather(counts, torch.tensor([count]))
    return [int(number) for number in counts]


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows [n, ...] of every process joined in rank order, [sum of n, ...].

    n may differ between processes; the other sizes and the dtype must not. counts: n of every
    process, where it is known; otherwise it is exchanged. The result is differentiable through this
    process's own rows; those of the others are constants.
    """
    if not is_distributed():
        return rows
    counts = gather_counts(len(rows)) if counts is None else counts
    if not sum(counts):
        return rows
    sent = rows.new_zeros(max(counts), *rows.shape[1:])
    sent[: len(rows)] = rows.detach()
    received = [torch.empty_like(sent) for _ in counts]
    dist.all_gather(received, sent)
    parts = [part[:count] for part, count in zip(received, counts, strict=True)]
    parts[rank()] = rows
    return torch.cat(parts)


def gather_objects(value: Any) -> list[Any]:
    """A small picklable value of every process, in rank order."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], _Value]) -> _Value:
    """What `make()` gives in the first process, small and picklable, for all of them.

    Where it raises, all processes do: the others the same kind of error, saying whose it was.
    """
    if not is_distributed():
        return make()
    if rank() == 0:
        try:
            value = make()
        except Exception as error:
            dist.broadcast_object_list([(_described(error), None)])
            raise
        dist.broadcast_object_list([(None, value)])
        return value
    sent: list[Any] = [None]
    dist.broadcast_object_list(sent)
    failure, value = sent[0]
    if failure is not None:
        raise _error_of(0, failure)
    return value


def rows_from_first(rows: Tensor) -> Tensor:
    """The first process's rows in all: those given there, and received into those given elsewhere.

    They have one shape and dtype everywhere, and lie on one kind of device.
    """
    if is_distributed() and rows.numel():
        rows = rows.contiguous()
        dist.broadcast(rows, 0)
    return rows


@contextmanager
def all_or_none() -> Iterator[None]:
    """A block in which no process waits for another: an error in one is raised in all at its end.

    Without it the others would wait, until the time limit of the process group, for one that does
    not come. They raise the same kind of error, saying whose it was.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    if any(gather_counts(int(failed is not None))):
        failures = gather_objects(None if failed is None else _described(failed))
        if failed is None:
            failed = next(_error_of(r, f) for r, f in enumerate(failures) if f is not None)
        raise failed


def own_share(rows: Tensor) -> Tensor:
    """This process's part of rows that all share: consecutive, sizes differ by one at most."""
    return rows.tensor_split(world())[rank()]


def _described(error: Exception) -> tuple[type[Exception], str]:
    """The kind and the message of an error: not all errors themselves can be sent."""
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), RuntimeError)
    return kind, str(error) or type(error).__name__


def _error_of(process: int, failure: tuple[type[Exception], str]) -> Exception:
    kind, message = failure
    return kind(f"process {process}: {message}")


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _leave() -> None:
    if _initialized():
        dist.destroy_process_group()


def _launched() -> bool:
    started = all(name in os.environ for name in _LAUNCHED)
    return started and dist.is_available() and int(os.environ["WORLD_SIZE"]) > 1


def _own_device(device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(
            f"device is {device}, and each of several processes takes a GPU of its own: choose cuda"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", rank()))
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}: start as many processes, or choose device cpu"
        )
    own = torch.device("cuda", local_rank)
    torch.cuda.set_device(own)
    return own
