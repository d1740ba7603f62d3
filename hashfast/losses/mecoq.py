"""MeCoQ: contrastive product quantisation with a memory of codes; two codewords make a bit."""

import math
from typing import Literal, Unpack

import torch
from torch import Tensor

from hashfast import ops
from hashfast.losses._functional import unit_rows
from hashfast.losses._unsupervised import UnsupervisedLoss
from hashfast.losses.product_quantizer import CodeMemory, reconstruct, unit_vectors
from hashfast.losses.quantization import QuantizationOptions

_CODEWORDS = 2


class MeCoQ(UnsupervisedLoss):
    """Contrastive quantisation with code memory (Wang et al., AAAI 2022), for binary codes.

    Each bit is a sub-codebook of K = 2 codewords, and an output u the logit of the second: the soft
    code softmax(10 <x_m, c_mk>) is then (sigmoid(-u), sigmoid(u)), and its nearest codeword the
    sign of u. The "pq" head gives such outputs, and its codebooks [bits, 2, D]. The loss is

        memory_contrastive + codeword_weight codeword_similarity + entropy_weight code_entropy

    (see these functions, which take any K) of the soft codes of two views. The soft codes of both
    views of the last batches are kept, and rebuilt with the codebooks of today as further
    negatives; rows that have not been filled yet do not count. They are used from the epoch
    `memory_start` on, which `start_epoch` tells: while a network still moves fast, it runs away
    from where it was, and whole bits become constant.

    Args:
        bits: length of the outputs.
        temperature: of the cosines.
        prior: probability that a negative shows what the anchor shows; 0: none is expected to.
        memory_size: rows of soft codes kept; 0: none.
        memory_start: the first epoch, counted from 0, that uses them; 0 needs no `start_epoch`.
        codeword_weight, entropy_weight: of the two regularisers.
        variant: "paper", or "released" as gimpong/AAAI22-MeCoQ (loss.py) computes it, see
            `memory_contrastive`, with no gradient of the codeword term.
        options: see QuantizationOptions; "original" adds no term.

    Buffers: started, bool [], and those of memory (see CodeMemory). `components` adds
    "contrastive", "codeword" and "entropy". Raises ValueError for options out of
    their range and codebooks of another shape. Call: `criterion(outputs, u2, codebooks=...)`, see
    UnsupervisedLoss.
    """

    head = "pq"
    needs = ("u2", "codebooks")
    memory: CodeMemory | None
    started: Tensor

    def __init__(
        self,
        bits: int,
        *,
        temperature: float = 0.4,
        prior: float = 0.1,
        memory_size: int = 384,
        memory_start: int = 5,
        codeword_weight: float = 0.5,
        entropy_weight: float = 0.05,
        variant: Literal["paper", "released"] = "paper",
        **options: Unpack[QuantizationOptions],
    ) -> None:
        if not (0 < temperature < math.inf and 0 <= prior < 1):
            raise ValueError(
                f"temperature={temperature} must be positive and prior={prior} in [0, 1)"
            )
        if min(memory_size, memory_start) < 0:
            raise ValueError(
                f"memory_size={memory_size} and memory_start={memory_start} must be at least 0"
            )
        if not (0 <= codeword_weight < math.inf and 0 <= entropy_weight < math.inf):
            raise ValueError(
                f"codeword_weight={codeword_weight} and entropy_weight={entropy_weight} must be 0 "
                "or positive numbers"
            )
        if variant not in ("paper", "released"):
            raise ValueError(f"unknown variant {variant!r}; choose 'paper' or 'released'")
        super().__init__(bits, **options)
        self.temperature, self.prior, self.variant = temperature, prior, variant
        self.codeword_weight, self.entropy_weight = codeword_weight, entropy_weight
        self.memory_start = memory_start
        self.memory = CodeMemory(memory_size, bits, _CODEWORDS) if memory_size else None
        self.register_buffer("started", torch.tensor(memory_start == 0))

    def start_epoch(self, epoch: int) -> None:
        self.started.fill_(epoch >= self.memory_start)

    def similarity(self, outputs: Tensor, u2: Tensor, codebooks: Tensor) -> Tensor:
        if codebooks.dim() != 3 or codebooks.shape[:2] != (self.bits, _CODEWORDS):
            raise ValueError(
                f"codebooks have shape {list(codebooks.shape)}; expected [{self.bits}, "
                f"{_CODEWORDS}, D]: give those of a 'pq' head of {self.bits} bits"
            )
        words = unit_vectors(codebooks.to(outputs.dtype))
        first, second = (torch.stack([-u, u], 2).sigmoid() for u in (outputs, u2.to(outputs.dtype)))
        kept = None
        if self.memory is not None:
            codes, seen = self.memory.read(outputs)
            kept = codes, seen & self.started
        contrastive = memory_contrastive(
            first,
            second,
            words,
            kept,
            temperature=self.temperature,
            prior=self.prior,
            variant=self.variant,
        )
        if self.memory is not None:
            self.memory.write(torch.cat([first, second]).detach())
        codeword = codeword_similarity(words.detach() if self.variant == "released" else words)
        entropy = (code_entropy(first) + code_entropy(second)) / 2
        self.record(contrastive=contrastive, codeword=codeword, entropy=entropy)
        return contrastive + self.codeword_weight * codeword + self.entropy_weight * entropy

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, variant={self.variant!r}"


def memory_contrastive(
    first: Tensor,
    second: Tensor,
    codebooks: Tensor,
    memory: tuple[Tensor, Tensor] | None = None,
    *,
    temperature: float = 0.4,
    prior: float = 0.1,
    variant: Literal["paper", "released"] = "paper",
) -> Tensor:
    """Debiased contrastive loss of what soft codes stand for, a scalar.

    first, second [n, M, K]: soft codes of two views; codebooks [M, K, D], used as they are; memory:
    soft codes [Q, M, K] and bool [Q], which of them count. With s the cosines of the rebuilt
    vectors, over the 2n rows i, their other views p and their N negatives j (the other rows of the
    batch, and the memory):

        mean of -log(e_p / (e_p + G)),  e_p = exp(s_ip / T),
        G = max((sum_j exp(s_ij / T) - N prior e_p) / (1 - prior), N exp(-1 / T))

    (the floor is the least that N negatives can sum to). `variant="released"` agrees with
    MeCoQLoss of gimpong/AAAI22-MeCoQ (loss.py): vectors of the memory are not divided by their
    norms, N counts those of the batch only, the floor is exp(-N / T), and the mean is over all
    pairs of an e_p and a sum, of whichever rows.
    """
    vectors = reconstruct(torch.cat([first, second]), codebooks)
    n, rows = len(first), torch.arange(len(vectors), device=vectors.device)
    units = unit_rows(vectors)
    positive = (units * units.roll(n, 0)).sum(1) / temperature
    own = torch.stack([rows, rows.roll(n)], 1)
    batch = ops.masked_contrastive(vectors, vectors, temperature, excluded=own)
    count: Tensor | int = 2 * n - 2
    # Everything is divided by exp(1 / T), which no cosine exceeds.
    if memory is None:
        negative = (batch - 1 / temperature).exp()
    else:
        codes, seen = memory
        kept = reconstruct(codes, codebooks)
        if variant == "released":
            products = (units @ kept.T - 1) / temperature
            further = products.exp().masked_fill(~seen, 0).sum(1)
        else:
            groups = torch.zeros_like(rows), seen.to(rows.dtype)  # equal groups do not meet
            logsum = ops.masked_contrastive(vectors, kept, temperature, *groups)
            further = (logsum - 1 / temperature).exp()
            count = count + seen.sum()
        negative = (batch - 1 / temperature).exp() + further
    if variant == "released":
        floor: Tensor | float = math.exp(-(2 * n - 1) / temperature)
        positive = positive[:, None]
    else:
        floor = count * math.exp(-2 / temperature)
    shifted = (positive - 1 / temperature).exp()
    others = ((negative - prior * count * shifted) / (1 - prior)).clamp(min=floor)
    return ((shifted + others).log() - (positive - 1 / temperature)).mean()


def codeword_similarity(codebooks: Tensor) -> Tensor:
    """Mean inner product of all pairs of codewords of a sub-codebook, also with themselves.

    codebooks [M, K, D], used as they are: small where the codewords differ.
    """
    return codebooks.mean(1).square().sum(1).mean()


def code_entropy(codes: Tensor) -> Tensor:
    """Mean entropy of soft codes [n, M, K]: small where they are near to hard codes."""
    # An entry that has rounded to 0 adds 0, with gradient 0.
    return torch.special.entr(codes.clamp(min=torch.finfo(codes.dtype).tiny)).sum(2).mean()
