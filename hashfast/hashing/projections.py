"""Training-free hashing: linear projections fitted on features."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """Base of the fitted projections: features [n, F] -> outputs (features - mean) @ matrix.

    The outputs [n, bits] are real-valued, before sign; float32 unless the module was cast. The
    buffers `mean` [F] and `matrix` [F, bits] are the whole state: an unfitted module takes a
    fitted one's state_dict. Subclasses implement `_directions`.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, bits: int, seed: int = 0) -> None:
        super().__init__()
        if bits < 1:
            raise ValueError(f"{type(self).__name__} needs at least 1 bit, got {bits}")
        self.bits = bits
        self.seed = seed
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("matrix", torch.empty(0, bits))

    def fit(self, features: Tensor | np.ndarray) -> Self:
        """Fit on float features [n, F]; computed on the CPU, the same for the same seed.

        Raises ValueError for features that are not a non-empty finite matrix.
        """
        name = type(self).__name__
        values = torch.as_tensor(features).detach().cpu().float()
        if values.ndim != 2 or values.numel() == 0:
            raise ValueError(
                f"{name}.fit got features of shape {list(values.shape)}, expected [n, F] with "
                "at least one row"
            )
        bad_rows = (~values.isfinite()).any(dim=1).nonzero().flatten()
        if len(bad_rows):
            raise ValueError(
                f"{name}.fit got NaN or infinite features in {len(bad_rows)} rows, the first is "
                f"row {bad_rows[0]}: remove those rows"
            )
        mean = values.double().mean(dim=0)
        self._set(mean, self._directions(values, torch.Generator().manual_seed(self.seed)))
        return self

    def forward(self, features: Tensor | np.ndarray) -> Tensor:
        """Outputs [n, bits] of float features [n, F], on the device of the module."""
        name = type(self).__name__
        if self.mean.numel() == 0:
            raise RuntimeError(f"{name} is not fitted: call fit(features) or load its state_dict")
        values = torch.as_tensor(features).to(self.mean)
        if values.shape[-1:] != self.mean.shape:
            raise ValueError(
                f"{name} got features of shape {list(values.shape)}; it was fitted on "
                f"[n, {len(self.mean)}]: use features of the same backbone"
            )
        return (values - self.mean) @ self.matrix

    def extra_repr(self) -> str:
        return f"bits={self.bits}, seed={self.seed}"

    def _directions(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Projection matrix [F, bits] for features [n, F] (float32, CPU)."""
        raise NotImplementedError

    def _set(self, mean: Tensor, matrix: Tensor) -> None:
        self.mean = mean.to(self.mean)
        self.matrix = matrix.to(self.matrix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # F is unknown until fitting, so the buffers take the stored number of features.
        mean, matrix = state_dict.get(prefix + "mean"), state_dict.get(prefix + "matrix")
        if mean is not None and matrix is not None and matrix.shape == (len(mean), self.bits):
            self._set(mean.clone(), matrix.clone())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class RandomProjection(Projection):
    """Random hyperplanes: the sign of Gaussian projections of centred features.

    Any number of bits for any number of features. Source: Charikar 2002, "Similarity estimation
    techniques from rounding algorithms"; the centring is the habit of the hashing papers.
    """

    def _directions(self, values: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(values.shape[1], self.bits, generator=generator)


class ITQ(Projection):
    """Iterative quantisation: PCA, then the rotation R that brings V R nearest to its signs.

    Alternates B = sign(V R) and the orthogonal Procrustes solution R = U_A U_B^T of
    B^T V = U_B S U_A^T, starting from a random rotation; no step increases ||B - V R||^2.
    Source: Gong and Lazebnik 2011, "Iterative quantization: a Procrustean approach to learning
    binary codes", section 3; the steps are those of the authors' ITQ.m.

    `fit` raises ValueError when bits exceed the number of features or of rows: PCA has no more
    directions than that, and RandomProjection has no such limit.
    """

    def __init__(self, bits: int, iterations: int = 50, seed: int = 0) -> None:
        super().__init__(bits, seed)
        self.iterations = iterations

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, iterations={self.iterations}"

    def _directions(self, values: Tensor, generator: torch.Generator) -> Tensor:
        from sklearn.decomposition import PCA

        rows, columns = values.shape
        if self.bits > min(rows, columns):
            raise ValueError(
                f"ITQ of {self.bits} bits got {rows} rows of {columns} features; it needs at "
                f"least {self.bits} of both: use at most {min(rows, columns)} bits or "
                "RandomProjection, head random"
            )
        pca = PCA(n_components=self.bits, random_state=self.seed)
        reduced = torch.from_numpy(pca.fit_transform(values.numpy())).double()
        components = torch.from_numpy(pca.components_).double()

        gaussian = torch.randn(self.bits, self.bits, generator=generator, dtype=torch.float64)
        rotation = torch.linalg.svd(gaussian).U
        for _ in range(self.iterations):
            projected = reduced @ rotation
            codes = torch.where(projected > 0, 1.0, -1.0).to(projected)
            left, _, right_transposed = torch.linalg.svd(codes.T @ reduced)
            rotation = (left @ right_transposed).T
        return components.T @ rotation
