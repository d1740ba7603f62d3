"""Hash models without training: what is fitted, on how many pictures, and each encoded once."""

import pytest
import torch
from PIL import Image

import hashfast
from hashfast.data import ArrayDataset, FileDataset, UnreadableImage, load
from hashfast.hashing import ITQ, HashModel, ModelConfig, RandomProjection
from hashfast.hashing.fit import fit_and_encode

SHAPE = (1, 8, 8)


def digits(n):
    return load("digits").train.subset(range(n))


def model(bits=8, shape=SHAPE, backbone="pixels"):
    return HashModel(ModelConfig(backbone, bits, "random", shape)).eval()


def features(dataset, bits=8):
    with torch.inference_mode():
        return model(bits).features(dataset.images)


@pytest.mark.parametrize(
    ("n", "bits", "head"),
    [(16, 8, "itq"), (15, 8, "random"), (500, 64, "itq"), (500, 65, "random"), (1, 8, "random")],
)
def test_itq_from_two_pictures_a_bit_and_a_feature_a_bit(n, bits, head):
    fitted = model(bits)
    encoded, pictures = fit_and_encode(fitted, digits(n))
    assert fitted.config.head == head
    assert pictures == n
    assert torch.equal(encoded.codes, hashfast.pack(encoded.outputs))
    assert torch.equal(encoded.codes, fitted.encode(digits(n).images))
    assert encoded.labels.tolist() == digits(n).labels.tolist()


def test_itq_is_that_of_the_features():
    encoded, _ = fit_and_encode(model(), digits(100), "itq")
    expected = ITQ(8).fit(features(digits(100)))(features(digits(100)))
    torch.testing.assert_close(encoded.outputs, expected, rtol=1e-4, atol=1e-4)


def test_a_random_projection_of_few_pictures_is_centred_near_zero():
    values = features(digits(5))
    encoded, _ = fit_and_encode(model(), digits(5), "random")
    directions = RandomProjection(8).fit(values).matrix
    expected = (values - values.sum(0) / (5 + 16)) @ directions
    torch.testing.assert_close(encoded.outputs, expected, rtol=1e-4, atol=1e-4)


def test_a_picture_and_its_copy_alone_have_near_codes():
    """Centred on their mean, the two would be opposite."""
    picture = load("digits", image_size=32).train.batch([0])[0]
    copy = (picture.int() + 3).clamp(0, 255).to(torch.uint8)
    dataset = ArrayDataset(torch.cat([picture, copy]))
    codes = fit_and_encode(model(64, (1, 32, 32)), dataset)[0].codes.numpy()
    assert hashfast.search(codes[:1], codes[1:], 1)[0][0, 0] <= 4


def test_every_picture_goes_through_the_network_once():
    fitted, seen = model(), []
    fitted.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    dataset = digits(90)
    encoded, pictures = fit_and_encode(fitted, dataset, sample=40, batch_size=7)
    assert pictures == 40
    assert sum(map(len, seen)) == 90
    assert len(torch.cat(seen).unique(dim=0)) == len(dataset.images.unique(dim=0))
    assert encoded.indices.tolist() == list(range(90))
    assert encoded.labels.tolist() == dataset.labels.tolist()
    assert torch.equal(encoded.codes, fitted.encode(dataset.images))


def test_the_sample_and_the_fit_are_those_of_the_seed():
    def fit(seed):
        fitted = model()
        encoded, _ = fit_and_encode(fitted, digits(90), sample=50, seed=seed)
        return fitted.fingerprint(), encoded.codes

    torch.manual_seed(1)
    fingerprint, codes = fit(3)
    torch.manual_seed(2)
    again = fit(3)
    assert again[0] == fingerprint
    assert torch.equal(again[1], codes)
    assert fit(4)[0] != fingerprint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("head", ["itq", "random"])
def test_fitting_on_the_gpu(head):
    fitted = model().to("cuda")
    encoded, _ = fit_and_encode(fitted, digits(90), head, sample=50)
    expected, _ = fit_and_encode(model(), digits(90), head, sample=50)
    assert fitted.head.matrix.is_cuda
    torch.testing.assert_close(encoded.outputs, expected.outputs, rtol=1e-3, atol=1e-3)


@pytest.fixture
def folder(tmp_path):
    """Sixty digits as files; every tenth is empty."""
    images = digits(60).images
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number}.png")
    for number in range(0, 60, 10):
        (tmp_path / f"{number}.png").write_bytes(b"")
    files = [f"{number}.png" for number in range(60)]
    return FileDataset(files, torch.arange(60), root=tmp_path, image_size=8, channels=1)


@pytest.mark.parametrize("sample", [25, 1000])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_left_out_and_listed(folder, sample, workers):
    fitted = model(4)
    encoded, pictures = fit_and_encode(fitted, folder, sample=sample, workers=workers)
    readable = [row for row in range(60) if row % 10]
    assert encoded.indices.tolist() == encoded.labels.tolist() == readable
    assert [row for row, _ in encoded.unreadable] == list(range(0, 60, 10))
    assert all(f"{row}.png" in reason for row, reason in encoded.unreadable)
    assert pictures <= min(sample, 54)
    assert torch.equal(encoded.codes, fitted.encode([folder.path(row) for row in readable]))
    with pytest.raises(UnreadableImage, match=r"\d0?\.png: the file is empty"):
        fit_and_encode(model(4), folder, sample=sample, strict=True)


def test_only_readable_pictures_count(folder):
    fitted = model(28)  # 54 readable of 60; ITQ from 56 on
    fit_and_encode(fitted, folder)
    assert fitted.config.head == "random"


def test_what_cannot_be_fitted(folder):
    with pytest.raises(UnreadableImage, match=r"none of the 2 pictures is readable; the first: .*"):
        fit_and_encode(model(), folder.subset([0, 10]))
    with pytest.raises(UnreadableImage, match="none of the 0 pictures is readable"):
        fit_and_encode(model(), folder.subset([]))
    with pytest.raises(ValueError, match=r"ITQ of 8 bits got 5 rows.* head random"):
        fit_and_encode(model(), digits(5), "itq")
    with pytest.raises(TypeError, match="head 'bn' is trained, not fitted"):
        fit_and_encode(model(), digits(5), "bn")
    with pytest.raises(ValueError, match="images are 1x8x8 and the model takes 3x16x16"):
        fit_and_encode(model(shape=(3, 16, 16)), digits(5))
