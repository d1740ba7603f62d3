"""What counts as packed codes, and how they pass between numpy and torch without a copy."""

import operator
import warnings

import numpy as np
import torch

Array = np.ndarray | torch.Tensor

NO_DISTANCE = 2**31 - 1
NO_ID = -1


class _WritableAlias:
    """Shows numpy the memory of a read-only array as writable.

    torch warns about every read-only array, and a memory map must not be copied to avoid that.
    Sound because searching only reads.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive: numpy holds on to the alias
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def to_tensor(array: Array) -> torch.Tensor:
    """View an array as a tensor; only negative strides, which torch lacks, cost a copy.

    Never write to the result: the array may be a read-only memory map.
    """
    if isinstance(array, torch.Tensor):
        return array.detach()
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = np.asarray(_WritableAlias(array))
    return torch.from_numpy(array)


def like(original: Array, *results: torch.Tensor) -> tuple[Array, ...]:
    """Hand results back as the caller's query came: numpy, or torch on the query's device."""
    if isinstance(original, torch.Tensor):
        return tuple(result.to(original.device) for result in results)
    return tuple(result.cpu().numpy() for result in results)


def as_codes(codes: Array, name: str, bits: int | None = None) -> torch.Tensor:
    """Check packed codes and view them as a tensor.

    Args:
        codes: uint8 [n, bytes per code], numpy or torch.
        name: what error messages call them.
        bits: the width an index holds; None accepts every width.

    Raises:
        TypeError: not an array, or not uint8.
        ValueError: not two-dimensional, another width than `bits`, or padding bits set.
    """
    if not isinstance(codes, Array):
        raise TypeError(
            f"{name} is a {type(codes).__name__}; expected packed codes as a numpy array or torch "
            "tensor, uint8 [n, bytes per code]"
        )
    if codes.dtype not in (np.uint8, torch.uint8):
        raise TypeError(_wrong_dtype(codes, name))
    if codes.ndim == 1:
        raise ValueError(
            f"{name} has shape {tuple(codes.shape)}; expected [n, bytes per code]: "
            f"give a single code an axis, {name}[None, :]"
        )
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(codes.shape)}; expected [n, bytes per code]")
    tensor = to_tensor(codes)
    if bits is not None:
        _check_width(tensor, name, bits)
        _check_padding(tensor, name, bits)
    return tensor


def check_same_width(query: torch.Tensor, database: torch.Tensor) -> None:
    """Raise ValueError unless both have as many bytes per code."""
    if query.shape[1] != database.shape[1]:
        raise ValueError(
            f"query has {_bytes_per_code(query.shape[1])}; "
            f"database has {_bytes_per_code(database.shape[1])}"
        )


def as_integer(value: int, name: str, least: int) -> int:
    """Check a whole number of at least `least`: TypeError or ValueError otherwise."""
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer") from None
    if integer < least:
        raise ValueError(f"{name} is {integer}; expected at least {least}")
    return integer


def check_k(k: int, n: int) -> int:
    """Check the number of neighbours asked of n codes; more than n is padded, with one warning."""
    k = as_integer(k, "k", 1)
    if k > n:
        warnings.warn(
            f"k is {k} but there are {n} codes to search: results are padded with "
            f"distance {NO_DISTANCE} and id {NO_ID}",
            stacklevel=3,  # the line that called search
        )
    return k


def check_radius(radius: int, code_size: int) -> int:
    """Check a search radius in bits; beyond the width of a code it finds no more."""
    return min(as_integer(radius, "radius", 0), 8 * code_size)


def _wrong_dtype(codes: Array, name: str) -> str:
    dtype = str(codes.dtype).removeprefix("torch.")
    message = (
        f"{name} is {dtype}; expected packed codes, uint8 [n, bytes per code]: "
        "hashfast.pack turns values [n, bits] into them (value > 0 is bit 1)"
    )
    if dtype == "int8":
        message += (
            ". int8 codes of sentence-transformers' precision='binary' are packed already but "
            "shifted by 128: encode with precision='ubinary' instead"
        )
    return message


def _bytes_per_code(size: int) -> str:
    return f"{size} {'byte' if size == 1 else 'bytes'} per code ({8 * size} bits)"


def _check_width(codes: torch.Tensor, name: str, bits: int) -> None:
    size, expected = codes.shape[1], (bits + 7) // 8
    if size == expected:
        return
    message = (
        f"{name} has {_bytes_per_code(size)}; this index holds {bits}-bit codes "
        f"({expected} {'byte' if expected == 1 else 'bytes'})"
    )
    if size == bits:
        message += ". If they hold one 0/1 byte per bit, pack them: hashfast.pack(values > 0)"
    raise ValueError(message)


def _check_padding(codes: torch.Tensor, name: str, bits: int) -> None:
    padding = -bits % 8
    if padding and bool((codes[:, -1] & ((1 << padding) - 1)).any()):
        raise ValueError(
            f"{name}: some of the last {padding} bits of a code are set; this index holds "
            f"{bits}-bit codes, whose padding is zero: hashfast.pack pads with zeros"
        )
