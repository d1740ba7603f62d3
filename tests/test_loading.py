"""Batches and normalisation: order, sizes, seeds, statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from train_runs import TINY, run, splits_of

from hashfast.data import ArrayDataset
from hashfast.hashing.loading import shuffled
from hashfast.hashing.normalisation import channel_statistics


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (97, 32, [32, 32, 33]),
        (98, 32, [32, 32, 32, 2]),
        (96, 32, [32, 32, 32]),
        (33, 32, [33]),
        (1, 32, [1]),
        (3, 1, [1, 2]),
    ],
)
def test_a_batch_of_one_joins_the_one_before(n, batch_size, sizes):
    rows = shuffled(n, batch_size, 0, 0)
    assert [len(batch) for batch in rows] == sizes
    assert torch.cat(rows).sort().values.tolist() == list(range(n))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return tuple(torch.cat(shuffled(50, 8, seed, epoch)).tolist())

    torch.manual_seed(5)
    first = order(3, 2)
    torch.manual_seed(6)
    assert order(3, 2) == first
    assert len({order(seed, epoch) for seed in (0, 1, -1) for epoch in range(3)}) == 9


def test_normalisation_is_that_of_the_training_images():
    pixels = torch.randint(256, (40, 3, 9, 9), dtype=torch.uint8)
    pixels[:, 1] //= 3
    mean, std = channel_statistics(pixels)
    exact = pixels.numpy().astype(np.float64) / 255
    assert np.allclose(mean, exact.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(std, exact.std((0, 2, 3)), atol=1e-6)


def test_constant_and_nearly_constant_channels_are_not_blown_up():
    pixels = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    pixels[:, 0], pixels[:, 2] = 255, 7
    pixels[3, 2, 1, 1] = 8
    mean, std = channel_statistics(pixels)
    assert (mean[0], std[0], std[2]) == (1.0, 1.0, 1.0)
    assert 0.2 < std[1] < 0.4
    splits = splits_of(ArrayDataset(pixels, torch.arange(20) % 2), 2)
    model = run(replace(TINY, epochs=1), splits=splits).model
    assert model.config.mean == mean
    assert model.config.std == std
    normalised = (torch.tensor([0.0, 1.0]) - mean[0]) / std[0]
    assert normalised.abs().max() <= 1
