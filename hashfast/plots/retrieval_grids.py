"""Queries and what was found for them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hashfast.plots._figure import as_array, new_figure, save
from hashfast.plots._pictures import PLAIN, RIGHT, SHOWN, WRONG, cell_height, draw_picture


def retrieval_grid(
    query_images: Sequence[Any] | torch.Tensor,
    database_images: Sequence[Any] | torch.Tensor,
    ids: np.ndarray | torch.Tensor,
    relevant: np.ndarray | torch.Tensor,
    distances: np.ndarray | torch.Tensor,
    path: str | os.PathLike,
) -> None:
    """A row per query: the query, then its first 10 results with their Hamming distances.

    Relevant results have a solid green frame, others a dashed orange one. (DHD, supplement,
    Figure F, below.)

    Args:
        query_images: q pictures: uint8, or floating point in [0, 1]; [C, H, W], [H, W, C] or
            [H, W] with 1 or 3 channels, torch or numpy; or samples (picture, ...) of a dataset.
        database_images: pictures or dataset, indexed by id.
        ids: integers [q, k] as search returns them; -1 is no result.
        relevant: bool [q, k].
        distances: integers [q, k].
        path: where the figure goes.

    Raises:
        ValueError: no queries, or shapes that do not match.
    """
    ids, relevant, distances = (as_array(x)[:, :SHOWN] for x in (ids, relevant, distances))
    q, k = _check_ids(ids)
    if not (relevant.shape == distances.shape == ids.shape) or len(query_images) != q:
        raise ValueError(
            f"{len(query_images)} query_images, ids {list(ids.shape)}, relevant "
            f"{list(relevant.shape)} and distances {list(distances.shape)} do not match"
        )
    figure = new_figure(1.05 * (k + 1) + 0.3, (cell_height(query_images[0]) + 0.2) * q + 0.2)
    # The gap after the queries is a column of its own.
    axes = figure.subplots(q, k + 2, squeeze=False, width_ratios=[1, 0.15, *[1] * k])
    for row in range(q):
        for cell in axes[row]:
            cell.set_axis_off()
        draw_picture(axes[row, 0], query_images[row], "query" if row == 0 else "", PLAIN)
        for column, i in enumerate(ids[row]):
            if i >= 0:
                frame = RIGHT if relevant[row, column] else WRONG
                caption = f"d = {distances[row, column]}"
                draw_picture(axes[row, column + 2], database_images[int(i)], caption, frame)
    save(figure, path)


def deformation_grid(
    queries: Mapping[str, Any],
    database_images: Sequence[Any] | torch.Tensor,
    ids: np.ndarray | torch.Tensor,
    path: str | os.PathLike,
) -> None:
    """A column per deformation of one query: the deformed query, below it its first 10 results.

    A result has a solid green frame if the original query found it too (among as many results as
    are given), a dashed orange one otherwise. (DHD, supplement, Figure F, above.)

    Args:
        queries: {name: picture}, the original first; pictures as in `retrieval_grid`.
        database_images: pictures or dataset, indexed by id.
        ids: integers [len(queries), k] as search returns them; -1 is no result.
        path: where the figure goes.

    Raises:
        ValueError: no queries, or shapes that do not match.
    """
    ids = as_array(ids)
    q, k = _check_ids(ids)
    if len(queries) != q:
        raise ValueError(f"{len(queries)} queries and ids {list(ids.shape)} do not match")
    original = set(ids[0].tolist())
    k = min(k, SHOWN)
    height = cell_height(next(iter(queries.values())))
    figure = new_figure(1.05 * q + 0.2, height * (k + 1) + 0.4)
    axes = figure.subplots(k + 2, q, squeeze=False, height_ratios=[1, 0.02, *[1] * k])
    for column, (name, picture) in enumerate(queries.items()):
        for cell in axes[:, column]:
            cell.set_axis_off()
        draw_picture(axes[0, column], picture, name, PLAIN)
        for row, i in enumerate(ids[column, :k].tolist()):
            if i >= 0:
                frame = RIGHT if i in original else WRONG
                draw_picture(axes[row + 2, column], database_images[i], "", frame)
    save(figure, path)


def _check_ids(ids: np.ndarray) -> tuple[int, int]:
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"ids have shape {list(ids.shape)}; there is nothing to draw")
    return ids.shape[0], ids.shape[1]
