"""Clusters of a teacher's codes: pseudo labels of images, and which bits mean something in each."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from hashfast._files import atomic_write

FORMAT = 1
_KEY = "hashfast clusters"  # of the metadata in the safetensors file
_RESTARTS = 5  # of k-means; the best one counts
_STEPS = 50  # of one k-means
_SILHOUETTE_ROWS = 2000  # drawn of the codes: the coefficient needs all distances between them

Criteria = Literal["elbow", "silhouette"]


@dataclass(frozen=True, eq=False, repr=False)
class Clusters:
    """k clusters of codes of b bits (He et al., WWW 2024, section 4.2 and equation 8).

    centres float32 [k, b]; expectations float32 [k, b]: of each bit, |mean of the cluster's codes|;
    labels int64 [N]: the pseudo labels of the clustered images. All on one device.
    Raises TypeError or ValueError for what does not fit this description.
    """

    centres: Tensor
    expectations: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for name, tensor, dtype in (
            ("centres", self.centres, torch.float32),
            ("expectations", self.expectations, torch.float32),
            ("labels", self.labels, torch.int64),
        ):
            if tensor.dtype != dtype:
                raise TypeError(f"{name} are {tensor.dtype}; expected {dtype}")
        if self.centres.dim() != 2 or not self.centres.numel():
            raise ValueError(
                f"centres have shape {list(self.centres.shape)}; expected [k, bits], not empty"
            )
        if self.expectations.shape != self.centres.shape or self.labels.dim() != 1:
            raise ValueError(
                f"expectations have shape {list(self.expectations.shape)} and labels "
                f"{list(self.labels.shape)}; expected {list(self.centres.shape)} as the centres, "
                "and one label an image"
            )

    def __repr__(self) -> str:
        return f"Clusters(k={self.k}, bits={self.bits}, images={len(self.labels)})"

    @property
    def k(self) -> int:
        return len(self.centres)

    @property
    def bits(self) -> int:
        return self.centres.shape[1]

    @classmethod
    def fit(cls, codes: Tensor, k: int, seed: int = 0) -> Self:
        """k-means of the codes [N, b] of -1 and +1 (any number type), the best of five restarts.

        The same codes and seed give the same clusters. Codes that are all among k or fewer are
        clusters by themselves, and clusters left empty are dropped: there may be fewer than k, then
        with a warning. Uses faiss where it is installed, otherwise scikit-learn, and so the CPU.
        Raises ValueError for k below 1 and for codes of another shape or with other values.
        """
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1 cluster")
        _check_codes(codes)
        rows = codes.cpu().float()
        centres = torch.from_numpy(_distinct(rows))
        if len(centres) > k:
            centres = torch.from_numpy(_centres(rows.numpy(), k, seed))
        labels = nearest(rows, centres)
        # Ranks of the labels in use: they go on counting from 0 without the empty clusters.
        used, labels = labels.unique(return_inverse=True)
        if len(used) < k:
            warnings.warn(f"{len(used)} clusters of codes instead of k = {k}", stacklevel=2)
        centres = centres[used]
        sums = torch.zeros(centres.shape, dtype=torch.float64)
        sums.index_add_(0, labels, rows.double())
        expectations = (sums / labels.bincount().unsqueeze(1)).abs().float()
        return cls(centres, expectations, labels).to(codes.device)

    def masks(self, delta: float) -> Tensor:
        """Equation 9: the bits of each cluster whose expectation is at least delta, bool [k, b]."""
        return self.expectations >= delta

    def assign(self, codes: Tensor) -> Tensor:
        """The cluster of each code [n, b], by the nearest centre (the first of equal ones).

        Raises ValueError for codes of another length.
        """
        if codes.dim() != 2 or codes.shape[1] != self.bits:
            raise ValueError(
                f"codes have shape {list(codes.shape)}; the clusters are of {self.bits} bits"
            )
        return nearest(codes, self.centres)

    def inertia(self, codes: Tensor) -> float:
        """Sum of the squared distances of codes [n, b] to the nearest centres."""
        return float((codes - self.centres[self.assign(codes)]).double().square().sum())

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(t.to(device) for t in (self.centres, self.expectations, self.labels)))

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file; an error leaves an older one whole."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in vars(self).items()}
        with atomic_write(path) as file:
            file.write(to_bytes(tensors, {_KEY: json.dumps({"format": FORMAT})}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote, on the CPU.

        Raises FileNotFoundError where there is no file, and ValueError naming the file when it is
        damaged, holds something else or comes from a later version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no clusters in {path}: expected what Clusters.save wrote")
        try:
            with safe_open(path, framework="pt") as opened:
                facts = (opened.metadata() or {}).get(_KEY)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
        if facts is None:
            raise ValueError(f"{path} holds no clusters, but {', '.join(tensors) or 'nothing'}")
        try:
            return _read(cls, facts, tensors)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read as clusters: {type(error).__name__}: {error}"
            ) from error


def choose_k(
    codes: Tensor, candidates: Iterable[int] = range(2, 21), by: Criteria = "elbow", seed: int = 0
) -> int:
    """A number of clusters for codes [N, b] of -1 and +1, out of `candidates`.

    by: "elbow" takes the k at which the inertia lies deepest below the straight line from the
    smallest to the largest candidate, both axes scaled to 0..1; "silhouette" the k with the highest
    mean silhouette coefficient (Rousseeuw, 1987) of at most 2000 codes, drawn by `seed`. Among
    equals the smallest k counts. Codes that are all among k or fewer leave nothing to choose above
    k; if that is below every candidate, their number is returned.

    Raises ValueError for no candidates, candidates below 2, an unknown `by`, and what
    `Clusters.fit` raises.
    """
    if by not in get_args(Criteria):
        raise ValueError(f"by is {by!r}; expected 'elbow' or 'silhouette'")
    ks = sorted(set(candidates))
    if not ks or ks[0] < 2:
        raise ValueError(f"candidates are {ks}; expected numbers of clusters, at least 2")
    _check_codes(codes)
    distinct = len(_distinct(codes.cpu().float()))
    ks = [k for k in ks if k <= distinct]
    if len(ks) < 2:
        return ks[0] if ks else distinct
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer clusters than k: only a step of the search here
        fits = [Clusters.fit(codes, k, seed) for k in ks]
    if by == "elbow":
        depths = _depths(ks, [fit.inertia(codes) for fit in fits])
        return ks[int(np.argmax(depths))]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(codes), generator=generator)[:_SILHOUETTE_ROWS]
    return ks[int(np.argmax([_silhouette(codes, fit.labels, rows) for fit in fits]))]


def nearest(codes: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre [k, b] of each code [n, b] by Euclidean distance, int64 [n].

    Of equally near ones the first. In float64, where the distances of codes are all but exact.
    """
    centres = centres.double()
    return (centres.square().sum(1) - 2 * codes.double() @ centres.T).argmin(1)


def _check_codes(codes: Tensor) -> None:
    if codes.dim() != 2 or not codes.numel():
        raise ValueError(f"codes have shape {list(codes.shape)}; expected [N, bits], not empty")
    wrong = codes != codes.sign()  # NaN differs from itself; 0 is the sign of 0
    if wrong.any():
        row, bit = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"codes hold {codes[row, bit].item()} at row {row}, bit {bit}; expected -1 and +1: "
            "pass outputs.sign(), or hashfast.unpack of packed codes"
        )


def _distinct(codes: Tensor) -> np.ndarray:
    """The different codes among float [N, b] of -1, 0 and +1, sorted: float32 [n, b]."""
    rows = codes.to(torch.int8).contiguous().numpy()
    # A row as one item of b bytes: many times faster to sort than along an axis.
    distinct = np.unique(rows.view(f"V{rows.shape[1]}"))
    return distinct.view(np.int8).reshape(-1, rows.shape[1]).astype(np.float32)


def _centres(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    """k-means of float32 [N, b] with more than k different rows: centres float32 [k, b]."""
    try:
        import faiss
    except ImportError:
        from sklearn.cluster import KMeans

        kmeans = KMeans(k, n_init=_RESTARTS, max_iter=_STEPS, random_state=seed)
        return kmeans.fit(rows).cluster_centers_.astype(np.float32)
    kmeans = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=_STEPS,
        nredo=_RESTARTS,
        seed=seed,
        min_points_per_centroid=1,  # fewer is no reason to warn
        max_points_per_centroid=len(rows),  # every code counts, none is left out
    )
    kmeans.train(rows)
    return np.asarray(kmeans.centroids)


def _depths(ks: list[int], inertias: list[float]) -> np.ndarray:
    """How deep each point (k, inertia) lies below the line from the first to the last."""
    x, y = np.array(ks, float), np.array(inertias)
    line = y[0] + (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])
    return line - y


def _silhouette(codes: Tensor, labels: Tensor, rows: Tensor) -> float:
    """Mean silhouette coefficient of the chosen rows."""
    from sklearn.metrics import silhouette_score

    chosen = labels.cpu()[rows].numpy()
    if not 1 < len(np.unique(chosen)) < len(chosen):
        return 0.0  # one cluster, or every code its own: undefined, and 0 by convention
    return float(silhouette_score(codes.cpu()[rows].float().numpy(), chosen))


def _read(cls: type, text: str, tensors: dict[str, Tensor]) -> Any:
    """The clusters of a file's metadata and tensors."""
    found = json.loads(text)["format"]
    if found != FORMAT:
        raise ValueError(f"it has format {found!r}; this version reads format {FORMAT}")
    clusters = cls(**tensors)
    labels, expectations = clusters.labels, clusters.expectations
    if len(labels) and not 0 <= labels.min() <= labels.max() < clusters.k:
        raise ValueError(
            f"labels reach from {int(labels.min())} to {int(labels.max())} in {clusters.k} clusters"
        )
    if not (
        clusters.centres.isfinite().all() and ((expectations >= 0) & (expectations <= 1)).all()
    ):
        raise ValueError("centres must be finite, and expectations in 0..1")
    return clusters
