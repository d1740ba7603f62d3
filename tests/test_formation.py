"""Multi-formation: cells of stored images by hand, their order and where each comes from."""

import pytest
import torch
from torch.nn.functional import interpolate

from hashfast.data.formation import assemble, decode


def images(n, shape=(3, 8, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(n, *shape, generator=generator, dtype=torch.float64).to(dtype)


def enlarge(cells, size):
    return interpolate(cells, size, mode="bilinear", align_corners=False)


def by_hand(stored, factor):
    """The cells of one class: every image's first cell, then every image's second, ..."""
    height, width = stored.shape[2:]
    h, w = -(-height // factor), -(-width // factor)
    padded = torch.full((*stored.shape[:2], h * factor, w * factor), 0.5, dtype=stored.dtype)
    padded[:, :, :height, :width] = stored
    return torch.cat(
        [
            enlarge(padded[:, :, i * h : (i + 1) * h, j * w : (j + 1) * w], (height, width))
            for i in range(factor)
            for j in range(factor)
        ]
    )


def test_four_flat_cells():
    stored = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    stored = torch.stack([stored, stored + 0.5])[:, None]
    decoded, source = decode(stored, 2)
    values = torch.tensor([0.1, 0.6, 0.2, 0.7, 0.3, 0.8, 0.4, 0.9])
    torch.testing.assert_close(decoded, values.view(8, 1, 1, 1).expand(-1, -1, 4, 4))
    assert source.tolist() == [0, 1] * 4
    assert source.dtype == torch.int64


def test_enlarging_is_bilinear():
    stored = torch.tensor([[0.0, 1.0, 9, 9], [0.0, 1.0, 9, 9], [9] * 4, [9] * 4])[None, None]
    decoded, _ = decode(stored, 2)
    assert decoded[0, 0].tolist() == [[0, 0.25, 0.75, 1]] * 4


def test_sizes_that_the_factor_does_not_divide_are_padded_grey():
    white = torch.ones(1, 1, 3, 4)
    decoded, _ = decode(white, 2)  # cells of 2 x 2, the lower ones half padding
    assert torch.equal(decoded[:2], torch.ones(2, 1, 3, 4))
    expected = enlarge(torch.tensor([[1.0, 1.0], [0.5, 0.5]])[None, None], (3, 4))
    torch.testing.assert_close(decoded[2:], expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 9, 9), (3, 7, 10), (1, 3, 3)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_single_and_multi(factor, shape):
    stored = images(4, shape)
    decoded, source = decode(stored, factor)
    torch.testing.assert_close(decoded, by_hand(stored, factor))
    assert source.tolist() == [0, 1, 2, 3] * factor**2

    decoded, source = decode(stored, factor, "multi")
    expected = torch.cat([by_hand(stored, f) for f in range(1, factor + 1)])
    torch.testing.assert_close(decoded, expected)
    assert torch.equal(decoded[:4], stored)
    assert source.tolist() == [0, 1, 2, 3] * sum(f * f for f in range(1, factor + 1))


@pytest.mark.parametrize(
    ("n", "factor", "bound", "counts"),
    [
        (4, 3, 128, (4, 0, 0)),  # 36 of 128: all fit
        (20, 3, 128, (12, 3, 5)),  # (128 - 20) // 9, then (128 - 108 - 8) // 4
        (50, 2, 128, (19, 31)),
        (10, 2, 10, (0, 10)),
        (10, 2, 3, (0, 10)),  # more stored images than the bound
    ],
)
def test_bound(n, factor, bound, counts):
    stored = images(n)
    decoded, source = decode(stored, factor, "bound", bound=bound)
    expected, rows, start = [], [], 0
    for f, count in zip(range(factor, 0, -1), counts, strict=True):
        expected.append(by_hand(stored[start : start + count], f))
        rows += list(range(start, start + count)) * f**2
        start += count
    assert start == n
    torch.testing.assert_close(decoded, torch.cat(expected))
    assert source.tolist() == rows
    assert len(decoded) <= max(bound, n)


@pytest.mark.parametrize("mode", ["single", "multi", "bound"])
def test_classes_are_decoded_apart(mode):
    stored = images(15)
    decoded, source = decode(stored, 2, mode, bound=9, num_classes=3)
    parts = [decode(stored[i : i + 5], 2, mode, bound=9) for i in (0, 5, 10)]
    torch.testing.assert_close(decoded, torch.cat([part for part, _ in parts]))
    assert torch.equal(source, torch.cat([rows + 5 * i for i, (_, rows) in enumerate(parts)]))
    labels = torch.arange(3).repeat_interleave(5)
    assert torch.equal(labels[source], labels[source].sort().values)


@pytest.mark.parametrize("mode", ["single", "multi", "bound"])
def test_gradients(mode):
    stored = images(2, (1, 3, 2)).requires_grad_()  # bound: one image of the two by 2
    assert torch.autograd.gradcheck(lambda x: decode(x, 2, mode, bound=6)[0], stored)


@pytest.mark.parametrize("mode", ["single", "multi", "bound"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_strides_and_no_images(mode, dtype):
    stored = images(4, dtype=dtype)
    decoded, source = decode(stored, 2, mode)
    assert decoded.dtype == dtype
    exact, _ = decode(stored.double(), 2, mode)
    torch.testing.assert_close(decoded.double(), exact, rtol=0, atol=0.01)
    strided, _ = decode(stored.flip(3).contiguous().flip(3), 2, mode)
    torch.testing.assert_close(strided, decoded)
    decoded, source = decode(stored[:0], 2, mode, num_classes=2)
    assert decoded.shape == (0, 3, 8, 6)
    assert source.shape == (0,)


def test_compiles_to_one_graph():
    stored = images(4)
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    decoded, source = compiled(stored, 2, "bound", bound=9, num_classes=2)
    expected, rows = decode(stored, 2, "bound", bound=9, num_classes=2)
    torch.testing.assert_close(decoded, expected)
    assert torch.equal(source, rows)


def test_assemble_places_nearest_pixels():
    quarters = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, -1, 4, 6)
    stored = assemble(quarters, 2)
    rows = [[0.0, 0, 0, 1, 1, 1]] * 2 + [[2.0, 2, 2, 3, 3, 3]] * 2
    assert stored[0, 0].tolist() == rows
    ramp = torch.arange(4.0).expand(4, 1, 4, 4)
    assert assemble(ramp, 2)[0, 0].tolist() == [[0, 2, 0, 2]] * 4


def test_assemble_gives_the_first_cells_the_rest():
    ones = torch.arange(4).view(4, 1, 1, 1).expand(-1, -1, 5, 3).to(torch.uint8)
    rows = [[0, 0, 1]] * 3 + [[2, 2, 3]] * 2
    assert assemble(ones, 2)[0, 0].tolist() == rows
    assert assemble(ones, 2).dtype == torch.uint8


def test_assemble_order_and_classes():
    # Two classes of three stored images: image 3 k + i of a class is cell k of stored image i.
    flat = torch.arange(24.0).view(24, 1, 1, 1).expand(-1, -1, 4, 4)
    stored = assemble(flat, 2, num_classes=2)
    assert stored.shape == (6, 1, 4, 4)
    corners = stored[:, 0, ::3, ::3].flatten(1).tolist()
    assert corners == [[12 * c + 3 * k + i for k in range(4)] for c in range(2) for i in range(3)]
    assert torch.equal(assemble(flat, 1), flat)
    decoded, _ = decode(stored, 2, num_classes=2)
    assert torch.equal(decoded, flat)
    assert assemble(flat[:0], 2, num_classes=2).shape == (0, 1, 4, 4)


def test_wrong_arguments():
    stored = images(6)
    for factor in (0, -1, 7):
        with pytest.raises(ValueError, match=f"factor is {factor}; .* 1 x 1 to 6 x 6 cells"):
            decode(stored, factor)
        with pytest.raises(ValueError, match=f"factor is {factor}"):
            assemble(stored, factor)
    with pytest.raises(ValueError, match="mode is 'zoom'; expected one of single, multi, bound"):
        decode(stored, 2, "zoom")
    with pytest.raises(ValueError, match="6 images; expected a multiple of num_classes = 4"):
        decode(stored, 2, num_classes=4)
    with pytest.raises(ValueError, match=r"expected a multiple of num_classes \* factor\^2 = 4"):
        assemble(stored, 2)
    with pytest.raises(ValueError, match=r"shape \[3, 8, 6\]; expected \[n, C, H, W\]"):
        decode(stored[0], 2)
    with pytest.raises(TypeError, match="images are uint8; expected floating point"):
        decode(stored.byte(), 2)
