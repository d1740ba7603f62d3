"""Codes of whole datasets: order, unreadable files, workers, errors; and fitted heads."""

import pytest
import torch
from PIL import Image

import hashfast
from hashfast.data import ArrayDataset, FileDataset, UnreadableImage, to_image, wrap
from hashfast.hashing import (
    ITQ,
    HashModel,
    ModelConfig,
    RandomProjection,
    encode_dataset,
    fit_projection,
)

SHAPE = (3, 16, 16)


@pytest.fixture
def model():
    return HashModel(ModelConfig("convnet3", 12, "bn", SHAPE, width=4)).eval()


def images(n, shape=SHAPE):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path):
    """Nine files of 24x20 pixels; 1, 4 and 5 are empty, damaged and missing."""
    for i, image in enumerate(images(9, (3, 20, 24))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    (tmp_path / "5.png").unlink()
    files = [f"{i}.png" for i in range(9)]
    return FileDataset(files, torch.arange(9) * 10, root=tmp_path, image_size=16)


READABLE = [0, 2, 3, 6, 7, 8]


@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_arrays_are_encoded_in_order(model, batch_size):
    pixels, labels = images(10), torch.arange(10).flip(0)
    encoded = encode_dataset(model, ArrayDataset(pixels, labels), batch_size=batch_size)
    with torch.no_grad():
        expected = model(pixels)
    assert torch.allclose(encoded.outputs, expected, atol=1e-6)
    assert encoded.outputs.dtype == torch.float32
    assert torch.equal(encoded.codes, hashfast.pack(encoded.outputs))
    assert torch.equal(encoded.codes, model.encode(pixels))
    assert encoded.labels.tolist() == labels.tolist()
    assert encoded.indices.tolist() == list(range(10))
    assert encoded.unreadable == []
    assert not any(part.is_inference() or part.requires_grad for part in encoded[:4])


def test_multi_hot_labels_and_unlabelled_items(model):
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    assert encode_dataset(model, ArrayDataset(images(4), labels)).labels.equal(labels.float())
    assert encode_dataset(model, ArrayDataset(images(4))).labels.tolist() == [-1] * 4


def test_anyones_dataset(model):
    pairs = [(image.permute(1, 2, 0).numpy(), i % 3) for i, image in enumerate(images(5))]
    encoded = encode_dataset(model, wrap(pairs, image_size=16), batch_size=2)
    assert torch.equal(encoded.codes, model.encode(images(5)))
    assert encoded.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_left_out_and_listed(model, folder, workers):
    encoded = encode_dataset(model, folder, batch_size=2, workers=workers)
    pictures = torch.stack([to_image(folder.path(i), 16, 3) for i in READABLE])
    with torch.no_grad():
        assert torch.allclose(encoded.outputs, model(pictures), atol=1e-6)
    assert torch.equal(encoded.codes, hashfast.pack(encoded.outputs))
    assert encoded.indices.tolist() == READABLE
    assert encoded.labels.tolist() == [10 * i for i in READABLE]
    assert [index for index, _ in encoded.unreadable] == [1, 4, 5]
    for index, reason in encoded.unreadable:
        assert f"{index}.png" in reason
    assert "empty" in encoded.unreadable[0][1]
    assert "No such file" in encoded.unreadable[2][1]


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_fails_at_the_first_unreadable_file(model, folder, workers):
    with pytest.raises(UnreadableImage, match=r"1\.png: the file is empty"):
        encode_dataset(model, folder, batch_size=3, workers=workers, strict=True)
    readable = encode_dataset(model, folder.subset(READABLE), workers=workers, strict=True)
    assert readable.indices.tolist() == list(range(6))


def test_nothing_readable(model, folder):
    encoded = encode_dataset(model, folder.subset([1, 4, 5]), batch_size=2)
    assert encoded.codes.shape == (0, 2)
    assert encoded.codes.dtype == torch.uint8
    assert encoded.outputs.shape == (0, 12)
    assert len(encoded.labels) == len(encoded.indices) == 0
    assert [index for index, _ in encoded.unreadable] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_nothing_at_all(model, folder, kind):
    dataset = ArrayDataset(images(0)) if kind == "arrays" else folder.subset([])
    encoded = encode_dataset(model, dataset)
    assert encoded.codes.shape == (0, 2)
    assert encoded.outputs.shape == (0, 12)
    assert encoded.unreadable == []


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 20, 20), (3, 16, 18)])
def test_images_of_another_shape_are_refused(model, shape):
    named = "x".join(map(str, shape))
    with pytest.raises(ValueError, match=f"images are {named} and the model takes 3x16x16"):
        encode_dataset(model, ArrayDataset(images(2, shape)))


def white_is_not_finite(model):
    """Outputs of white pictures become NaN."""
    model.register_forward_hook(
        lambda _, inputs, outputs: outputs.masked_fill(
            (inputs[0] == 255).all((1, 2, 3))[:, None], torch.nan
        )
    )


def test_an_item_whose_outputs_are_not_finite_is_named(model, folder):
    pixels = images(7)
    pixels[[4, 6]] = 255
    white_is_not_finite(model)
    model.train()
    with pytest.raises(ValueError, match=r"^item 4: the model's outputs are not finite"):
        encode_dataset(model, ArrayDataset(pixels), batch_size=3)
    assert model.training
    Image.new("RGB", (20, 20), "white").save(folder.path(6))
    with pytest.raises(ValueError, match=r"^item 6 \(.*6\.png\): the model's outputs"):
        encode_dataset(model, folder, batch_size=4)  # the item, not the row among readable ones


def test_encoding_neither_trains_the_model_nor_changes_its_mode(model):
    expected = encode_dataset(model, ArrayDataset(images(6))).outputs
    before = model.fingerprint()
    model.train()
    model.backbone.eval()
    assert torch.equal(encode_dataset(model, ArrayDataset(images(6))).outputs, expected)
    assert model.fingerprint() == before
    assert (model.training, model.head.training, model.backbone.training) == (True, True, False)


def test_progress_goes_to_stderr(model, folder, capsys):
    encode_dataset(model, folder, batch_size=2, progress=True)
    captured = capsys.readouterr()
    assert "9/9" in captured.err
    assert captured.out == ""
    encode_dataset(model, folder, batch_size=2)
    assert capsys.readouterr().err == ""


# Fitted heads


@pytest.mark.parametrize(("head", "projection"), [("itq", ITQ), ("random", RandomProjection)])
def test_a_fitted_head_is_that_projection_of_the_features(tmp_path, head, projection):
    config = ModelConfig("pixels", 6, head, (1, 4, 4), mean=(0.0,), std=(1.0,))
    pixels = images(30, (1, 4, 4))
    model = fit_projection(HashModel(config), ArrayDataset(pixels), batch_size=7)
    features = pixels.flatten(1).float() / 255
    expected = projection(6).fit(features)(features)
    with torch.no_grad():
        assert torch.allclose(model(pixels), expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = HashModel.from_pretrained(tmp_path)
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.encode(pixels), hashfast.pack(expected))
    assert not again.head.mean.is_inference()


def test_fitting_leaves_unreadable_pictures_out(folder):
    config = ModelConfig("pixels", 4, "random", SHAPE)
    model = fit_projection(HashModel(config), folder, batch_size=2)
    readable = fit_projection(HashModel(config), folder.subset(READABLE))
    assert torch.allclose(model.head.mean, readable.head.mean)


def test_heads_are_fitted_or_trained(model):
    with pytest.raises(TypeError, match="head 'bn' is trained, not fitted"):
        fit_projection(model, ArrayDataset(images(4)))
    unfitted = HashModel(ModelConfig("pixels", 4, "random", SHAPE))
    with pytest.raises(RuntimeError, match="RandomProjection is not fitted"):
        unfitted.encode(images(2))
