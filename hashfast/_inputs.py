"""Checks of packed codes and labels, and how arrays become tensors without a copy."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor
Labels = Array | Sequence

MAX_CODE_BYTES = 8191  # distances are held in 16 bits


class _WritableAlias:
    """Shows numpy the memory of a read-only array as writable.

    torch warns about every read-only array, and a memory map must not be copied to avoid that.
    Sound because nothing writes to what `to_tensor` returns.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive: numpy holds on to the alias
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def to_tensor(values: Array | Sequence) -> Tensor:
    """View an array as a tensor; only lists and negative strides, which torch lacks, cost a copy.

    Never write to the result: the array may be a read-only memory map.
    """
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # ascontiguousarray leaves a single row as it is
    if not array.flags.writeable:
        array = np.asarray(_WritableAlias(array))
    return torch.from_numpy(array)


def check_codes(codes: Array, name: str) -> None:
    """Raise unless `codes`, called `name` in messages, are packed: uint8 [n, bytes per code].

    TypeError for anything but a uint8 array or tensor, ValueError for another shape and for codes
    wider than MAX_CODE_BYTES.
    """
    if not isinstance(codes, Array):
        raise TypeError(
            f"{name} is a {type(codes).__name__}; expected packed codes as a numpy array or torch "
            "tensor, uint8 [n, bytes per code]"
        )
    dtype = _dtype(codes)
    if dtype != "uint8":
        raise TypeError(
            f"{name} is {dtype}; expected packed codes, uint8 [n, bytes per code]: "
            f"{_to_uint8(codes, dtype)}"
        )
    if codes.ndim != 2 or codes.shape[1] == 0:
        hint = ": give a single code an axis, codes[None, :]" if codes.ndim == 1 else ""
        raise ValueError(
            f"{name} has shape {list(codes.shape)}; expected [n, bytes per code]{hint}"
        )
    if codes.shape[1] > MAX_CODE_BYTES:
        raise ValueError(
            f"{name} has {_width(codes.shape[1])}; expected at most {_width(MAX_CODE_BYTES)}"
        )


def as_codes(
    codes: Array, name: str, bits: int | None = None, expected: str = "expected"
) -> Tensor:
    """Packed codes as a tensor; given `bits`, also their width and zero padding are checked.

    `expected` leads to the number of bits in messages. Raises as `check_codes`, ValueError for
    another width and for padding bits that are set.
    """
    check_codes(codes, name)
    tensor = to_tensor(codes)
    if bits is None:
        return tensor
    size, wanted, padding = tensor.shape[1], (bits + 7) // 8, -bits % 8
    if size != wanted:
        hint = ""
        if size == bits:
            hint = ". If they hold one 0/1 byte per bit, pack them: hashfast.pack(values > 0)"
        raise ValueError(
            f"{name} has {_width(size)}; {expected} {bits}-bit codes ({_bytes(wanted)}){hint}"
        )
    if padding and bool((tensor[:, -1] & ((1 << padding) - 1)).any()):
        raise ValueError(
            f"{name}: some of the last {padding} bits of a code are set; {expected} {bits}-bit "
            "codes, whose padding is zero: hashfast.pack pads with zeros"
        )
    return tensor


def check_same_width(query: Tensor, database: Tensor) -> None:
    """Raise ValueError unless both have as many bytes per code."""
    size, wanted = query.shape[1], database.shape[1]
    if size != wanted:
        hint = ""
        for name, one, other in (("query", size, wanted), ("database", wanted, size)):
            if one == 8 * other:
                hint = (
                    f". If the {name} holds one 0/1 byte per bit, pack it: "
                    f"hashfast.pack({name} > 0)"
                )
        raise ValueError(f"query has {_width(size)}; database has {_width(wanted)}{hint}")


def check_label_form(labels: Tensor, num_classes: int | None = None, name: str = "labels") -> None:
    """Raise unless integer class ids [n] or multi-hot [n, classes]; never waits for the device.

    Multi-hot labels are `num_classes` wide; where that is not known, a single column is taken for
    class ids with an axis too many.
    """
    classes = "classes" if num_classes is None else f"num_classes={num_classes}"
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"{name} are {_dtype(labels)} of shape {list(labels.shape)}; class ids are "
                f"integers: convert them to int64, or pass multi-hot [n, {classes}]"
            )
    elif labels.ndim != 2 or labels.shape[1] != (num_classes or max(2, labels.shape[1])):
        hint = "; use labels.flatten()" if labels.shape[1:] == (1,) else ""
        raise ValueError(
            f"{name} have shape {list(labels.shape)}; expected class ids [n] or multi-hot "
            f"[n, {classes}]{hint}"
        )


def check_labels(labels: Labels, num_classes: int | None = None, name: str = "labels") -> Tensor:
    """Labels in the form the losses take: int64 ids ``[n]`` or float32 multi-hot ``[n, classes]``.

    ``labels`` is a tensor, array or list of integer class ids, or a 0/1 matrix of any dtype (a row
    may be all zero). Given ``num_classes``, ids must be in ``0 .. num_classes-1`` and the matrix
    that many columns wide; without, any id will do and at least two columns. ``name`` is what
    messages call them. The result may share memory with ``labels``: do not write to it.

    Raises TypeError for float or bool ids and ValueError for a wrong shape, width or value, naming
    the first bad row. Waits for the device: meant for once a run.
    """
    labels = to_tensor(labels)
    if labels.shape == (0,):  # an empty list is float
        return labels.long()
    check_label_form(labels, num_classes, name)
    if labels.ndim == 2:
        rounded = labels.bool().to(labels.dtype)  # NaN becomes 1
        if not torch.equal(labels, rounded):
            row, column = (labels != rounded).nonzero()[0].tolist()
            raise ValueError(
                f"multi-hot {name} must be 0 or 1; got {labels[row, column].item()} at row {row}, "
                f"class {column}: threshold them first"
            )
        return labels.float()
    labels = labels.long()
    if num_classes is not None:
        wrong = (labels < 0) | (labels >= num_classes)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            low, high = int(labels.min()), int(labels.max())
            fix = "renumber the classes from 0 or raise num_classes"
            if (low, high) == (1, num_classes):
                fix = "they seem to start at 1, subtract 1"
            raise ValueError(
                f"{name} hold class ids {low} to {high}, {labels[row].item()} at row {row}; "
                f"num_classes={num_classes} expects ids 0 to {num_classes - 1}: {fix}"
            )
    return labels


def _to_uint8(codes: Array, dtype: str) -> str:
    """How values of another dtype become packed codes."""
    pack = "hashfast.pack turns values [n, bits] into them (value > 0 is bit 1)"
    if dtype == "int8":
        return (
            f"{pack}. int8 codes of sentence-transformers' precision='binary' are packed already "
            "but shifted by 128: encode with precision='ubinary' instead"
        )
    if dtype.startswith(("int", "uint")):
        cast = "to(torch.uint8)" if isinstance(codes, Tensor) else "astype(np.uint8)"
        return (
            f"if these are packed bytes (0..255), use codes.{cast}; if they are -1 and +1, {pack}"
        )
    return pack


def _dtype(values: Array) -> str:
    return str(values.dtype).removeprefix("torch.")


def _width(size: int) -> str:
    return f"{_bytes(size)} per code ({8 * size} bits)"


def _bytes(size: int) -> str:
    return f"{size} {'byte' if size == 1 else 'bytes'}"
