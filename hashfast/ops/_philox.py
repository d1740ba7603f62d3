"""Random bits that every backend reproduces: Philox-4x32-10 (Salmon et al. 2011)."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four 32-bit words per counter; every word is an int64 tensor holding 32 unsigned bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two 32-bit words wraps in int64 with the right bits.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _popcount32(x: Tensor) -> Tensor:
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    return ((((x + (x >> 4)) & 0x0F0F0F0F) * 0x01010101) & _MASK) >> 24


def binomial_half(seed: Tensor, n: int, bits: int) -> Tensor:
    """Binomial(n, 1/2) counts int32 [bits]: ones among the first n random bits of each column.

    Column j reads the words of counters (block, 0, j, 0), block = 0, 1, ..., under the key `seed`
    (0-d int64); words fill from the first, bits from the lowest.
    """
    device = seed.device
    block = torch.arange(-(-n // 128), device=device).unsqueeze(1)
    column = torch.arange(bits, device=device).unsqueeze(0)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    words = philox((block, zero, column, zero), (seed & _MASK, (seed >> 32) & _MASK))
    used = torch.stack([(n - 128 * block - 32 * w).clamp(0, 32) for w in range(4)])
    ones = torch.stack(words) & ((1 << used) - 1)
    return _popcount32(ones).sum((0, 1)).to(torch.int32)
