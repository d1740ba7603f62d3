"""Product quantisation with learnt codebooks: soft codes to train with, hard codes to store."""

import torch
from torch import Tensor, nn

from hashfast.losses._functional import unit_rows


class ProductQuantizer(nn.Module):
    """M sub-vectors, each given by its nearest of K codewords.

    The sub-vectors and the codewords are divided by their norms where they are used, so that the
    nearest codeword is that of the largest inner product. Drop-in:
    `ProductQuantizer(8, 256, 16)(features)`.

    Args:
        subspaces: M, at least 1; codewords: K, at least 2; dimension: D of a sub-vector.
        alpha: sharpness of the soft codes.

    Parameter: codebooks [M, K, D], of random directions. Call: features [n, M D], floating point ->
    soft codes [n, M, K], which sum to 1. Raises ValueError for sizes and features that do not fit.
    Agrees with PQLayer of gimpong/AAAI22-MeCoQ (network.py), whose codewords are normalised before
    each step and not learnt.
    """

    def __init__(self, subspaces: int, codewords: int, dimension: int, alpha: float = 10.0) -> None:
        super().__init__()
        if subspaces < 1 or codewords < 2 or dimension < 1:
            raise ValueError(
                f"subspaces={subspaces} and dimension={dimension} must be at least 1, "
                f"codewords={codewords} at least 2"
            )
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha}; it must be positive")
        self.alpha = alpha
        directions = torch.randn(subspaces, codewords, dimension)
        self.codebooks = nn.Parameter(unit_vectors(directions))

    @property
    def words(self) -> Tensor:
        """The codebooks [M, K, D] with codewords of length 1."""
        return unit_vectors(self.codebooks)

    def forward(self, features: Tensor) -> Tensor:
        return soft_codes(features, self.words.to(features.dtype), self.alpha)

    def encode(self, features: Tensor) -> Tensor:
        """Hard codes int64 [n, M]: the nearest codeword of each sub-vector of features [n, M D]."""
        return products(features, self.words.to(features.dtype)).argmax(2)

    def decode(self, codes: Tensor) -> Tensor:
        """What hard codes int64 [n, M] stand for, [n, M D]."""
        subspace = torch.arange(len(self.codebooks), device=codes.device)
        return self.words[subspace, codes].flatten(1)

    def reconstruct(self, codes: Tensor) -> Tensor:
        """What soft codes [n, M, K] stand for, [n, M D]."""
        return reconstruct(codes, self.words.to(codes.dtype))

    def extra_repr(self) -> str:
        subspaces, codewords, dimension = self.codebooks.shape
        return (
            f"subspaces={subspaces}, codewords={codewords}, dimension={dimension}, "
            f"alpha={self.alpha}"
        )


def unit_vectors(values: Tensor) -> Tensor:
    """Vectors [a, b, D] divided by their norm; zero stays zero and has zero gradient."""
    return unit_rows(values.flatten(0, 1)).view_as(values)


def products(features: Tensor, codebooks: Tensor) -> Tensor:
    """Inner products [n, M, K] of the unit sub-vectors of features [n, M D] with [M, K, D]."""
    subspaces, _, dimension = codebooks.shape
    if features.dim() != 2 or features.shape[1] != subspaces * dimension:
        raise ValueError(
            f"features have shape {list(features.shape)}; expected [n, {subspaces * dimension}]: "
            f"{subspaces} sub-vectors of {dimension}"
        )
    parts = unit_vectors(features.unflatten(1, (subspaces, dimension)))
    return torch.einsum("nmd,mkd->nmk", parts, codebooks)


def soft_codes(features: Tensor, codebooks: Tensor, alpha: float = 10.0) -> Tensor:
    """softmax_k(alpha <x_m, c_mk>) [n, M, K] for codewords as they are given, [M, K, D]."""
    return (alpha * products(features, codebooks)).softmax(2)


def reconstruct(codes: Tensor, codebooks: Tensor) -> Tensor:
    """sum_k codes_mk c_mk, the M parts joined: [n, M, K] and [M, K, D] -> [n, M D]."""
    return torch.einsum("nmk,mkd->nmd", codes, codebooks).flatten(1)


class CodeMemory(nn.Module):
    """The soft codes [M, K] of the last `size` rows; what has not been seen yet is left out.

    Buffers: codes [size, M, K], seen int64 [], the number of rows ever written, which says where
    the next one goes. Everything is part of the state_dict, and nothing waits for the device.
    """

    codes: Tensor
    seen: Tensor

    def __init__(self, size: int, subspaces: int, codewords: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size is {size}; a memory holds at least 1 row")
        self.register_buffer("codes", torch.zeros(size, subspaces, codewords))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def read(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A copy of the codes in the type of `like`, and bool [size]: which rows have been seen.

        A copy: the graph of this batch may outlive the next batch's write.
        """
        rows = torch.arange(len(self.codes), device=self.codes.device)
        return self.codes.to(like.dtype, copy=True), rows < self.seen

    @torch.no_grad()
    def write(self, codes: Tensor) -> None:
        """Put soft codes [n, M, K] in the place of the oldest; nothing keeps a gradient."""
        kept = codes[-len(self.codes) :]
        rows = torch.arange(len(codes), device=codes.device)[-len(kept) :]
        self.codes.index_copy_(0, (self.seen + rows) % len(self.codes), kept.to(self.codes.dtype))
        self.seen.add_(len(codes))

    def extra_repr(self) -> str:
        return "size={}, subspaces={}, codewords={}".format(*self.codes.shape)
