"""Packing sign bits into bytes and back, for NumPy and PyTorch alike."""

from typing import overload

import numpy as np
import torch
from torch import Tensor

# Eight 0/1 bytes, read as a little-endian word, times this have their bits in the highest byte: it
# moves byte i, at bit 8 i, by 63 - 9 i to bit 63 - i, and no two of the products meet.
_GATHER = 0x8040201008040201 - (1 << 64)


@overload
def pack(values: Tensor) -> Tensor: ...
@overload
def pack(values: np.ndarray) -> np.ndarray: ...
def pack(values):
    """Pack signs into bytes: values [..., b] -> uint8 [..., ceil(b / 8)]; value > 0 gives bit 1.

    The order is that of `np.packbits` (first value in the highest bit), as faiss and
    sentence-transformers' `ubinary` use; missing bits of the last byte are 0. Accepts floating,
    boolean and signed integer values (raw outputs, +-1, 0/1), NumPy or PyTorch on any device, and
    returns the same kind. NaN is not > 0 and packs to 0. Raises TypeError for uint8, which is what
    packed codes look like, and for arrays of anything but numbers.
    """
    if not isinstance(values, Tensor):
        values = np.asarray(values)
    if values.dtype in (torch.uint8, np.uint8):
        raise TypeError(
            "pack: values are uint8, the dtype of codes that are packed already; "
            "for 0/1 bytes pass values.astype(bool) or values.bool()"
        )
    if not isinstance(values, Tensor) and values.dtype.kind in "OSUMm":
        raise TypeError(f"pack: values are {values.dtype}; expected floats, bools or integers")
    bits = values > False  # as > 0, for which bool values would become int64 first
    if not isinstance(bits, Tensor):
        return np.packbits(bits, axis=-1)
    padded = torch.nn.functional.pad(bits.contiguous(), (0, -bits.shape[-1] % 8))
    words = padded.flatten().view(torch.int64)
    codes = (words * _GATHER >> 56).to(torch.uint8)
    return codes.view(*bits.shape[:-1], padded.shape[-1] // 8)


@overload
def unpack(codes: Tensor, bits: int | None = None) -> Tensor: ...
@overload
def unpack(codes: np.ndarray, bits: int | None = None) -> np.ndarray: ...
def unpack(codes, bits=None):
    """Inverse of `pack`: uint8 [..., B] -> int8 [..., bits] in {-1, +1}; bits defaults to 8 B.

    Raises TypeError unless codes are uint8 and ValueError when `bits` do not fit in the bytes.
    """
    if codes.dtype not in (torch.uint8, np.uint8):
        raise TypeError(f"unpack: codes are {codes.dtype}; packed codes are uint8")
    width = 8 * codes.shape[-1]
    bits = width if bits is None else bits
    if not width - 8 < bits <= width:
        raise ValueError(f"unpack: {bits} bits do not fit codes of {codes.shape[-1]} bytes")
    if not isinstance(codes, Tensor):
        return np.unpackbits(codes, axis=-1, count=bits).astype(np.int8) * 2 - 1
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=codes.device)
    ones = (codes.unsqueeze(-1) >> shifts) & 1
    return ones.flatten(-2)[..., :bits].to(torch.int8) * 2 - 1
