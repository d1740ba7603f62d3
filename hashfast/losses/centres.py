"""Fixed binary targets, one per class: Hadamard rows, well separated balanced codes, random codes.

All are int8 tensors of -1 and +1 with shape [num_classes, bits], made on the CPU from a generator
of their own: the same arguments give the same codes everywhere, and torch's global random state is
left alone.
"""

import torch
from torch import Tensor

# Candidates drawn per class, and compared at a time. 2048 accepted codes keep one block of
# products (1024 x 2048 floats) in the processor's cache: 3 to 4 times faster than 8192 or more.
_CANDIDATES_PER_CLASS = 6
_MIN_CANDIDATES = 2**15
_BLOCK = 1024
_ACCEPTED_BLOCK = 2048
# Above this many classes the pairwise check would take minutes; the codes are then only distinct.
_MAX_SEPARATED = 2**16


def hash_centres(num_classes: int, bits: int, seed: int = 0) -> Tensor:
    """Hash centres of CSQ: Hadamard rows where they exist, else balanced codes far apart.

    Hadamard rows are used when `bits` is a power of two and `num_classes <= 2 * bits`
    (Yuan et al., CVPR 2020, Algorithm 1); otherwise `separated_centres`, which replaces that
    paper's rejection of whole random sets: it takes seconds at 40,000 classes and any `bits`.

    Returns int8 [num_classes, bits] of -1 and +1. Raises ValueError when there are fewer codes
    than classes.
    """
    if bits & (bits - 1) == 0 and num_classes <= 2 * bits:
        return hadamard_centres(num_classes, bits)
    return separated_centres(num_classes, bits, seed)


def hadamard_centres(num_classes: int, bits: int) -> Tensor:
    """First `num_classes` rows of [H; -H], H the Sylvester Hadamard matrix of order `bits`.

    Any two rows differ in bits / 2 places, or in all of them. Raises ValueError unless `bits` is
    a power of two and `num_classes <= 2 * bits`.
    """
    if bits < 1 or bits & (bits - 1) or num_classes > 2 * bits:
        raise ValueError(
            f"{num_classes} Hadamard centres of {bits} bits do not exist: bits must be a power of "
            "two and num_classes at most 2 * bits; use separated_centres"
        )
    rows = torch.ones(1, 1, dtype=torch.int8, device="cpu")
    while rows.shape[0] < bits:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return torch.cat([rows, -rows])[:num_classes].contiguous()


def separated_centres(num_classes: int, bits: int, seed: int = 0) -> Tensor:
    """Balanced random codes chosen greedily for their smallest pairwise Hamming distance.

    Random codes with as many +1 as -1 (one more of either when `bits` is odd) are accepted when
    they keep a given distance from all those accepted before; when the candidates are used up the
    distance is lowered by one. Short codes are taken from all 2**bits, the balanced ones first.
    Above 65,536 classes the codes are distinct, but not checked for distance.

    Returns int8 [num_classes, bits] of -1 and +1. Raises ValueError when 2**bits < num_classes.
    """
    if num_classes > 2**bits:
        raise ValueError(
            f"{num_classes} classes need {num_classes} different codes, but {bits} bits have only "
            f"{2**bits}: use at least {(num_classes - 1).bit_length()} bits"
        )
    generator = torch.Generator(device="cpu").manual_seed(seed)
    candidates = _candidates(num_classes, bits, generator)
    if num_classes > _MAX_SEPARATED:
        return candidates[:num_classes].clone()
    return _choose(candidates, num_classes)


def bernoulli_codebook(num_classes: int, bits: int, seed: int = 0) -> Tensor:
    """Independent fair -1 or +1 for every class and bit, as OrthoHash's codebook.

    Returns int8 [num_classes, bits].
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    shape = (num_classes, bits)
    coins = torch.randint(2, shape, generator=generator, dtype=torch.int8, device="cpu")
    return 2 * coins - 1


def majority_code(labels: Tensor, codes: Tensor, tie_break: Tensor) -> Tensor:
    """Sign of the sum of the codes of each row's classes, [n, bits]; ties by `tie_break` [bits].

    labels: multi-hot [n, C]; codes [C, bits] of -1, 0 and +1.
    """
    # Sums of -1 and +1 are exact in any float type, so a tie is exactly 0.
    votes = labels.float() @ codes.float()
    return torch.where(votes == 0, tie_break, votes.sign())


def checked_codebook(codes: Tensor, num_classes: int, bits: int) -> Tensor:
    """`codes` as int8; raises ValueError unless they are -1 and +1 of shape [num_classes, bits]."""
    if codes.shape != (num_classes, bits) or not (codes.abs() == 1).all():
        raise ValueError(
            f"class codes have shape {list(codes.shape)} and type {codes.dtype}; expected only -1 "
            f"and +1, in shape [{num_classes}, {bits}]"
        )
    return codes.to(torch.int8)


def _candidates(num_classes: int, bits: int, generator: torch.Generator) -> Tensor:
    """Different codes to choose from, the balanced first: int8 [m, bits], m >= num_classes."""
    if 2**bits <= max(2**16, 8 * num_classes):
        numbers = torch.randperm(2**bits, generator=generator, device="cpu")
        codes = (numbers[:, None] >> torch.arange(bits, device="cpu") & 1).to(torch.int8) * 2 - 1
        imbalance, order = codes.sum(1).abs().sort(stable=True)
        # Only as much imbalance as it takes to give every class a code of its own.
        return codes[order[imbalance <= imbalance[num_classes - 1]]]
    count = max(_CANDIDATES_PER_CLASS * num_classes, _MIN_CANDIDATES)
    keys = torch.rand(count, bits, generator=generator, device="cpu", dtype=torch.float32)
    codes = torch.full((count, bits), -1, dtype=torch.int8, device="cpu")
    codes.scatter_(1, keys.argsort(dim=1, stable=True)[:, : bits // 2], 1)
    if bits % 2:
        flip = torch.randint(2, (count, 1), generator=generator, dtype=torch.int8, device="cpu")
        codes *= 2 * flip - 1
    # With 2**bits > 8 * num_classes there are at least 1.4 balanced codes a class, and six draws
    # a class find nearly all of them.
    codes = torch.unique(codes, dim=0)
    return codes[torch.randperm(codes.shape[0], generator=generator, device="cpu")]


def _choose(candidates: Tensor, count: int) -> Tensor:
    """`count` candidates, accepted in order of the largest distance that still admits them."""
    total, bits = candidates.shape
    accepted = torch.empty(count, bits, dtype=torch.float32, device="cpu")
    size = 0
    # Of each candidate: the distance to the nearest of the first `compared` accepted codes.
    nearest = torch.full((total,), bits, device="cpu")
    compared = torch.zeros(total, dtype=torch.int64, device="cpu")
    # No set of `count` codes has a mean pairwise distance above this (Plotkin), nor a smallest one.
    largest = bits * count // (2 * (count - 1)) if count > 1 else bits
    for distance in range(largest, 0, -1):
        possible = (nearest >= distance).nonzero()[:, 0]
        for start in range(0, possible.shape[0], _BLOCK):
            block = possible[start : start + _BLOCK]
            codes = candidates[block].float()
            others = accepted[int(compared[block].min()) : size]
            gap = torch.minimum(nearest[block], _smallest_distance(codes, others))
            mutual = ((bits - codes @ codes.T) / 2).to(gap.dtype)
            chosen: list[int] = []
            while size + len(chosen) < count and int(gap.max()) >= distance:
                pick = int((gap >= distance).nonzero()[0])
                chosen.append(pick)
                gap = torch.minimum(gap, mutual[pick])  # 0 for the pick itself: never twice
            accepted[size : size + len(chosen)] = codes[chosen]
            size += len(chosen)
            nearest[block], compared[block] = gap, size
            if size == count:
                return accepted.to(torch.int8)
    raise AssertionError("unreachable: different codes are at least 1 apart")


def _smallest_distance(codes: Tensor, others: Tensor) -> Tensor:
    """Hamming distance from each code to the nearest of the others; +-1 products are exact."""
    bits = codes.shape[1]
    agreement = torch.full((codes.shape[0],), -float(bits), device="cpu")
    for start in range(0, others.shape[0], _ACCEPTED_BLOCK):
        block = others[start : start + _ACCEPTED_BLOCK]
        agreement = torch.maximum(agreement, (codes @ block.T).amax(1))
    return ((bits - agreement) / 2).to(torch.int64)
